"""Where a path of a guest leads there: links are followed as the guest follows them, over what it is shown."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable

__all__ = ["follow"]

_MOST_LINKS = 40
"""As many as Linux follows."""


def follow(path: str, source: Callable[[str], str | None]) -> str:
    """The absolute `path` without any link that the guest would follow.

    `source` says which path of this host a path of the guest shows; `None` for none. A link's text is the guest's to
    read: it may lead where this host has something else, or nothing is shown. What leads round in circles stays.
    """
    found = posixpath.normpath("/" + path.lstrip("/"))
    for _ in range(_MOST_LINKS):
        link = _first_link(found, source)
        if link is None:
            return found
        here, text = link
        rest = found[len(here) :].lstrip("/")
        found = posixpath.normpath(posixpath.join(posixpath.dirname(here), text, rest))
    return found


def _first_link(path: str, source: Callable[[str], str | None]) -> tuple[str, str] | None:
    """The first part of `path` that is a link where it is shown, and the link's text."""
    parts = path.split("/")[1:]
    for end in range(1, len(parts) + 1):
        here = "/" + "/".join(parts[:end])
        shown = source(here)
        if shown is not None and os.path.islink(shown):
            return here, os.readlink(shown)
    return None
