"""What commands print: JSON, tables, remarks and errors; a terminal obeys nothing of what a guest put in them."""

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

__all__ = [
    "local_time",
    "note",
    "plain",
    "print_error",
    "print_json",
    "print_table",
    "visible",
    "write_all",
    "write_document",
]

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
        # Further lines are indented, so that no file name can pass for a line of ours.
        message, hint = (plain(text).replace("\n", "\n    ") for text in (error.message, error.hint))
        sys.stderr.write(f"error: {message}\n  next: {hint}\n")
    return error.status.exit


def print_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Left-aligned columns under a heading, on stdout."""
    lines = [[_one_line(cell) for cell in line] for line in (heading, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def note(text: str) -> None:
    """A remark for a person, one line on stderr."""
    sys.stderr.write(f"gloveport: {_one_line(text)}\n")


def local_time(seconds: float) -> str:
    """A time since the epoch as a person reads it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def visible(data: bytes) -> bytes:
    """`data` with control characters spelt out, so that a guest cannot steer the terminal."""
    return _CONTROLS.sub(lambda found: b"".join(b"\\x%02x" % byte for byte in found[0]), data)


def plain(text: str) -> str:
    """`text` of a guest or a model as `visible` shows it."""
    return visible(text.encode("utf-8", "replace")).decode("utf-8", "replace")


def _one_line(text: str) -> str:
    return plain(text).replace("\n", "\\x0a")


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
