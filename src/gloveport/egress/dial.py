"""From a decided destination to a connected socket: resolved once, judged whole, dialled as judged."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence

import anyio

from gloveport.egress.record import Address, Destination, EgressRecord, Judge, Resolve

__all__ = ["Refused", "Unreachable", "decide_again", "dial", "resolve"]


class Refused(Exception):
    """The policy says no; the record says why."""


class Unreachable(Exception):
    """Allowed, but nobody answers there."""


async def dial(
    destination: Destination, record: EgressRecord, *, judge: Judge, resolve: Resolve, seconds: float
) -> socket.socket:
    """A non-blocking socket to `destination`. Raises `Refused` or `Unreachable`, and fills the record.

    A refused name is never resolved. Every address of an allowed one is judged, and only those are dialled.
    """
    _note(destination, record)
    answer = await judge.before(destination)
    record.grant = answer.grant
    if answer.allowed:
        addresses = await _addresses(destination.host, resolve, seconds)
        answer = judge.after(destination, addresses)
    record.allowed, record.rule, record.reason = answer.allowed, answer.rule, answer.reason
    if not answer.allowed:
        raise Refused
    return await _connect(addresses, destination.port, record, seconds)


async def decide_again(destination: Destination, record: EgressRecord, *, judge: Judge, address: str) -> None:
    """Decide about a request to a server that is connected already. Raises `Refused`."""
    _note(destination, record)
    answer = await judge.before(destination)
    record.grant = answer.grant
    if answer.allowed:
        answer = judge.after(destination, [ipaddress.ip_address(address)])
    record.allowed, record.rule, record.reason, record.address = answer.allowed, answer.rule, answer.reason, address
    if not answer.allowed:
        raise Refused


async def resolve(name: str) -> Sequence[Address]:
    """By this host's resolver. Raises `OSError` when it has no addresses."""
    found = await anyio.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found))


def _note(destination: Destination, record: EgressRecord) -> None:
    record.protocol, record.host, record.port = destination.protocol, destination.host, destination.port
    record.method, record.path = destination.method, destination.path


async def _addresses(host: str, resolve: Resolve, seconds: float) -> Sequence[Address]:
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        with anyio.fail_after(seconds):
            return await resolve(host)
    except TimeoutError:
        raise Unreachable(f"the name {host} was not resolved within {seconds:g} s") from None
    except OSError as error:
        raise Unreachable(f"the name {host} cannot be resolved: {error.strerror or error}") from error


async def _connect(addresses: Sequence[Address], port: int, record: EgressRecord, seconds: float) -> socket.socket:
    trouble = "no address"
    with anyio.move_on_after(seconds):
        for address in addresses:
            try:
                connected = await _try(address, port)
            except OSError as error:
                trouble = error.strerror or str(error)
                continue
            record.address = str(address)
            return connected
        raise Unreachable(f"{record.host}:{port}: {trouble}")
    raise Unreachable(f"{record.host}:{port} did not answer within {seconds:g} s")


async def _try(address: Address, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connecting = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connecting.connect((str(address), port))
        except BlockingIOError:
            await anyio.wait_writable(connecting)
            number = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number)) from None
    except BaseException:
        connecting.close()
        raise
    return connecting
