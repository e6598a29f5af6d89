"""From a decided destination to a connected socket: resolved once, judged whole, dialled as judged."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Sequence

import anyio

from gloveport.egress.connect import Unreachable, connect
from gloveport.egress.parent import ParentProxy
from gloveport.egress.ready import Late
from gloveport.egress.record import Address, Destination, EgressRecord, Judge, Resolve

__all__ = ["Refused", "decide_again", "decide_name", "dial"]


class Refused(Exception):
    """The policy says no; the record says why."""


async def dial(
    destination: Destination,
    record: EgressRecord,
    *,
    judge: Judge,
    resolve: Resolve,
    seconds: float,
    parent: ParentProxy | None = None,
) -> socket.socket:
    """A non-blocking socket to `destination`. Raises `Refused` or `Unreachable`, and fills the record.

    A refused name is never resolved. Every address of an allowed one is judged, and only those are dialled. Through
    a parent proxy a name goes as a name: the parent resolves it, and its addresses cannot be judged here.
    """
    _note(destination, record)
    answer = await judge.before(destination)
    record.grant = answer.grant
    through = None if answer.is_private else parent
    addresses: Sequence[Address] = ()
    if answer.allowed and (through is None or _as_address(destination.host) is not None):
        addresses = await _addresses(destination.host, resolve, seconds)
        answer = judge.after(destination, addresses)
    record.allowed, record.rule, record.reason = answer.allowed, answer.rule, answer.reason
    if not answer.allowed:
        raise Refused
    if through is None:
        return await _connect(addresses, destination.port, record, seconds)
    record.parent = str(through)
    opened = await through.open(destination.host, destination.port, resolve=resolve, seconds=seconds)
    record.address = "".join(str(address) for address in addresses)
    return opened


async def decide_again(destination: Destination, record: EgressRecord, *, judge: Judge, way: tuple[str, str]) -> None:
    """Decide about a request on a connection that is there. Raises `Refused`.

    `way` is its address, empty where a parent proxy resolved the name, and that parent.
    """
    _note(destination, record)
    answer = await judge.before(destination)
    record.grant = answer.grant
    record.address, record.parent = way
    if answer.allowed and record.address:
        answer = judge.after(destination, [ipaddress.ip_address(record.address)])
    record.allowed, record.rule, record.reason = answer.allowed, answer.rule, answer.reason
    if not answer.allowed:
        raise Refused


async def decide_name(destination: Destination, record: EgressRecord, *, judge: Judge) -> None:
    """Decide where nothing will be dialled. Raises `Refused`."""
    _note(destination, record)
    answer = await judge.before(destination)
    record.grant = answer.grant
    record.allowed, record.rule, record.reason = answer.allowed, answer.rule, answer.reason
    if not answer.allowed:
        raise Refused


def _note(destination: Destination, record: EgressRecord) -> None:
    record.protocol, record.host, record.port = destination.protocol, destination.host, destination.port
    record.method, record.path = destination.method, destination.path


async def _addresses(host: str, resolve: Resolve, seconds: float) -> Sequence[Address]:
    address = _as_address(host)
    if address is not None:
        return [address]
    try:
        with anyio.fail_after(seconds):
            return await resolve(host)
    except TimeoutError:
        raise Unreachable(f"the name {host} was not resolved within {seconds:g} s") from None
    except OSError as error:
        raise Unreachable(f"the name {host} cannot be resolved: {error.strerror or error}") from error


async def _connect(addresses: Sequence[Address], port: int, record: EgressRecord, seconds: float) -> socket.socket:
    try:
        connected, address = await connect(addresses, port, time.monotonic() + seconds)
    except Late:
        raise Unreachable(f"{record.host}:{port} did not answer within {seconds:g} s") from None
    except OSError as error:
        raise Unreachable(f"{record.host}:{port}: {error.strerror or error}") from error
    record.address = str(address)
    return connected


def _as_address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
