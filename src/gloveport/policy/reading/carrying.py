"""What of a tool's settings goes into a guest, so that it finds its places there: addresses, never credentials."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from gloveport.policy.reading.package_sources import Sources

__all__ = ["carried", "carried_rewrites"]

_HOSTS = "PIP_TRUSTED_HOST"
_PLAIN_HOST = re.compile(r"[A-Za-z0-9.\-\[\]:]+")
_TOKEN_LIKE = re.compile(r"[^/]@|(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{16,}")
"""Long runs of letters and digits mixed: services exist whose addresses hold a token in the path. And what may be the
end of a password with a slash in it."""
_LEFT_OUT = "not told to guests: an address whose path may hold a token"


def carried(sources: Sources) -> Mapping[str, str]:
    """The variables that tell the tool in a guest what its settings tell it here. What is left out gets a note."""
    found: dict[str, str] = {}
    for name, value in sources.variables.items():
        words = [word for word in value.split() if _PLAIN_HOST.fullmatch(word)] if name == _HOSTS else []
        if name != _HOSTS:
            words = [clean for word in value.split() if (clean := _address(word, sources.notes)) is not None]
        if words:
            found[name] = " ".join(words)
    return found


def carried_rewrites(rewrites: Iterable[tuple[str, str]], notes: list[str]) -> Mapping[str, str]:
    """The variables that have git rewrite URLs as it does here: `(address, what it stands for)`."""
    kept = list(_rewrites(rewrites, notes))
    found = {"GIT_CONFIG_COUNT": str(len(kept))} if kept else {}
    for number, (address, prefix) in enumerate(kept):
        found |= {f"GIT_CONFIG_KEY_{number}": f"url.{address}.insteadOf", f"GIT_CONFIG_VALUE_{number}": prefix}
    return found


def _rewrites(rewrites: Iterable[tuple[str, str]], notes: list[str]) -> Iterator[tuple[str, str]]:
    for base, prefix in rewrites:
        address = _address(base, notes)
        stands_for = _address(prefix, notes) if "://" in prefix else prefix
        if address is not None and stands_for:
            yield address, stands_for


def _address(url: str, notes: list[str]) -> str | None:
    """An http or https URL without user, query and fragment; `None` for what stays out. A uv index keeps its name."""
    named = re.match(r"[\w.-]+=(?=https?://)", url)
    try:
        parts = urlsplit(url[named.end() :] if named else url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme.lower() not in ("http", "https") or not host:
        return None
    if _TOKEN_LIKE.search(parts.path):
        notes.append(_LEFT_OUT)
        return None
    authority = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
    return f"{named.group() if named else ''}{parts.scheme.lower()}://{authority}{parts.path}"
