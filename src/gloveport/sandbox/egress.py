"""One sandbox's way out: its policy as the proxy's judge, its trail as the proxy's ear."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Sequence
from dataclasses import asdict

import anyio

from gloveport.egress import Answer, Destination, EgressRecord, Gate, Judge, OddHost, resolve, serve_egress
from gloveport.errors import GloveportError, InvalidRequest
from gloveport.model import Decision, EventKind, Policy, Verdict
from gloveport.policy.egress import EgressRequest, decide_addresses, decide_egress
from gloveport.policy.hosts import Address, canonical_host
from gloveport.store import Trail

__all__ = ["make_gate", "serve_way_out"]

_log = logging.getLogger(__name__)


def make_gate(sandbox: str, policy: Policy, trail: Trail) -> Gate:
    """What decides about, and records, every connection of one sandbox."""

    async def before(destination: Destination) -> Answer:
        return _answer(decide_egress(policy, _request(destination)))

    def after(destination: Destination, addresses: Sequence[Address]) -> Answer:
        return _answer(decide_addresses(policy, _request(destination), addresses, _own_addresses()))

    def tell(record: EgressRecord) -> None:
        trail.append(EventKind.EGRESS, asdict(record))

    return Gate(
        sandbox=sandbox,
        judge=Judge(before=before, after=after),
        canonical=_canonical,
        resolve=resolve,
        tell=tell,
    )


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


def _answer(decision: Decision) -> Answer:
    asked = " (nobody can be asked yet)" if decision.verdict is Verdict.ASK else ""
    return Answer(allowed=decision.verdict is Verdict.ALLOW, rule=decision.rule, reason=decision.reason + asked)


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
