"""Which files of a tree are in use under another name, by the user's own links: a `~/.bashrc` that leads into it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gloveport.policy.files.protected import ProtectionLevel, Touched, find_protected

__all__ = ["known_names"]


def known_names(tree: Path, paths: Sequence[str]) -> Mapping[str, str]:
    """Path → the protected name under which a link leads to it.

    Links are looked for where programs look for their settings: at the top of the tree, in the user's home, and in
    its `.config`. Raises nothing: what cannot be listed holds no link that this user's programs follow.
    """
    home = os.path.expanduser("~")
    places = {str(tree): "", home: "~/", f"{home}/.config": "~/.config/"}
    links = [link for place, prefix in places.items() for link in _protected_links(place, prefix)]
    if not links:
        return {}
    root = os.path.realpath(tree)
    found: dict[str, str] = {}
    for path in paths:
        whole = f"{root}/{path}"
        for name, target in links:
            if whole == target or whole.startswith(f"{target}/"):
                found.setdefault(path, name)
    return found


def _protected_links(place: str, prefix: str) -> Iterator[tuple[str, str]]:
    """(name, where it leads)."""
    try:
        with os.scandir(place) as entries:
            names = sorted(entry.name for entry in entries if entry.is_symlink())
    except OSError:
        return
    for name in names:
        judged = find_protected([Touched(path=f"{prefix}{name}")])
        if judged and judged[0].level is ProtectionLevel.REFUSED:
            yield f"{prefix}{name}", os.path.realpath(f"{place}/{name}")
