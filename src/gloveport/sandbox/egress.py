"""One sandbox's way out: its policy as the proxy's judge, its trail as the proxy's ear."""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from functools import lru_cache

import anyio

from gloveport.egress import (
    Answer,
    Destination,
    EgressRecord,
    EgressTape,
    Gate,
    Inspection,
    Judge,
    OddHost,
    Resolver,
    TapeOfEgress,
    serve_egress,
)
from gloveport.errors import GloveportError, InvalidRequest
from gloveport.model import Decision, EventKind, Grant, Policy, Verdict
from gloveport.policy.egress.hosts import Address, Host, canonical_host
from gloveport.policy.egress.index import EgressIndex
from gloveport.policy.egress.rules import EgressRequest, decide_addresses, decide_egress, is_private
from gloveport.sandbox.approvals import Window
from gloveport.store import Trail

__all__ = ["MakeGate", "make_gate", "playing", "serve_way_out", "taping"]

MakeGate = Callable[[str, Policy, Trail, Window, Inspection], Gate]
"""What decides about, and records, every connection of one sandbox."""

OWN_SECONDS = 1.0
"""How old what is known of this host's own addresses may be."""
_REMEMBERED = 64
"""Hosts of one sandbox: what the last ones are, and which rules speak of them, need not be found out again."""
_FACTS = tuple(field.name for field in fields(EgressRecord))

_log = logging.getLogger(__name__)


def make_gate(sandbox: str, policy: Policy, trail: Trail, window: Window, inspection: Inspection) -> Gate:
    """What decides about, and records, every connection of one sandbox; at `window` those wait that need a person."""
    host_of = lru_cache(_REMEMBERED)(canonical_host)
    rules_about = lru_cache(_REMEMBERED)(EgressIndex(policy).about)
    own_addresses = _OwnAddresses()

    def canonical(text: str) -> str:
        try:
            return host_of(text).name
        except InvalidRequest as error:
            raise OddHost(error.message) from error

    def request_of(destination: Destination) -> EgressRequest:
        host = host_of(destination.host)
        return EgressRequest(host=host, port=destination.port, method=destination.method, path=destination.path)

    async def before(destination: Destination) -> Answer:
        request = request_of(destination)
        address = request.host.address
        about = rules_about(request.host)
        decision, grant = decide_egress(about, request), None
        if decision.verdict is Verdict.ASK:
            if address is not None:
                named = decide_addresses(about, request, [address], own_addresses())
                if named.verdict is Verdict.DENY:
                    return _answer(named)  # nobody is asked about what no answer allows
            decision, grant = await window.admit(decision, request)
        own = own_addresses() if address is not None else ()
        return _answer(decision, grant, is_private=is_private(about, request, own))

    def after(destination: Destination, addresses: Sequence[Address]) -> Answer:
        request = request_of(destination)
        others = (Host(str(address), address) for address in addresses if address != request.host.address)
        about = rules_about(request.host, *others)
        decision = decide_addresses(about, request, addresses, own_addresses())
        # Where the policy asks, the name was granted before: here only its addresses can still be denied.
        allowed = decision.verdict is not Verdict.DENY
        return Answer(allowed=allowed, rule=decision.rule, reason=decision.reason)

    def tell(record: EgressRecord) -> None:
        window.ended(record.grant)
        trail.append(EventKind.EGRESS, {name: getattr(record, name) for name in _FACTS})

    gate = Gate(
        sandbox=sandbox,
        judge=Judge(before=before, after=after),
        canonical=canonical,
        resolve=Resolver(),
        tell=tell,
        inspection=inspection,
    )
    window.end_connections = gate.take_back
    return gate


def taping(tape: EgressTape) -> MakeGate:
    """Makes gates whose answers are kept."""

    def make(sandbox: str, policy: Policy, trail: Trail, window: Window, inspection: Inspection) -> Gate:
        gate = make_gate(sandbox, policy, trail, window, inspection)
        gate.tape = tape
        return gate

    return make


def playing(tape: TapeOfEgress) -> MakeGate:
    """Makes gates behind which nothing is but a tape, each from its beginning."""

    def make(sandbox: str, policy: Policy, trail: Trail, window: Window, inspection: Inspection) -> Gate:
        gate = make_gate(sandbox, policy, trail, window, inspection)
        gate.player = tape.player()
        return gate

    return make


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


def _answer(decision: Decision, grant: Grant | None = None, *, is_private: bool = False) -> Answer:
    return Answer(
        allowed=decision.verdict is Verdict.ALLOW,
        rule=decision.rule,
        reason=decision.reason,
        grant=grant.id if grant is not None else "",
        is_private=is_private,
    )


class _OwnAddresses:
    """Those that this host would send from, besides loopback.

    They change, but rarely, and looking them up takes four system calls a family: what was found counts for
    `OWN_SECONDS`. An address that this host has just been given is judged as its own that much later at most.
    """

    def __init__(self) -> None:
        self._found: Collection[Address] = ()
        self._until = 0.0

    def __call__(self) -> Collection[Address]:
        now = time.monotonic()
        if now >= self._until:
            self._found, self._until = _look_up_own(), now + OWN_SECONDS
        return self._found


def _look_up_own() -> list[Address]:
    found: list[Address] = []
    for family, anywhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as unsent:
            try:
                unsent.connect((anywhere, 9))
                found.append(ipaddress.ip_address(str(unsent.getsockname()[0]).partition("%")[0]))
            except OSError:
                continue
    return found
