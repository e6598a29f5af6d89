"""Takes secrets out of what is about to be written down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

__all__ = ["MASK", "Redactor"]

MASK = "[redacted]"
_SHORTEST_SECRET = 6

# Neither crosses a quotation mark nor a backslash, so that they work on JSON text without breaking it.
_PATTERNS = re.compile(
    "|".join(
        (
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^\"]*?(?:-----END [A-Z ]*PRIVATE KEY-----|(?=\")|\Z)",
            r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
            r"\bsk-ant-[A-Za-z0-9_-]{16,}",
            r"\bsk-[A-Za-z0-9]{32,}\b",
            r"\bgh[pousr]_[A-Za-z0-9]{36,}\b",
            r"\bgithub_pat_[A-Za-z0-9_]{22,}\b",
            r"\bglpat-[A-Za-z0-9_-]{20,}",
            r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
            r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
            r"(?<=://)[^/\s:@\"\\]{1,64}:[^/\s:@\"\\]{3,256}(?=@)",
            r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}\b",
        )
    )
)
_MARKS = (
    *("-----BEGIN ", "AKIA", "ASIA", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    *("github_pat_", "glpat-", "xox", "eyJ", "@"),
)
"""A text without any of these has no match: looking for them first makes a clean event nearly free."""


class Redactor:
    """Replaces known secrets, and what looks like a credential or an e-mail address, by `[redacted]`.

    Known secrets shorter than 6 characters are ignored: masking them would shred ordinary text.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
        spellings = known | {json.dumps(secret)[1:-1] for secret in known}
        longest_first = sorted(spellings, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """`text`, plain or JSON, without secrets. JSON stays JSON."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        for mark in _MARKS:
            if mark in text:
                return _PATTERNS.sub(MASK, text)
        return text
