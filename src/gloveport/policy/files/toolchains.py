"""Where this host has the toolchain of a language, or the interpreter of a virtual environment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gloveport.errors import NotFound
from gloveport.policy.files.host import HostView

__all__ = ["Installation", "find_interpreter", "find_toolchain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What a sandbox must see, beside the system directories, for a program of this host to run."""

    directories: tuple[str, ...] = ()
    """Absolute, links resolved. Nobody has decided yet that they may be shown."""
    links: tuple[tuple[str, str], ...] = ()
    """Symbolic links on the way there: (path, target)."""
    path: tuple[str, ...] = ()
    """Directories for `PATH`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Toolchain:
    programs: tuple[str, ...]
    marks: tuple[str, ...]
    """Patterns below an installation's directory; what matches none is no installation, wherever its program lies."""


_PYTHON = _Toolchain(
    programs=("python3", "python"),
    marks=("lib/python3.*/os.py", "lib64/python3.*/os.py", "lib/pypy3.*/os.py"),
)
_NODE = _Toolchain(programs=("node",), marks=("include/node/node.h", "lib/node_modules/npm/package.json"))

_TOOLCHAINS: Mapping[str, _Toolchain] = MappingProxyType(
    {
        "python": _PYTHON,
        "node": _NODE,
        "javascript": _NODE,
        "go": _Toolchain(programs=("go",), marks=("src/runtime/runtime.go",)),
        "rust": _Toolchain(programs=("cargo", "rustc"), marks=("lib/rustlib",)),
        "java": _Toolchain(programs=("java", "javac"), marks=("lib/modules", "lib/rt.jar", "jre/lib/rt.jar")),
        "ruby": _Toolchain(programs=("ruby",), marks=("lib/ruby",)),
    }
)

_LONGEST_CONFIGURATION = 64 * 1024
_MOST_LINKS = 40
"""As many as Linux follows."""


def find_toolchain(language: str, host: HostView) -> Installation | None:
    """Where `language` is installed here; empty when the system directories have it already.

    `None` when the language is unknown, or nothing on the search path belongs to a whole installation of it.
    """
    toolchain = _TOOLCHAINS.get(language)
    if toolchain is None:
        return None
    for name in toolchain.programs:
        for directory in host.search_path:
            program = shutil.which(name, path=directory)
            found = _toolchain_of(program, toolchain, host) if program is not None else None
            if found is not None:
                return found
    return None


def _toolchain_of(program: str, toolchain: _Toolchain, host: HostView) -> Installation | None:
    behind = _behind_shim(Path(program))
    if behind is None:
        return None
    real = os.path.realpath(behind)
    if host.shows(real):
        return Installation(path=() if host.shows(program) else (os.path.dirname(real),))
    prefix = _prefix(real, toolchain)
    return None if prefix is None else Installation(directories=(prefix,), path=(f"{prefix}/bin",))


def _prefix(real: str, toolchain: _Toolchain) -> str | None:
    """The directory that holds the installation of a program, if that is what is around it."""
    directory = Path(real).parent
    if directory.name != "bin":
        return None
    prefix = directory.parent
    return str(prefix) if any(next(prefix.glob(mark), None) for mark in toolchain.marks) else None


def _behind_shim(program: Path) -> Path | None:
    """The program that a version manager's script (pyenv, rbenv, nodenv) starts where no directory says otherwise."""
    if program.parent.name != "shims":
        return program
    root = program.parent.parent
    try:
        versions = (root / "version").read_text("utf-8", "replace").split()
    except OSError:
        return None
    candidates = (root / "versions" / version / "bin" / program.name for version in versions)
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def find_interpreter(environment: str, host: HostView, named: Collection[str]) -> Installation | None:
    """What the Python of a virtual environment needs beside it; `None` when `environment` is none.

    `named` are the directories that are shown already. `pyvenv.cfg` may come from a stranger's repository, so what it
    says counts only where a whole installation of Python really is. Raises `NotFound` elsewhere.
    """
    configuration = f"{environment}/pyvenv.cfg"
    if not os.path.isfile(configuration):
        return None

    def is_seen(path: str) -> bool:
        return host.shows(path) or any(path.startswith(f"{directory}/") for directory in named)

    home = _home(configuration)
    program = _interpreter(environment, home) if home is not None else None
    if program is not None:
        real = os.path.realpath(program)
        if is_seen(real):
            return Installation(links=_links(program, os.path.dirname(os.path.dirname(real)), is_seen))
        prefix = _prefix(real, _PYTHON)
        if prefix is not None:
            return Installation(directories=(prefix,), links=_links(program, prefix, is_seen))
    raise NotFound(
        f"no installation of Python where {environment} says that its own is",
        hint="make the virtual environment anew, or name the directory of its Python with --read-only too",
        path=environment,
    )


def _home(configuration: str) -> str | None:
    """The directory of the interpreter that a virtual environment was made from."""
    try:
        with open(configuration, "rb") as file:
            text = file.read(_LONGEST_CONFIGURATION).decode("utf-8", "surrogateescape")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home" and value.strip().startswith("/") and "\0" not in value:
            return os.path.normpath(value.strip())
    return None


def _interpreter(environment: str, home: str) -> str | None:
    """The program in `home` that the environment's own `python` is a link to, or else the one of the usual name."""
    names = ("python3", "python")
    for name in names:
        for step in _steps(f"{environment}/bin/{name}"):
            if os.path.dirname(step) == home and os.path.isfile(step):
                return step
    return next((f"{home}/{name}" for name in names if os.path.isfile(f"{home}/{name}")), None)


def _links(program: str, prefix: str, is_seen: Callable[[str], bool]) -> tuple[tuple[str, str], ...]:
    """The links between `program` and its installation that the guest needs too, because nothing else shows them."""
    found: dict[str, str] = {}
    for step in _steps(program):
        above = os.path.dirname(os.path.dirname(step))
        if is_seen(step) or step.startswith((f"{prefix}/", "/etc/")):
            continue
        if os.path.realpath(above) == prefix:
            found[above] = prefix
        else:
            found[step] = os.readlink(step) if os.path.islink(step) else os.path.realpath(step)
    return tuple(found.items())


def _steps(path: str) -> Iterator[str]:
    """`path`, and every file that it is a link to, the last one last."""
    for _ in range(_MOST_LINKS):
        yield path
        if not os.path.islink(path):
            return
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
