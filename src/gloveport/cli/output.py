"""What commands print: JSON, tables, and bytes of the guest that a terminal must not obey."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from gloveport.errors import GloveportError

__all__ = ["local_time", "note", "print_error", "print_json", "print_table", "visible", "write_all", "write_document"]

STDOUT = 1
_CONTROLS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")


def print_json(value: Any) -> None:
    """One line of JSON on stdout."""
    sys.stdout.write(json.dumps(value) + "\n")


def print_error(error: GloveportError, *, as_json: bool) -> int:
    """What happened and what to do next: words on stderr, or JSON on stdout. The exit status."""
    if as_json:
        sys.stdout.write(json.dumps({"error": error.body()}, default=str) + "\n")
    else:
        sys.stderr.write(f"error: {error.message}\n  next: {error.hint}\n")
    return error.status.exit


def print_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Left-aligned columns under a heading, on stdout."""
    lines = [heading, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def note(text: str) -> None:
    """A remark for a person, on stderr."""
    sys.stderr.write(f"gloveport: {text}\n")


def local_time(seconds: float) -> str:
    """A time since the epoch as a person reads it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def visible(data: bytes) -> bytes:
    """`data` with control characters spelt out, so that a guest cannot steer the terminal."""
    return _CONTROLS.sub(lambda found: b"".join(b"\\x%02x" % byte for byte in found[0]), data)


def write_document(data: bytes) -> None:
    """Bytes that a guest made, to stdout: exactly, or spelt out for a terminal."""
    sys.stdout.flush()
    write_all(STDOUT, visible(data) if os.isatty(STDOUT) else data)


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything, also where the descriptor is non-blocking because its other users made it so."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
