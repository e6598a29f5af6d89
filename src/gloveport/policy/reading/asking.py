"""Asks this host's own tools what they say of themselves: a bounded question to a program nobody else could plant."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

__all__ = ["Machine", "default_index", "default_registry", "git_settings", "this_machine"]

_PATIENCE = 10.0
"""Seconds for one answer."""
_LONGEST_ANSWER = 256 * 1024
_LONGEST_SETTINGS = 1024 * 1024

_PIPS_DEFAULT = """
import glob, os, sys
try:
    from pip._internal.models.index import PyPI
except ImportError:
    import ensurepip
    wheels = os.path.join(os.path.dirname(ensurepip.__file__), "_bundled", "pip-*.whl")
    sys.path[:0] = sorted(glob.glob(wheels))
    from pip._internal.models.index import PyPI
print(PyPI.simple_url)
print("https://" + PyPI.file_storage_domain)
"""
"""pip says it itself, installed or as the wheel that Python brings along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where tools keep their settings here, and where their programs are."""

    root: Path = Path("/")
    """What `/etc` is below."""
    home: Path
    environ: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    search_path: tuple[str, ...] = ()
    """Where programs may be started from: absolute, and nothing that a repository could have brought."""
    interpreter: str = ""
    """A Python to ask for pip's default; empty for none."""

    def read(self, path: Path) -> str | None:
        """A file of settings, at most a mebibyte; `None` where there is none. Raises `OSError`, `ValueError`."""
        try:
            with path.open("rb") as file:
                data = file.read(_LONGEST_SETTINGS + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if len(data) > _LONGEST_SETTINGS:
            raise ValueError("too large")
        return data.decode()

    def finds(self, name: str) -> str | None:
        """The program called `name`."""
        candidates = (os.path.join(directory, name) for directory in self.search_path)
        return next((path for path in candidates if os.access(path, os.X_OK) and os.path.isfile(path)), None)


def this_machine(*, untrusted: Iterable[str] = ()) -> Machine:
    """This host, for whoever runs this. Programs below `untrusted` (a repository, say) are never started.

    Nor are those of a virtual environment, of `node_modules`, or below the current directory.
    """
    home = os.path.expanduser("~")
    outside = [os.path.realpath(path) for path in untrusted]
    here = os.path.realpath(os.curdir)
    if not _is_within(os.path.realpath(home), here):
        outside.append(here)
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return Machine(
        home=Path(home),
        environ=MappingProxyType(dict(os.environ)),
        search_path=tuple(path for path in directories if _is_trusted(path, outside)),
        interpreter=sys.executable,
    )


def default_index(machine: Machine) -> tuple[str, ...]:
    """The index that pip asks where nothing else is set, and where its files are; empty when no pip says so."""
    interpreters = [machine.interpreter, machine.finds("python3")]
    for interpreter in dict.fromkeys(path for path in interpreters if path):
        answer = _ask(machine, [interpreter, "-I", "-c", _PIPS_DEFAULT])
        if answer:
            return tuple(answer.split())
    return ()


def default_registry(machine: Machine) -> tuple[str, ...]:
    """The registry that npm asks where no file of a person or of an administrator says another; empty without npm."""
    npm = machine.finds("npm")
    if npm is None:
        return ()
    nowhere = {
        "npm_config_userconfig": "/nonexistent/user",
        "npm_config_globalconfig": "/nonexistent/global",
        "npm_config_cache": "/dev/null/none",  # it would make one in the home directory just to be asked
    }
    answer = _ask(machine, [npm, "config", "get", "registry", "--location=global"], nowhere)
    return tuple(answer.split()[:1])


def git_settings(machine: Machine, pattern: str) -> Iterator[tuple[str, str]]:
    """Git's settings, the system's and the person's, whose names match `pattern`: never a repository's."""
    git = machine.finds("git")
    if git is None:
        return
    own = {name: machine.environ[name] for name in ("XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL") if name in machine.environ}
    own["GIT_CONFIG_SYSTEM"] = str(machine.root / "etc" / "gitconfig")
    for place in ("--system", "--global"):
        argv = [git, "config", place, "--includes", "--null", "--get-regexp", pattern]
        for setting in _ask(machine, argv, own).split("\0"):
            name, _, value = setting.partition("\n")
            if name:
                yield name, value


def _ask(machine: Machine, argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """What a program prints; nothing when it fails, is late, or prints more than anybody would answer."""
    base = {"PATH": os.pathsep.join(machine.search_path), "HOME": str(machine.home), "LANG": "C.UTF-8"}
    try:
        process = subprocess.Popen(
            argv,
            cwd="/",  # no directory whose own settings or versions count
            env={**base, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return ""
    with process:
        try:
            data, _ = process.communicate(timeout=_PATIENCE)
            return data.decode() if process.returncode == 0 and len(data) <= _LONGEST_ANSWER else ""
        except (subprocess.TimeoutExpired, ValueError):
            return ""
        finally:
            if process.returncode is None:  # the whole session: what it started may hold its output open
                os.killpg(process.pid, signal.SIGKILL)


def _is_trusted(directory: str, outside: Sequence[str]) -> bool:
    if not directory.startswith("/"):
        return False
    real = os.path.realpath(directory)
    if "node_modules" in (*Path(directory).parts, *Path(real).parts):
        return False
    if any(os.path.exists(os.path.join(os.path.dirname(path), "pyvenv.cfg")) for path in (directory, real)):
        return False
    return not any(_is_within(real, place) for place in outside)


def _is_within(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place.rstrip('/')}/")
