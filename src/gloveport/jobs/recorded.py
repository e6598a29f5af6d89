"""What an agent says, as a record keeps it: without secrets, and short however much it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gloveport.store import Redactor

__all__ = ["RECORDED_TEXT", "recorded", "recorded_fields"]

RECORDED_TEXT = 20_000
"""Characters of one text, or of one tool call's whole input, that a record keeps."""
_TOO_DEEP = "[nested too deeply]"


def recorded(value: Any, redactor: Redactor, room: int = RECORDED_TEXT) -> Any:
    """A JSON value as it is recorded: itself where it is short, otherwise the beginning of its text."""
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else _json(value)
    if text is None:
        return _TOO_DEEP
    if len(text) <= room:
        return redactor.value(value)
    # Masked before it is cut: half a secret would pass for ordinary text.
    return f"{redactor.text(text)[:room]}… ({len(text)} characters)"


def recorded_fields(fields: Mapping[str, Any], redactor: Redactor) -> Mapping[str, Any]:
    """An object as it is recorded: itself where it is short, otherwise the beginnings of its first fields."""
    text = _json(fields)
    if text is not None and len(text) <= RECORDED_TEXT:
        return dict(redactor.value(fields))
    room = RECORDED_TEXT
    kept: dict[str, Any] = {}
    for number, (key, value) in enumerate(fields.items()):
        if room <= 0:
            kept.setdefault("…", f"{len(fields) - number} more")
            break
        short = recorded(value, redactor, room)
        room -= len(key) + len(json.dumps(short))
        kept[key[:RECORDED_TEXT]] = short
    return dict(redactor.value(kept))


def _json(value: Any) -> str | None:
    """`None` for what is nested too deeply to be written down."""
    try:
        return json.dumps(value)
    except RecursionError:
        return None
