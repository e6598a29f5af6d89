"""What of this host a sandbox may see: a survey of its system directories, homes and search path, as plain data."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HostView", "survey"]

SYSTEM_DIRECTORIES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Programs and libraries. `/opt`, `/srv`, `/home`, `/root`, `/var`, `/run` and `/mnt` may hold anything: not shown."""

ETC_FILES = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/java-17-openjdk",
    "/etc/java-21-openjdk",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/protocols",
    "/etc/python3",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
)
"""What programs need of `/etc` and everybody may read. Users, hosts and name service are files of our own."""

_USERS = Path("/etc/passwd")
_FIRST_PERSON = 1000
"""Below this uid are services, but for root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """The parts of this host that plans are made of, and those that no plan may show."""

    directories: tuple[str, ...]
    """System directories that are real."""
    links: tuple[tuple[str, str], ...]
    """System directories that are symbolic links: (path, target)."""
    etc: tuple[str, ...]
    search_path: tuple[str, ...]
    """Where toolchains are looked for."""
    homes: tuple[str, ...] = ()
    """Home directories of people and of root, as they are spelt and as they resolve."""
    own: tuple[str, ...] = ()
    """Directories of this installation (state, data), as they are spelt and as they resolve."""

    def shows(self, path: str) -> bool:
        """Whether every sandbox sees `path` anyway, below a system directory."""
        roots = (*self.directories, *(link for link, _ in self.links))
        return any(path == root or path.startswith(f"{root}/") for root in roots)


def survey(search_path: str | None = None, *, own: Iterable[Path] = ()) -> HostView:
    """Look at this host. Reads names only; takes well under a millisecond.

    `own` are the directories that belong to the platform itself.
    """
    directories = []
    links = []
    for path in SYSTEM_DIRECTORIES:
        if Path(path).is_symlink():
            links.append((path, os.readlink(path)))
        elif Path(path).is_dir():
            directories.append(path)
    etc = tuple(path for path in ETC_FILES if Path(path).exists())
    raw = os.environ.get("PATH", os.defpath) if search_path is None else search_path
    return HostView(
        directories=tuple(directories),
        links=tuple(links),
        etc=etc,
        search_path=tuple(part for part in raw.split(os.pathsep) if part.startswith("/")),
        homes=_spellings(_homes()),
        own=_spellings(str(path) for path in own),
    )


def _homes() -> Iterator[str]:
    """Of the current user, by its environment and by its entry; of root; and of every person this host lists."""
    yield os.environ.get("HOME", "")
    with suppress(KeyError):
        yield pwd.getpwuid(os.geteuid()).pw_dir
    # The file and not `pwd`, which may ask a directory service for every user there is.
    with suppress(OSError):
        for line in _USERS.read_text("utf-8", "surrogateescape").splitlines():
            fields = line.split(":")
            if len(fields) > 5 and fields[2].isdecimal() and (int(fields[2]) >= _FIRST_PERSON or int(fields[2]) == 0):
                yield fields[5]


def _spellings(paths: Iterable[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for path in paths:
        if path:
            found[os.path.abspath(path)] = None
            found[os.path.realpath(path)] = None
    return tuple(found)
