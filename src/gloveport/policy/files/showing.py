"""Which paths of this host a sandbox is never shown, whoever names them."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from gloveport.errors import InvalidRequest, PolicyDenied
from gloveport.model import Decision, Verdict
from gloveport.policy.files.credentials import secrets_of
from gloveport.policy.files.host import HostView

__all__ = ["check_shown", "decide_shown", "is_within"]

NEVER_WHOLE = frozenset(("/", "/etc", "/home", "/tmp", "/var", "/var/lib"))
"""Directories that hold secrets and sockets, beside much that may be shown."""

NEVER = (
    "/boot",
    "/dev",
    "/etc/gshadow",
    "/etc/krb5.keytab",
    "/etc/shadow",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/proc",
    "/run",
    "/sys",
    "/var/run",
)
"""What no sandbox sees, nor anything below it."""

_NARROWER = "name the one directory below it that the sandbox needs"
_ELSEWHERE = "copy what the sandbox needs to another place, and name that"

_SENSITIVE = "built-in: sensitive host paths"
_HOME = "built-in: home directories"
_CREDENTIALS = "built-in: credentials"
_OWN = "built-in: Gloveport's own directories"
_SOCKETS = "built-in: no sockets"
_ALLOWED = Decision(verdict=Verdict.ALLOW, rule="built-in: what is named is shown")


def check_shown(path: str, host: HostView) -> None:
    """Raise `PolicyDenied` when `path` must not be shown, `InvalidRequest` when it cannot be a host path."""
    if not path.startswith("/") or "\0" in path:
        raise InvalidRequest(f"not an absolute path: {path!r}", hint="name the whole path")
    decision = decide_shown(path, host)
    if decision.verdict is not Verdict.ALLOW:
        raise PolicyDenied(
            f"{path} is never shown to a sandbox: {decision.reason}",
            hint=_NARROWER if decision.rule in (_SENSITIVE, _HOME) else _ELSEWHERE,
            rule=decision.rule,
            path=path,
        )


def decide_shown(path: str, host: HostView) -> Decision:
    """Whether a sandbox may be shown the absolute `path`: as it is spelt, and as it resolves here and now."""
    for candidate in dict.fromkeys((_plain(path), _plain(os.path.realpath(path)))):
        for rule, reason in _objections(candidate, host):
            return Decision(verdict=Verdict.DENY, rule=rule, reason=reason)
    return _ALLOWED


def _objections(path: str, host: HostView) -> Iterator[tuple[str, str]]:
    if path in NEVER_WHOLE or any(is_within(path, place) for place in NEVER):
        yield _SENSITIVE, "it holds secrets, sockets or the kernel's controls"
    homes = _homes_around(path, host)
    for home in homes:
        if is_within(home, path):
            yield _HOME, "it is a home directory" if home == path else f"the home directory {home} is below it"
    for home in homes:
        for secret in _on_the_way(path, _secrets(home, host)):
            yield _CREDENTIALS, f"{secret} is where a program keeps what its user must keep secret"
    for own in host.own:
        if is_within(path, own) or is_within(own, path):
            yield _OWN, f"{own} belongs to Gloveport itself"
    if _is_socket(path):
        yield _SOCKETS, "it is a socket"


def _homes_around(path: str, host: HostView) -> Sequence[str]:
    """Those that the host lists, root's, and where people's are by custom: a directory service may list nobody."""
    homes = [*host.homes, "/root"]
    parts = path.split("/")
    if parts[1] == "home" and len(parts) > 2:
        homes.append(f"/home/{parts[2]}")
    return homes


def _secrets(home: str, host: HostView) -> Sequence[str]:
    """As the host was surveyed; of a home that it does not list, as they are now."""
    return host.secrets[home] if home in host.secrets else secrets_of(home)


def _on_the_way(path: str, places: Sequence[str]) -> Iterator[str]:
    """Those of the sorted `places` that are `path`, above it or below it: there are hundreds, and every create asks."""
    above = path
    while True:
        at = bisect_left(places, above)
        if at < len(places) and places[at] == above:
            yield above
        if above == "/":
            break
        above = os.path.dirname(above)
    below = path if path == "/" else f"{path}/"
    for place in places[bisect_left(places, below) :]:
        if not place.startswith(below):
            break
        yield place


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def is_within(path: str, place: str) -> bool:
    """Whether `path` is `place` or below it."""
    return path == place or path.startswith(place if place.endswith("/") else f"{place}/")


def _plain(path: str) -> str:
    """Without `..`, and with one leading slash: two are a spelling of their own to `normpath`."""
    return "/" + os.path.normpath(path).lstrip("/")
