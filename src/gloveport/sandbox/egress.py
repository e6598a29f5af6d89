"""One sandbox's way out: its policy as the proxy's judge, its trail as the proxy's ear."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Sequence
from dataclasses import fields, replace

import anyio

from gloveport.egress import (
    Answer,
    Destination,
    EgressRecord,
    Gate,
    Inspection,
    Judge,
    OddHost,
    Resolver,
    serve_egress,
)
from gloveport.errors import GloveportError, InvalidRequest
from gloveport.model import Decision, EventKind, Grant, Policy, Verdict
from gloveport.policy.egress.hosts import Address, Host, canonical_host
from gloveport.policy.egress.index import EgressIndex
from gloveport.policy.egress.rules import EgressRequest, decide_addresses, decide_egress, is_private
from gloveport.sandbox.approvals import Window
from gloveport.store import Trail

__all__ = ["make_gate", "serve_way_out"]

_log = logging.getLogger(__name__)


def make_gate(sandbox: str, policy: Policy, trail: Trail, window: Window, inspection: Inspection) -> Gate:
    """What decides about, and records, every connection of one sandbox; at `window` those wait that need a person."""
    index = EgressIndex(policy)

    async def before(destination: Destination) -> Answer:
        request = _request(destination)
        about = index.about(request.host)
        decision = decide_egress(about, request)
        if decision.verdict is Verdict.ASK and request.host.address is not None:
            named = decide_addresses(about, request, [request.host.address], _own_addresses())
            if named.verdict is Verdict.DENY:
                return _answer(named)  # nobody is asked about what no answer allows
        decision, grant = await window.admit(decision, request)
        own = _own_addresses() if request.host.address is not None else ()
        return replace(_answer(decision, grant), is_private=is_private(about, request, own))

    def after(destination: Destination, addresses: Sequence[Address]) -> Answer:
        request = _request(destination)
        about = index.about(request.host, *(Host(str(address), address) for address in addresses))
        decision = decide_addresses(about, request, addresses, _own_addresses())
        # Where the policy asks, the name was granted before: here only its addresses can still be denied.
        allowed = decision.verdict is not Verdict.DENY
        return Answer(allowed=allowed, rule=decision.rule, reason=decision.reason)

    def tell(record: EgressRecord) -> None:
        window.ended(record.grant)
        trail.append(EventKind.EGRESS, {field.name: getattr(record, field.name) for field in fields(record)})

    gate = Gate(
        sandbox=sandbox,
        judge=Judge(before=before, after=after),
        canonical=_canonical,
        resolve=Resolver(),
        tell=tell,
        inspection=inspection,
    )
    window.end_connections = gate.take_back
    return gate


async def serve_way_out(listener: socket.socket, gate: Gate) -> None:
    """Serve until cancelled. A failure closes this way out, and no other."""
    try:
        await serve_egress(listener, gate)
    except Exception as error:  # noqa: BLE001 - nothing falls open: the listener has nobody behind it any more
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, GloveportError | anyio.ClosedResourceError):
            _log.exception("the way out of sandbox %s failed", gate.sandbox)
    finally:
        listener.close()


def _request(destination: Destination) -> EgressRequest:
    return EgressRequest(
        host=canonical_host(destination.host),
        port=destination.port,
        method=destination.method,
        path=destination.path,
    )


def _answer(decision: Decision, grant: Grant | None = None) -> Answer:
    return Answer(
        allowed=decision.verdict is Verdict.ALLOW,
        rule=decision.rule,
        reason=decision.reason,
        grant=grant.id if grant is not None else "",
    )


def _canonical(text: str) -> str:
    try:
        return canonical_host(text).name
    except InvalidRequest as error:
        raise OddHost(error.message) from error


def _own_addresses() -> list[Address]:
    """Those that this host would send from, besides loopback: looked up anew, because they change."""
    found: list[Address] = []
    for family, anywhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as unsent:
            try:
                unsent.connect((anywhere, 9))
                found.append(ipaddress.ip_address(str(unsent.getsockname()[0]).partition("%")[0]))
            except OSError:
                continue
    return found
