"""Limits kept by the kernel: one control group a sandbox, version 1 or 2, where this user may make one."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gloveport.model import Limits

__all__ = ["Cgroups", "OomCounter", "SandboxCgroup", "find_cgroups"]

_CONTROLLERS = ("memory", "pids", "cpu")
_ENABLED = "cgroup.subtree_control"
_PERIOD_MICROSECONDS = 100_000
_MEMBERS = "gloveport-members"
_AGAIN = ".again-"
"""Ends the name of the group of a sandbox that starts anew while its last one ends."""
_TRIES = 10
"""How often in a row other processes may take a parent away between two steps."""
_OOM_COUNT = {1: "memory.oom_control", 2: "memory.events"}
_OOM_COUNT_BYTES = 4096
_OWN_PROCESSES = 3
"""bubblewrap (twice, while it starts) and guestd."""


class OomCounter:
    """The kernel's count of kills for memory, in the first group that has one. Kept open: every exec asks."""

    def __init__(self, directories: Iterable[Path], name: str) -> None:
        self._file = next((found for directory in directories if (found := _open(directory / name)) is not None), None)

    def read(self) -> int:
        """Kills so far; 0 where nobody counts."""
        if self._file is None:
            return 0
        try:
            _, found, rest = os.pread(self._file, _OOM_COUNT_BYTES, 0).partition(b"oom_kill ")
        except OSError:  # the group is gone
            return 0
        return int(rest.split(b"\n", 1)[0]) if found else 0

    def close(self) -> None:
        """Idempotent; nothing is counted any more."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxCgroup:
    """The groups of one sandbox: one directory a controller (version 1) or one in all (version 2)."""

    directories: tuple[Path, ...]
    counter: OomCounter

    def remove(self) -> None:
        """Remove the groups; they must be empty of processes. Missing ones are fine."""
        self.counter.close()
        _remove(self.directories)

    def oom_kills(self) -> int:
        """How often the kernel killed for memory here."""
        return self.counter.read()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroups:
    """Where groups can be made, by controller. Empty where this user may not."""

    version: int
    roots: dict[str, Path]

    def has(self, controller: str) -> bool:
        """Whether `memory`, `pids` or `cpu` can be limited."""
        return controller in self.roots

    def sweep(self, alive: Callable[[str], bool]) -> None:
        """Remove the groups of sandboxes that are no more, and kill what is left in one: a start that was cut in half.

        `alive` is asked after a group was seen, and a sandbox is there before its group: no new one is taken for old.
        """
        for root in self.roots.values():
            for directory in _below(root):
                if directory.is_dir() and not alive(directory.name.partition(_AGAIN)[0]):
                    _kill(directory)
                    with contextlib.suppress(OSError):
                        directory.rmdir()

    def close(self) -> None:
        """Remove the installation's own parents, unless another process of it has sandboxes in them.

        One that has none at this moment makes them again with its next sandbox.
        """
        for root in self.roots.values():
            with contextlib.suppress(OSError):
                root.rmdir()

    def make(self, sandbox: str, limits: Limits) -> SandboxCgroup | None:
        """Make and fill the groups of one sandbox; `None` where there are no controllers.

        Raises `OSError` when any limit cannot be set: it leaves no group behind.
        """
        # Without a limit on it a CPU group only costs time, and it refuses processes of a real-time priority.
        roots = {name: root for name, root in self.roots.items() if name != "cpu" or limits.cpus is not None}
        if not roots:
            return None
        # While it is reset it has two, and as many more as could not be removed.
        names = itertools.chain((sandbox,), (f"{sandbox}{_AGAIN}{number}" for number in itertools.count(1)))
        name = next(name for name in names if not any((root / name).exists() for root in roots.values()))
        directories = tuple(dict.fromkeys(root / name for root in roots.values()))
        try:
            for directory in directories:
                _make_below(directory.parent, directory)
                if self.version == 2:
                    # Nobody can take the parent away any more; somebody may have, and made a new one with nothing on.
                    _enable(directory.parent, roots)
            for controller, root in roots.items():
                _limit(root / name, _settings(self.version, controller, limits))
        except OSError:
            _remove(directories)
            raise
        return SandboxCgroup(directories=directories, counter=OomCounter(directories, _OOM_COUNT[self.version]))


def _kill(group: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        for pid in (group / "cgroup.procs").read_text("ascii").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _remove(directories: Iterable[Path]) -> None:
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def _below(root: Path) -> list[Path]:
    try:
        return list(root.iterdir())
    except OSError:
        return []  # another process of this installation just took it away


def _make_below(parent: Path, directory: Path) -> None:
    # Another process of this installation may take the empty parent away between the two steps.
    for _ in range(_TRIES):
        parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            directory.mkdir()
            return
    directory.mkdir()


def _enable(parent: Path, controllers: Iterable[str]) -> None:
    """Version 2: give the groups below `parent` these controllers' files. Nothing changes where they have them."""
    words = " ".join(f"+{controller}" for controller in controllers)
    with contextlib.suppress(OSError):  # only a service manager may be allowed to; what it left out fails below
        _write(parent.parent / _ENABLED, words)
    _write(parent / _ENABLED, words)


def _limit(group: Path, settings: Iterable[_Setting]) -> None:
    for setting in settings:
        try:
            _write(group / setting.file, setting.value)
        except FileNotFoundError:
            if setting.required:
                raise


def _write(path: Path, text: str) -> None:
    """In one write, to a file that is there: a control group's files are the kernel's to make."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Setting:
    file: str
    value: str
    required: bool = True
    """Without it the limit would not hold. Kernels that do not account for swap lack its files."""


def _settings(version: int, controller: str, limits: Limits) -> list[_Setting]:
    memory = str(limits.memory_bytes)
    if controller == "memory":
        if version == 1:
            # Without the second line the kernel would add as much swap again.
            return [
                _Setting("memory.limit_in_bytes", memory),
                _Setting("memory.memsw.limit_in_bytes", memory, required=False),
            ]
        return [_Setting("memory.max", memory), _Setting("memory.swap.max", "0", required=False)]
    if controller == "pids":
        return [_Setting("pids.max", str(limits.processes + _OWN_PROCESSES))]
    if limits.cpus is None:
        return []
    quota = int(limits.cpus * _PERIOD_MICROSECONDS)
    if version == 1:
        return [_Setting("cpu.cfs_period_us", str(_PERIOD_MICROSECONDS)), _Setting("cpu.cfs_quota_us", str(quota))]
    return [_Setting("cpu.max", f"{quota} {_PERIOD_MICROSECONDS}")]


def find_cgroups(
    installation: str, root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> Cgroups:
    """Controllers this user may use: root's own, or a delegated subtree.

    Makes nothing but the parent of this installation's groups, named after `installation`; and, in a version 2 group
    that was delegated to this user, one for the processes in it, this one among them: the kernel hands controllers
    down only from groups without processes.
    """
    parent = f"gloveport-{hashlib.sha256(installation.encode()).hexdigest()[:12]}"
    try:
        lines = membership.read_text("ascii").splitlines()
    except OSError:
        return Cgroups(version=2, roots={})
    own: dict[str, str] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else [""]:
            own[controller] = path
    first = _version_one(root, own, parent)
    if first:
        return Cgroups(version=1, roots=first)
    return Cgroups(version=2, roots=_version_two(root, own.get("", "/"), parent))


def _version_one(root: Path, own: dict[str, str], name: str) -> dict[str, Path]:
    roots = {}
    for controller in _CONTROLLERS:
        if controller not in own or not (root / controller).is_dir():
            continue
        parent = root / controller / own[controller].lstrip("/") / name
        if _usable(parent):
            roots[controller] = parent
    return roots


def _version_two(root: Path, own: str, name: str) -> dict[str, Path]:
    # Root makes its groups at the top; anybody else below their own, if a service manager delegated it.
    base = root if os.geteuid() == 0 else root / own.removesuffix(f"/{_MEMBERS}").lstrip("/")
    try:
        offered = set((base / "cgroup.controllers").read_text("ascii").split())
    except OSError:
        return {}
    wanted = [controller for controller in _CONTROLLERS if controller in offered]
    parent = base / name
    if not wanted or not _usable(parent):
        return {}
    if os.geteuid() != 0:
        _empty(base)
    return {controller: parent for controller in wanted if _can_enable(parent, controller)}


def _empty(base: Path) -> None:
    """Move the processes of a delegated group into one below it. Fails silently: then no controller can be enabled."""
    with contextlib.suppress(OSError):
        if base.stat().st_uid != os.geteuid():
            return
        members = base / _MEMBERS
        members.mkdir(exist_ok=True)
        for process in (base / "cgroup.procs").read_text("ascii").split():
            with contextlib.suppress(OSError):
                (members / "cgroup.procs").write_text(process, "ascii")


def _can_enable(parent: Path, controller: str) -> bool:
    # Another process of this installation may take the empty parent away at any moment.
    for _ in range(_TRIES):
        try:
            parent.mkdir(exist_ok=True)
            _enable(parent, [controller])
        except FileNotFoundError:
            continue
        except OSError:
            return False
        return True
    return False


def _usable(parent: Path) -> bool:
    try:
        parent.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(parent, os.W_OK)
