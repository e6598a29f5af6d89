"""Whom files belong to; and making them as somebody else, where root itself is nobody and has none to give away."""

from __future__ import annotations

import ctypes
import functools
import os

__all__ = ["FIRST_UID", "LAYER_OWNER", "acting_as"]

FIRST_UID = 1_879_048_192
"""Root's sandboxes run as a uid of their own from here on: above every range that systemd, containers and
directory services hand out, below 2^31."""
LAYER_OWNER = (FIRST_UID, FIRST_UID)
"""Whom root's snapshots belong to: no sandbox's user, and not root, whose set-user-ID bits they could hold."""


class acting_as:  # noqa: N801 - it is used like a function, and is a class because snapshots enter it often
    """Make files as this uid and gid, for this thread and this scope; `None` as oneself. Only root can.

    A file system that a guest's user namespace has mounted knows no root of the host, and so refuses what it makes.
    """

    __slots__ = ("_owner",)

    def __init__(self, owner: tuple[int, int] | None) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        if self._owner is not None:
            _become(*self._owner)

    def __exit__(self, *_: object) -> None:
        if self._owner is not None:
            _become(os.geteuid(), os.getegid())


def _become(uid: int, gid: int) -> None:
    libc = _libc()
    libc.setfsgid(gid)
    libc.setfsuid(uid)


@functools.cache  # to find it takes longer than to call it
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
