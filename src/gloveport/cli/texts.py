"""How the texts of options are read."""

from __future__ import annotations

from collections.abc import Iterable

from gloveport.errors import InvalidRequest

__all__ = ["parse_env"]


def parse_env(texts: Iterable[str]) -> dict[str, str]:
    """Variables from `NAME=value`. Raises `InvalidRequest`."""
    variables = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise InvalidRequest(f"not a variable: {text!r}", hint="write --env NAME=value")
        variables[name] = value
    return variables
