"""Which paths of this host a sandbox may write, when somebody insists: never what the host runs, obeys or trusts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from gloveport.errors import InvalidRequest, NotFound, PolicyDenied
from gloveport.model import Decision, Verdict
from gloveport.policy.files.host import HostView
from gloveport.policy.files.protected import ProtectedPath, ProtectionLevel, Touched, find_protected
from gloveport.policy.files.showing import decide_shown, is_within
from gloveport.policy.files.sockets import find_socket

__all__ = ["check_writable", "decide_writable", "protected_within"]

NEVER = (
    "/bin",
    "/boot",
    "/dev",
    "/efi",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix",
    "/proc",
    "/run",
    "/sbin",
    "/snap",
    "/sys",
    "/usr",
    "/var/backups",
    "/var/cache",
    "/var/cron",
    "/var/db",
    "/var/lib/apt",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/crio",
    "/var/lib/dbus",
    "/var/lib/docker",
    "/var/lib/dpkg",
    "/var/lib/kubelet",
    "/var/lib/libvirt",
    "/var/lib/rpm",
    "/var/lib/systemd",
    "/var/lock",
    "/var/log",
    "/var/mail",
    "/var/run",
    "/var/spool",
)
"""Programs, settings, units, jobs of cron and the state of services: no sandbox writes there, nor to what is above."""

PROGRAMS_OF_HOMES = ("bin", ".local/bin", ".cargo/bin", "go/bin", ".npm-global", ".pyenv", ".nvm", ".rbenv", ".asdf")
"""Where a home has the programs that its user starts by name; what `PATH` says in a terminal is not known here."""

SOCKETS = frozenset(
    (
        "buildkitd.sock",
        "containerd.sock",
        "containerd.sock.ttrpc",
        "cri-dockerd.sock",
        "crio.sock",
        "docker.sock",
        "dockershim.sock",
        "podman.sock",
    )
)
"""Whoever may talk to one of these is root of the host, by design of what listens there."""

_SYSTEM = "built-in: writable host paths"
_LINKS = "built-in: no links in writable host paths"
_SEARCHED = "built-in: no directories of programs"
_TRUSTED = "built-in: protected paths"
_SOCKETS = "built-in: no container sockets"
_KINDS = "built-in: writable files and directories"
_ALLOWED = Decision(verdict=Verdict.ALLOW, rule="built-in: what is named is writable")


def check_writable(path: str, host: HostView) -> None:
    """Raise `PolicyDenied` when no sandbox may write `path`, `InvalidRequest` or `NotFound` when it is no host path."""
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise InvalidRequest(f"not a whole path: {path!r}", hint="name it from / on, without ..")
    if not os.path.lexists(path):
        raise NotFound(f"no such file or directory: {path}", hint="make it before a sandbox is to write it", path=path)
    decision = decide_writable(path, host)
    if decision.verdict is not Verdict.ALLOW:
        raise PolicyDenied(
            f"{path} is never writable for a sandbox: {decision.reason}",
            hint="make a directory of its own for what the sandbox is to leave, and name that",
            rule=decision.rule,
            path=path,
        )


def decide_writable(path: str, host: HostView) -> Decision:
    """Whether a sandbox may write the absolute `path`, as it is here and now, and all that is below it.

    What must not be shown must not be written. A path counts only as it resolves: one with a link in it is refused,
    because whoever could write to a directory before has chosen where that link leads. What a sandbox then makes
    below a writable directory is the kernel's to resolve; protected names there are `protected_within`.
    """
    plain = "/" + os.path.normpath(path).lstrip("/")
    real = os.path.realpath(path)
    if real != plain:
        return _denied(_LINKS, f"there is a link in it, which leads to {real}")
    shown = decide_shown(plain, host)
    if shown.verdict is not Verdict.ALLOW:
        return shown
    return next((_denied(rule, reason) for rule, reason in _objections(plain, host)), _ALLOWED)


def protected_within(path: str) -> tuple[ProtectedPath, ...]:
    """What of a writable directory's first level the host acts on by itself: nothing checks it as a patch is checked.

    Empty for a file, and for what cannot be listed.
    """
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return ()
    return find_protected([Touched(path=name) for name in names])


def _objections(path: str, host: HostView) -> Iterator[tuple[str, str]]:
    for place in NEVER:
        if _touch(path, place):
            yield _SYSTEM, f"the host runs or obeys what is in {place}"
    for directory in _programs(host):
        if _touch(path, directory):
            yield _SEARCHED, f"programs are started by their name from {directory}"
    found = find_protected([Touched(path=path.lstrip("/"))])
    if found and found[0].level is ProtectionLevel.REFUSED:
        yield _TRUSTED, found[0].reason
    if SOCKETS & set(path.lower().split("/")):
        yield _SOCKETS, "whoever may talk to it is root of this host"
    yield from _about_what_is_there(path)


def _programs(host: HostView) -> Iterator[str]:
    """As they are spelt, and as they resolve."""
    homes = dict.fromkeys((*host.homes, "/root"))
    named = (f"{home.rstrip('/')}/{name}" for home in homes for name in PROGRAMS_OF_HOMES)
    for directory in (*host.search_path, *named):
        whole = os.path.abspath(directory)
        yield whole
        if (real := os.path.realpath(whole)) != whole:
            yield real


def _about_what_is_there(path: str) -> Iterator[tuple[str, str]]:
    try:
        seen = os.lstat(path)
    except OSError as error:
        yield _KINDS, f"it cannot be looked at: {error.strerror}"
        return
    if stat.S_ISREG(seen.st_mode):
        if seen.st_nlink > 1:
            yield _KINDS, "it is one file under several names, of which any could be a protected one"
    elif stat.S_ISDIR(seen.st_mode):
        yield from _sockets_in(path)
    else:
        yield _KINDS, "it is neither a file nor a directory"


def _sockets_in(path: str) -> Iterator[tuple[str, str]]:
    """By name in its first level, where a service has its own; by kind anywhere below."""
    try:
        names = [name for name in os.listdir(path) if name.lower() in SOCKETS]
    except OSError as error:
        yield _KINDS, f"it cannot be listed: {error.strerror}"
        return
    found = names[0] if names else find_socket(path)
    if found is not None:
        yield _SOCKETS, f"a service of this host listens at {os.path.relpath(os.path.join(path, found), path)!r} in it"


def _touch(path: str, place: str) -> bool:
    return is_within(path, place) or is_within(place, path)


def _denied(rule: str, reason: str) -> Decision:
    return Decision(verdict=Verdict.DENY, rule=rule, reason=reason)
