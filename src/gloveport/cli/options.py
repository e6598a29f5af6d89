"""Arguments that several commands share, and how their texts are read."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Iterable

from gloveport.errors import InvalidRequest

__all__ = ["add_env", "add_sandbox", "parse_env", "parse_size"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def add_sandbox(parser: ArgumentParser) -> None:
    """The sandbox that a command is about, as `options.sandbox`."""
    parser.add_argument("sandbox", metavar="ID", help="a sandbox: its id, or the first letters of it")


def add_env(parser: ArgumentParser, purpose: str) -> None:
    """Variables, as `options.env` for `parse_env`."""
    parser.add_argument("--env", metavar="NAME=VALUE", action="append", default=[], help=f"{purpose}; repeatable")


def parse_size(text: str) -> int:
    """Bytes: `512m`, `2G`, `1.5GiB`, `4096`; the units are powers of 1024. Raises `InvalidRequest`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest(f"not a size: {text!r}", hint="write bytes, or a number with k, m, g or t: 512m")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def parse_env(texts: Iterable[str]) -> dict[str, str]:
    """Variables from `NAME=value`. Raises `InvalidRequest`."""
    variables = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise InvalidRequest(f"not a variable: {text!r}", hint="write --env NAME=value")
        variables[name] = value
    return variables
