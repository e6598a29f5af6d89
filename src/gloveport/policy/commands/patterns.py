"""Whether a command line is what a rule names: words, not text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase

from gloveport.errors import InvalidRequest

__all__ = ["matches_command", "matches_words"]

_ANY_MORE = "**"


def matches_command(pattern: Sequence[str], text: str) -> bool:
    """Whether `pattern` covers one simple command. Raises `InvalidRequest` for what no shell can split."""
    try:
        return matches_words(pattern, shlex.split(text))
    except ValueError as error:
        raise InvalidRequest(f"not words of a shell: {text!r}", hint="close every quote") from error


def matches_words(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """`*` in a word is any characters, `**` at the end any more words. The program is compared by its last name."""
    fixed = list(pattern)
    open_ended = bool(fixed) and fixed[-1] == _ANY_MORE
    if open_ended:
        fixed.pop()
    if len(words) < len(fixed) or (len(words) > len(fixed) and not open_ended):
        return False
    named = [words[0].rpartition("/")[2], *words[1:]] if words and "/" not in pattern[0] else list(words)
    return all(fnmatchcase(word, part) for part, word in zip(fixed, named, strict=False))
