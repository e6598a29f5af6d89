"""Where failures stop: one call, or one piece of a runner's work, that fails must not end everybody's sandboxes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

__all__ = ["contain"]

_log = logging.getLogger(__name__)


async def contain(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`; log its failure, with where it happened, and go on. Cancellation passes."""
    try:
        await work()
    except Exception:  # noqa: BLE001 - this is the place for whatever nobody foresaw
        _log.exception("%s failed", what)
