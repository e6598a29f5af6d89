"""What every connection of one sandbox passes: decided, dialled, counted, recorded."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import h11

from gloveport.egress.client import Client, ClientGone, send_all
from gloveport.egress.connect import Unreachable
from gloveport.egress.dial import Refused, decide_again, decide_name, dial
from gloveport.egress.http_parts import Asked
from gloveport.egress.inspection import Inspection
from gloveport.egress.parent import ParentProxy
from gloveport.egress.ready import Late
from gloveport.egress.record import Budget, Destination, EgressRecord, Judge, Resolve
from gloveport.egress.relay import Idle, OverBudget, join
from gloveport.egress.tape import EgressPlayer, EgressTape

__all__ = ["Canonical", "Gate", "OddHost"]


class OddHost(Exception):
    """A host that is not written the one way that everybody reads alike; the text says why."""


Canonical = Callable[[str], str]
"""A host as a client wrote it → its one canonical form. Raises `OddHost`."""


@dataclass(slots=True, kw_only=True)
class Gate:
    """The way out of one sandbox."""

    sandbox: str
    judge: Judge
    canonical: Canonical
    resolve: Resolve
    tell: Callable[[EgressRecord], None]
    """Hears of every decision when what it led to has ended."""
    budget: Budget = field(default_factory=Budget)
    inspection: Inspection = field(default_factory=Inspection)
    """What is looked into, and the secrets that are put in."""
    parent: ParentProxy | None = None
    """What everything but private destinations goes through; without one this host dials itself."""
    tape: EgressTape | None = None
    """Where answers are kept."""
    player: EgressPlayer | None = None
    """Answers in every server's place: nothing is dialled, and no name resolved."""
    spent: int = 0
    """Bytes, of all connections, both ways."""
    _open: dict[int, tuple[EgressRecord, anyio.CancelScope]] = field(default_factory=dict, init=False)

    @contextmanager
    def recorded(self, client: Client) -> Iterator[EgressRecord]:
        """A record that is told at the end, whatever happens. What the policy or the network ends, ends here."""
        began = time.monotonic()
        record = EgressRecord(sandbox=self.sandbox, started_at=time.time())
        self._open[id(record)] = record, client.scope
        try:
            yield record
        except (Refused, Unreachable, OddHost, h11.ProtocolError) as error:
            record.error = str(error)
        except (ClientGone, OSError) as error:
            record.error = str(error)
            raise
        except Idle:
            record.error = f"idle for {self.budget.idle_seconds:g} s"
        except OverBudget:
            record.error = f"more than {self.budget.total_bytes} bytes in all"
        finally:
            del self._open[id(record)]
            record.duration = round(time.monotonic() - began, 6)
            self.tell(record)

    def take_back(self, grant: str) -> int:
        """End every connection that a grant, by its id, let through; how many."""
        found = [(record, scope) for record, scope in self._open.values() if record.grant == grant]
        for record, scope in found:
            record.error = "what allowed it was taken back"
            scope.cancel()
        return len(found)

    @contextmanager
    def patience(self, client: Client) -> Iterator[None]:
        """The time that a client has to say what it wants. Raises `ClientGone`."""
        client.until = time.monotonic() + self.budget.header_seconds
        try:
            yield
        except Late:
            raise ClientGone(f"said nothing whole within {self.budget.header_seconds:g} s") from None
        finally:
            client.until = math.inf

    def screen(self, asked: Asked, destination: Destination, record: EgressRecord) -> None:
        """Raise `Refused`, and an alarm in the record, for a placeholder that is not where its secret goes.

        Also, without an alarm, for what cannot be signed.
        """
        private = destination.protocol == "https"
        stray = self.inspection.injector.stray(destination.host, asked.path, asked.headers, is_private=private)
        if stray is not None:
            record.method, record.path = destination.method, destination.path
            record.rule, record.reason, record.alarm = stray.rule, stray.reason, stray.name
            raise Refused

    def is_same(self, written: str, host: str) -> bool:
        """Whether a host as a client wrote it is the canonical `host`."""
        try:
            return self.canonical(written) == host
        except OddHost:
            return False

    async def connect(self, destination: Destination, record: EgressRecord) -> socket.socket:
        """Decide and dial. Raises `Refused` or `Unreachable`."""
        if self.player is not None:
            await self.allow(destination, record)
            raise Unreachable("nothing is dialled in a replay, and what passes in a tunnel is on no tape")
        seconds = self.budget.dial_seconds
        return await dial(
            destination, record, judge=self.judge, resolve=self.resolve, seconds=seconds, parent=self.parent
        )

    async def allow(self, destination: Destination, record: EgressRecord) -> None:
        """Decide by the name alone, where nothing is dialled. Raises `Refused`."""
        await decide_name(destination, record, judge=self.judge)

    async def confirm(self, destination: Destination, record: EgressRecord, way: tuple[str, str]) -> None:
        """Decide about one more request on a connection that is there, to the address and through the parent of `way`.

        Raises `Refused`.
        """
        await decide_again(destination, record, judge=self.judge, way=way)

    async def join(self, client: Client, peer: socket.socket, record: EgressRecord) -> None:
        """A tunnel, to its end."""

        def count(sent: int, received: int) -> None:
            self.count(record, sent=sent, received=received)

        ahead = client.take()
        count(len(ahead), 0)
        await send_all(peer, ahead, self.budget.idle_seconds)
        await join(client.socket, peer, idle_seconds=self.budget.idle_seconds, count=count)

    def count(self, record: EgressRecord, *, sent: int = 0, received: int = 0) -> None:
        """Add bytes to a connection and to the sandbox. Raises `OverBudget`."""
        record.sent += sent
        record.received += received
        self.spent += sent + received
        if self.spent > self.budget.total_bytes:
            raise OverBudget
