"""Backends: one module a technology, all behind `backends.base.Backend`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import cast

from gloveport.backends.base import Backend, BackendBase, ChangeSet, Process
from gloveport.errors import InvalidRequest

__all__ = ["BACKENDS", "Backend", "BackendBase", "ChangeSet", "Process", "make_backend"]

BACKENDS: Mapping[str, str] = {
    "bubblewrap": "gloveport.backends.bubblewrap:BubblewrapBackend",
}
"""Name → where its class is, imported when it is first used. To add a backend: a line here, and `gloveport.testing`."""


def make_backend(name: str, state: Path) -> AbstractAsyncContextManager[Backend]:
    """The backend called `name`, not yet entered. `InvalidRequest` for an unknown name."""
    where = BACKENDS.get(name)
    if where is None:
        raise InvalidRequest(f"no backend {name!r}", hint=f"one of: {', '.join(sorted(BACKENDS))}")
    module, _, attribute = where.partition(":")
    made = getattr(importlib.import_module(module), attribute)(state)
    return cast("AbstractAsyncContextManager[Backend]", made)
