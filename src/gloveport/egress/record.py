"""What is written down about one connection, and what the proxy asks of those who decide."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

__all__ = ["Answer", "Budget", "Destination", "EgressRecord", "Judge", "Resolve"]

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a guest wants to go: canonical already."""

    host: str
    """A name in lower case, or an address."""
    port: int
    protocol: str
    """`connect`, `http`, `https` (inside TLS that the proxy terminates) or `socks5`."""
    method: str | None = None
    """Of an HTTP request that the proxy sees."""
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether the proxy goes on, by which rule, and why."""

    allowed: bool
    rule: str
    reason: str = ""
    grant: str = ""
    """The id of the grant without which it would not be allowed: see `Gate.take_back`."""
    is_private: bool = False
    """Whether a rule names it as a private place, which this host dials itself, whatever parent proxy there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """The two questions of every connection."""

    before: Callable[[Destination], Awaitable[Answer]]
    """Before the name is resolved; may wait for a person."""
    after: Callable[[Destination, Sequence[Address]], Answer]
    """Of the addresses that it was resolved to, all of them."""


Resolve = Callable[[str], Awaitable[Sequence[Address]]]
"""A name's addresses. Raises `OSError` when there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Bounds on what one sandbox does with its way out."""

    connections: int = 256
    """At once."""
    header_bytes: int = 64 * 1024
    """Of one request's head."""
    header_seconds: float = 30.0
    """For a client to say what it wants."""
    dial_seconds: float = 30.0
    idle_seconds: float = 900.0
    """Without a byte in either direction."""
    total_bytes: int = 64 * 2**30
    """Both directions together, of all connections."""


@dataclass(slots=True, kw_only=True)
class EgressRecord:
    """One connection, from its acceptance to its end."""

    sandbox: str
    started_at: float
    """Seconds since 1970."""
    protocol: str = ""
    host: str = ""
    port: int = 0
    method: str | None = None
    path: str | None = None
    address: str = ""
    """The one that was dialled; empty when none was, or when a parent proxy resolved the name."""
    parent: str = ""
    """The parent proxy that it went through, `host:port`; empty when this host dialled itself."""
    allowed: bool = False
    rule: str = ""
    reason: str = ""
    grant: str = ""
    """The id of the grant that let it through; empty when the policy did."""
    sent: int = 0
    """Bytes from the guest."""
    received: int = 0
    """Bytes to the guest."""
    duration: float = 0.0
    """Seconds."""
    alarm: str = ""
    """The secret whose placeholder was where it has no business; empty when none was."""
    error: str = field(default="")
    """Why it ended, when not in the ordinary way."""
