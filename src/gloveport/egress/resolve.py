"""Names to addresses by this host's resolver, in threads that no other sandbox waits for."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import anyio.from_thread
import anyio.lowlevel

from gloveport.egress.record import Address

__all__ = ["AT_ONCE", "Resolver", "look_up"]

AT_ONCE = 4
"""Look-ups of one sandbox. Ordinary ones take milliseconds; those that hang take a thread each."""


def look_up(name: str) -> Sequence[Address]:
    """All addresses of a canonical name, as this host's programs would find them. Raises `OSError`."""
    found = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found))


@dataclass(slots=True, eq=False)
class _Question:
    """One look-up; what it found is there once it has ended."""

    name: str
    ended: anyio.Event = field(default_factory=anyio.Event)
    addresses: Sequence[Address] = ()
    trouble: Exception | None = None


class Resolver:
    """One sandbox's look-ups.

    Nothing interrupts the host's resolver while it waits for a server that never answers. Who asked may stop waiting;
    the look-up keeps its place until the resolver gives up. So a guest holds `at_once` threads at most, whatever it
    asks for, and the only names that wait for those are its own. The threads do not hold up the end of the process.
    """

    def __init__(self, at_once: int = AT_ONCE, look_up: Callable[[str], Sequence[Address]] = look_up) -> None:
        self._places = anyio.Semaphore(at_once)
        self._look_up = look_up

    async def __call__(self, name: str) -> Sequence[Address]:
        """The addresses of `name`. Raises `OSError` when it has none."""
        question = _Question(name)
        await self._places.acquire()
        try:
            token = anyio.lowlevel.current_token()
            threading.Thread(target=self._ask, args=(question, token), name="resolver", daemon=True).start()
        except RuntimeError as error:
            self._places.release()
            raise OSError("this host has no thread left to look it up") from error
        await question.ended.wait()
        if question.trouble is not None:
            raise OSError(str(question.trouble)) from question.trouble
        return question.addresses

    def _ask(self, question: _Question, token: anyio.lowlevel.EventLoopToken) -> None:
        try:
            question.addresses = self._look_up(question.name)
        except (OSError, ValueError) as error:
            question.trouble = error
        finally:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                anyio.from_thread.run_sync(self._end, question, token=token)

    def _end(self, question: _Question) -> None:
        self._places.release()
        question.ended.set()
