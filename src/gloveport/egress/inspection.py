"""What the proxy looks into, and what it needs for that."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gloveport.egress.inject import Injector

if TYPE_CHECKING:
    from gloveport.egress.authority import Authority

__all__ = ["Inspection", "Termination"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Termination:
    """How TLS is terminated on one side and made again on the other."""

    authority: Authority
    upstream: ssl.SSLContext
    """Verifies servers; speaks HTTP/1.1 only."""
    applies: Callable[[str, int], bool]
    """Whether a canonical host's port is looked into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Of one sandbox. Without termination every tunnel stays closed to the proxy."""

    injector: Injector = field(default_factory=Injector)
    termination: Termination | None = None

    def of(self, host: str, port: int) -> Termination | None:
        """What terminates TLS to this destination; `None` for a tunnel."""
        found = self.termination
        return found if found is not None and found.applies(host, port) else None
