"""The composition root of replays: sandboxes to replay in, and the agent itself at work again."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gloveport.compose_replay.fork import ForkPoint, fork_run
    from gloveport.compose_replay.session import session_replay

__all__ = ["ForkPoint", "fork_run", "session_replay"]

_HOMES = {"ForkPoint": "fork", "fork_run": "fork", "session_replay": "session"}


def __getattr__(name: str) -> Any:
    """What starts an agent, imported when it is first used (PEP 562): most replays have none, and its SDK is large."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"gloveport.compose_replay.{_HOMES[name]}"), name)
