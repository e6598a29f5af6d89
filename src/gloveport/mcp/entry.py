"""The way in: to the server where its SDK is installed, and otherwise to what to install."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import cast

from gloveport.errors import Unsupported

__all__ = ["main"]

_EXTRA = frozenset(("mcp", "mcp_types", "starlette", "uvicorn"))


def main(words: Sequence[str] = ()) -> int:
    """Serve as the arguments say, until the client is gone or a signal comes. Raises `Unsupported` without the SDK.

    Without arguments on standard input and output, as whoever finds it by the entry point group `mcp.servers` calls it.
    """
    try:
        module = importlib.import_module("gloveport.mcp.command")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        raise Unsupported(
            f"the MCP server needs the package {missing!r}, which is not installed",
            hint='pip install "gloveport[mcp]"',
            package=missing,
        ) from error
    return cast("Callable[[Sequence[str]], int]", module.main)(words)
