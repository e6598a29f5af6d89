"""Which paths of this host a sandbox is never shown, whoever names them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from gloveport.errors import InvalidRequest, PolicyDenied
from gloveport.model import Decision, Verdict
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

CREDENTIALS = (
    ".Xauthority",
    ".android/adbkey",
    ".ansible",
    ".anthropic",
    ".aws",
    ".azure",
    ".bash_history",
    ".boto",
    ".bundle/config",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".claude",
    ".claude.json",
    ".codex",
    ".composer/auth.json",
    ".config",
    ".dbus",
    ".docker",
    ".gem/credentials",
    ".git-credentials",
    ".gnupg",
    ".gradle/gradle.properties",
    ".kube",
    ".local/share/keyrings",
    ".local/share/kwalletd",
    ".m2/settings.xml",
    ".m2/settings-security.xml",
    ".minikube",
    ".mozilla",
    ".my.cnf",
    ".mysql_history",
    ".netrc",
    ".npmrc",
    ".oci",
    ".password-store",
    ".pgpass",
    ".pki",
    ".psql_history",
    ".pypirc",
    ".python_history",
    ".s3cfg",
    ".ssh",
    ".subversion",
    ".terraform.d",
    ".thunderbird",
    ".vault-token",
    ".yarnrc.yml",
    ".zsh_history",
)
"""Where programs keep their users' credentials and what they typed, below a home directory."""

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
        for secret in _secrets(path, home):
            yield _CREDENTIALS, f"{secret} is where a program keeps what its user must keep secret"
    for own in host.own:
        if _meets(path, own):
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


def _secrets(path: str, home: str) -> Iterator[str]:
    """Those of one home that are `path`, above it or below it: as they are spelt, and as they resolve.

    Such files are often links into a directory that people share.
    """
    if _meets(path, home):
        yield from (secret for name in CREDENTIALS if _meets(path, secret := _below(home, name)))
    try:
        present = set(os.listdir(home))
    except OSError:
        return
    for name in CREDENTIALS:
        if name.partition("/")[0] in present and _meets(path, secret := os.path.realpath(_below(home, name))):
            yield secret


def _below(home: str, name: str) -> str:
    return f"{home.rstrip('/')}/{name}"


def _meets(path: str, place: str) -> bool:
    return is_within(path, place) or is_within(place, path)


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
