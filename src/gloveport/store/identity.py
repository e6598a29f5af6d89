"""Whom files belong to; and making them as somebody else, where root itself is nobody and has none to give away."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["FIRST_UID", "LAYER_OWNER", "acting_as"]

FIRST_UID = 1_879_048_192
"""Root's sandboxes run as a uid of their own from here on: above every range that systemd, containers and
directory services hand out, below 2^31."""
LAYER_OWNER = (FIRST_UID, FIRST_UID)
"""Whom root's snapshots belong to: no sandbox's user, and not root, whose set-user-ID bits they could hold."""


@contextmanager
def acting_as(owner: tuple[int, int] | None) -> Iterator[None]:
    """Make files as this uid and gid, for this thread and this scope; `None` as oneself. Only root can.

    A file system that a guest's user namespace has mounted knows no root of the host, and so refuses what it makes.
    """
    if owner is None:
        yield
        return
    libc = _libc()
    mine = os.geteuid(), os.getegid()
    libc.setfsgid(owner[1])
    libc.setfsuid(owner[0])
    try:
        yield
    finally:
        libc.setfsuid(mine[0])
        libc.setfsgid(mine[1])


@functools.cache  # to find it takes longer than to call it
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
