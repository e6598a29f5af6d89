"""What both tool sets do to bytes from a sandbox before a model reads them: bound them, and tell text from binary."""

from __future__ import annotations

from gloveport.model import KIB, ExecResult

__all__ = ["exec_notes", "is_binary", "shorten", "size_of"]

_SNIFFED = 8 * KIB
"""How much of a file is looked at to tell binary data from text."""
_HEAD_SHARE = 3
"""A shortened text keeps one part in three from its beginning; test reports say what matters at their end."""


def is_binary(data: bytes) -> bool:
    """Whether the beginning holds a NUL byte, as ripgrep and Git decide it."""
    return b"\0" in data[:_SNIFFED]


def shorten(text: str, most: int) -> str:
    """`text` in at most about `most` characters: its beginning and its end, and how much is left out between."""
    if len(text) <= most:
        return text
    head = most // _HEAD_SHARE
    tail = most - head
    left_out = len(text) - head - tail
    return f"{text[:head]}\n\n[... {left_out} characters left out ...]\n\n{text[-tail:]}"


def exec_notes(result: ExecResult) -> list[str]:
    """What neither the exit status nor `timed_out` says: what a limit did to a command, and what output is missing."""
    ended = result.exit
    notes = []
    if ended.oom:
        notes.append("killed: the sandbox passed its memory limit")
    if ended.disk_full:
        notes.append("killed: the sandbox passed its disk limit")
    dropped = ended.dropped_stdout + ended.dropped_stderr
    if dropped:
        notes.append(f"{dropped} bytes of output beyond the limit were dropped")
    return notes


def size_of(count: int) -> str:
    """Bytes for a person."""
    return f"{count} bytes" if count < KIB else f"{count / KIB:.1f}KB"
