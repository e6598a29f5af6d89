"""Amounts of bytes as people write them."""

from __future__ import annotations

import re

from gloveport.errors import InvalidRequest

__all__ = ["parse_size"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_LARGEST_SIZE = 2**62
_SHOWN = 40
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_size(text: str) -> int:
    """Bytes: `512m`, `2G`, `1.5GiB`, `4096`; the units are powers of 1024. Raises `InvalidRequest`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest(f"not a size: {text!r}", hint="write bytes, or a number with k, m, g or t: 512m")
    size = float(found[1]) * _UNITS[found[2].lower()]
    if size > _LARGEST_SIZE:
        raise InvalidRequest(f"too large a size: {text[:_SHOWN]}", hint=f"at most {_LARGEST_SIZE} bytes")
    return int(size)
