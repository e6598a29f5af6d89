"""Moments as people type them: a date, a date and time, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from gloveport.errors import InvalidRequest

__all__ = ["parse_time"]

_AGO = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_HINT = "for example 2026-03-01, 2026-03-01T14:30, 2026-03-01T14:30:00Z, or 90m, 24h, 7d ago"


def parse_time(text: str, name: str, now: datetime) -> datetime:
    """The moment that `text` means: ISO 8601, in this host's own zone where it names none, or how long before `now`.

    Raises `InvalidRequest` that calls it `name`.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidRequest(f"{name} is no time: {text!r}", hint=_HINT) from error
