"""Takes secrets out of what is about to be written down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["MASK", "SHAPES", "Redactor"]

MASK = "[redacted]"
_SHORTEST_SECRET = 6
_DEEPEST = 100
_KEY = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"

SHAPES: Sequence[tuple[str, re.Pattern[str]]] = tuple(
    (mark, re.compile(shape))
    for mark, shape in (
        ("-----BEGIN ", rf"-----BEGIN {_KEY}[\s\S]*?(?:-----END {_KEY}|\Z)"),
        ("AKIA", r"AKIA[0-9A-Z]{16,}+"),
        ("ASIA", r"ASIA[0-9A-Z]{16,}+"),
        ("sk-ant-", r"sk-ant-[A-Za-z0-9_-]{16,}+"),
        ("sk-", r"sk-[A-Za-z0-9]{32,}+"),
        ("gh", r"gh[pousr]_[A-Za-z0-9]{36,}+"),
        ("github_pat_", r"github_pat_[A-Za-z0-9_]{22,}+"),
        ("glpat-", r"glpat-[A-Za-z0-9_-]{20,}+"),
        ("xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,}+"),
        ("eyJ", r"eyJ[A-Za-z0-9_.-]{30,}+"),
        ("://", r"(?<=://)[^/\s:@]*+:[^/\s@]++(?=@)"),
        (
            "@",
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]++@[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++){0,126}\.[A-Za-z]{2,}+",
        ),
    )
)
"""What secrets look like, each after a text without which there is none.

Whatever stands around a secret, it is found: none of them needs a boundary. A guest writes the text, so all take
linear time: repeats are possessive (they never give back what they took), and no stretch is read again from a later
start, because a failed attempt read a bounded length, or nothing that a second one could start in.
"""


_MARKS = re.compile("|".join("gh[pousr]_" if mark == "gh" else re.escape(mark) for mark, _ in SHAPES))
_SHORT = 4000
"""Characters up to which one look for all marks is faster than a look for each."""
_NESTED = (Mapping, list, tuple)


class Redactor:
    """Replaces known secrets, and what looks like a credential or an e-mail address, by `[redacted]`.

    It works on text as it is meant, before any encoding: in JSON an escape's letters would pass for part of a name.
    Known secrets shorter than 6 characters are ignored: masking them would shred ordinary text.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._spellings: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Mask these too from here on."""
        known = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
        spellings = known | {json.dumps(secret)[1:-1] for secret in known}
        if spellings <= self._spellings:
            return
        self._spellings |= spellings
        longest_first = sorted(self._spellings, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first)))

    def text(self, text: str) -> str:
        """`text` without secrets; known ones are found inside longer words and as JSON spells them, too."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        for mark, shape in SHAPES:
            if mark in text:
                text = shape.sub(MASK, text)
        return text

    def may_hold(self, encoded: str) -> bool:
        """Whether JSON text may hold something to mask, or is nested too deeply. No escape can hide a mark."""
        if len(encoded) > _SHORT or encoded.count("[") + encoded.count("{") > _DEEPEST:
            return True
        known = self._known is not None and self._known.search(encoded) is not None
        return known or _MARKS.search(encoded) is not None

    def value(self, value: Any) -> Any:
        """A JSON value without secrets in any text of it, keys included.

        No key is lost when several are masked: they are numbered. What lies deeper than 100 levels is masked whole.
        """
        return self._value(value, _DEEPEST)

    def _value(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, int | float) or not isinstance(value, _NESTED):
            return value
        if depth == 0:
            return MASK
        if isinstance(value, Mapping):
            return self._mapping(value, depth - 1)
        return [self._value(item, depth - 1) for item in value]

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        clean: dict[Any, Any] = {}
        for number, (key, item) in enumerate(value.items()):
            name = self.text(key) if isinstance(key, str) else key
            while name in clean:
                name = f"{name} {number}"
            clean[name] = self._value(item, depth)
        return clean
