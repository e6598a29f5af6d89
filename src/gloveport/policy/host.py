"""What of this host a sandbox may see: a survey of its system directories and toolchains, as plain data."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HostView", "installation", "survey", "toolchain", "virtual_environment_base"]

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

TOOLCHAIN_PROGRAMS = {
    "python": ("python3", "python"),
    "node": ("node", "npm"),
    "javascript": ("node", "npm"),
    "go": ("go",),
    "rust": ("cargo", "rustc"),
    "java": ("java", "javac"),
    "ruby": ("ruby",),
}
"""Language → the programs whose installation makes up its toolchain."""


_BELOW_PREFIX = ("bin", "sbin", "shims")
"""Where an installation has its programs; version managers have scripts in `shims` that find the rest from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """The parts of this host that plans are made of."""

    directories: tuple[str, ...]
    """System directories that are real."""
    links: tuple[tuple[str, str], ...]
    """System directories that are symbolic links: (path, target)."""
    etc: tuple[str, ...]
    search_path: tuple[str, ...]
    """Where toolchains are looked for."""


def survey(search_path: str | None = None) -> HostView:
    """Look at this host. Reads names only; takes well under a millisecond."""
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
    )


def toolchain(language: str, host: HostView) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Where `language` is installed on this host: (directories to show, directories for `PATH`).

    Empty when the system directories have it already; `None` when the host lacks it or the language is unknown.
    """
    programs = TOOLCHAIN_PROGRAMS.get(language)
    if programs is None:
        return None
    found = None
    for program in programs:
        found = shutil.which(program, path=os.pathsep.join(host.search_path))
        if found:
            break
    if found is None:
        return None
    return installation(Path(found), host)


def installation(program: Path, host: HostView) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The directories that must be visible for `program` to run, and those to put on `PATH`."""
    real = program.resolve()
    if _covered(real, host) and _covered(program, host):
        return (), ()
    shown = []
    for path in (program, real):
        prefix = path.parent.parent if path.parent.name in _BELOW_PREFIX else path.parent
        if not _covered(prefix, host) and str(prefix) not in shown:
            shown.append(str(prefix))
    return tuple(shown), (str(program.parent),)


def virtual_environment_base(path: Path) -> Path | None:
    """The directory of the interpreter that a Python virtual environment was made from."""
    marker = path / "pyvenv.cfg"
    if not marker.is_file():
        return None
    for line in marker.read_text("utf-8", "replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home" and value.strip():
            return Path(value.strip())
    return None


def _covered(path: Path, host: HostView) -> bool:
    return any(path.is_relative_to(directory) for directory in (*host.directories, *(link for link, _ in host.links)))
