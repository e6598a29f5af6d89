"""Access control lists, which name users by number: what says "the owner" on one host says it on another, too."""

from __future__ import annotations

import struct

__all__ = ["GUEST", "renumbered"]

GUEST = (1000, 1000)
"""The owner of a guest's files, as the guest sees him: in whatever is compared, or leaves this host."""
_HEAD = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_USER, _GROUP = 0x02, 0x08  # an entry for one user, or one group, by its number


def renumbered(acl: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """The list with the new owner's uid and gid where it names the old one's."""
    numbers = {_USER: (old[0], new[0]), _GROUP: (old[1], new[1])}
    entries = bytearray(acl)
    for at in range(_HEAD.size, len(acl) - _ENTRY.size + 1, _ENTRY.size):
        tag, allowed, number = _ENTRY.unpack_from(acl, at)
        if tag in numbers and number == numbers[tag][0]:
            _ENTRY.pack_into(entries, at, tag, allowed, numbers[tag][1])
    return bytes(entries)
