"""Control groups of both versions, in made-up trees: a kernel offers one of them only."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from gloveport.backends.bubblewrap import cgroups
from gloveport.backends.bubblewrap.cgroups import Cgroups, find_cgroups
from gloveport.model import MIB, Limits

LIMITS = Limits(memory_bytes=64 * MIB, processes=7)
CONTROLLERS, ENABLED = "cgroup.controllers", "cgroup.subtree_control"
MEMORY_ONE = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")


class MadeUpKernel:
    """Makes in a directory the files that a kernel makes in its control groups of version 2: those of a new group, and
    those of a controller in every group below the one where it is enabled."""

    files: ClassVar = {"memory": ("memory.max", "memory.swap.max"), "pids": ("pids.max",), "cpu": ("cpu.max",)}

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, offered: str) -> None:
        self.root = root / "groups"
        self.own = self.root / "own"
        self.membership = root / "membership"
        self.missing: set[str] = set()
        """What this kernel does not make."""
        self._mkdir, self._rmdir, self._write = os.mkdir, os.rmdir, cgroups._write
        self._mkdir(self.root)
        self._fill(self.root, offered)
        (self.root / ENABLED).write_text(offered)
        self.mkdir(self.own)
        monkeypatch.setattr(os, "mkdir", self.mkdir)
        monkeypatch.setattr(os, "rmdir", self.rmdir)
        monkeypatch.setattr(cgroups, "_write", self.write)

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        self._mkdir(path, mode)
        self._fill(path, (path.parent / ENABLED).read_text())

    def rmdir(self, path: Path) -> None:
        if any(entry.is_dir() for entry in path.iterdir()):
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        for entry in path.iterdir():
            entry.unlink()
        self._rmdir(path)

    def write(self, path: Path, text: str) -> None:
        if path.name != ENABLED:
            return self._write(path, text)
        wanted = {word.removeprefix("+") for word in text.split()}
        if not wanted <= set((path.parent / CONTROLLERS).read_text().split()):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        enabled = " ".join(sorted(wanted | set(path.read_text().split())))
        path.write_text(enabled)
        for group in path.parent.iterdir():
            if group.is_dir():
                self._fill(group, enabled)
        return None

    def _fill(self, group: Path, controllers: str) -> None:
        names = [name for controller in controllers.split() for name in self.files[controller]]
        for name in {CONTROLLERS, ENABLED, *names} - self.missing:
            (group / name).touch()
        (group / CONTROLLERS).write_text(controllers)


class VersionTwo(MadeUpKernel):
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, offered: str = "cpu memory pids") -> None:
        super().__init__(root, monkeypatch, offered)
        self.membership.write_text("0::/own\n")

    def find(self) -> Cgroups:
        return find_cgroups("here", self.root, self.membership)


@pytest.fixture
def version_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VersionTwo:
    return VersionTwo(tmp_path, monkeypatch)


def version_one(root: Path) -> Cgroups:
    for name in ("memory", "pids"):
        (root / name / "own").mkdir(parents=True)
    membership = root / "membership"
    membership.write_text("3:memory:/own\n2:pids:/own\n1:name=systemd:/\n0::/\n")
    return find_cgroups("here", root, membership)


def value(group: Path, name: str) -> str:
    return (group / name).read_text()


def test_version_one_has_a_group_for_each_controller(tmp_path: Path) -> None:
    found = version_one(tmp_path)
    assert found.version == 1
    assert {name: path.parent for name, path in found.roots.items()} == {
        "memory": tmp_path / "memory/own",
        "pids": tmp_path / "pids/own",
    }
    assert found.roots != find_cgroups("elsewhere", tmp_path, tmp_path / "membership").roots
    assert not found.has("cpu")


@pytest.mark.parametrize(
    ("missing", "starts"),
    [((), True), (MEMORY_ONE[1:], True), (MEMORY_ONE, False), (("pids.max",), False)],
    ids=["everything there", "no swap accounting", "no memory limit", "no process limit"],
)
def test_version_one_sets_every_limit_or_makes_no_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], starts: bool
) -> None:
    found = version_one(tmp_path)
    mkdir = os.mkdir

    def fill(path: Path, mode: int = 0o777) -> None:
        mkdir(path, mode)
        for name in {*MEMORY_ONE, "pids.max"} - set(missing):
            if name.split(".")[0] in path.parts:
                (path / name).touch()

    monkeypatch.setattr(os, "mkdir", fill)
    if not starts:
        with pytest.raises(FileNotFoundError):
            found.make("s", LIMITS)
        return
    group = found.make("s", LIMITS)
    assert group is not None
    memory, pids = group.directories
    assert value(memory, "memory.limit_in_bytes") == str(64 * MIB)
    assert int(value(pids, "pids.max")) >= 7


def test_version_two_has_one_group_with_every_limit(version_two: VersionTwo) -> None:
    found = version_two.find()
    assert (found.version, set(found.roots)) == (2, {"memory", "pids", "cpu"})
    group = found.make("s", LIMITS)
    assert group is not None
    (directory,) = group.directories
    assert (value(directory, "memory.max"), value(directory, "memory.swap.max")) == (str(64 * MIB), "0")
    assert int(value(directory, "pids.max")) >= 7
    assert value(directory, "cpu.max") == "", "nobody asked for a limit of CPU time"
    limited = found.make("t", Limits(cpus=0.5))
    assert limited is not None
    assert value(limited.directories[0], "cpu.max") == "50000 100000"


def test_version_two_groups_need_delegated_controllers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = VersionTwo(tmp_path, monkeypatch, offered="pids")
    assert set(kernel.find().roots) == {"pids"}
    (kernel.root / CONTROLLERS).write_text("")
    (kernel.own / CONTROLLERS).write_text("")
    assert kernel.find().roots == {}


def test_version_two_limits_hold_in_a_parent_that_another_manager_took_away_and_made_anew(
    version_two: VersionTwo,
) -> None:
    found, other = version_two.find(), version_two.find()
    other.close()
    assert not found.roots["memory"].exists()
    group = found.make("s", LIMITS)
    assert group is not None
    assert value(group.directories[0], "memory.max") == str(64 * MIB)


def test_version_two_limits_hold_where_the_parents_controllers_were_switched_off(version_two: VersionTwo) -> None:
    found = version_two.find()
    (found.roots["memory"] / ENABLED).write_text("")
    group = found.make("s", LIMITS)
    assert group is not None
    assert value(group.directories[0], "memory.max") == str(64 * MIB)


@pytest.mark.parametrize("name", ["memory.max", "pids.max"])
def test_version_two_makes_no_group_where_a_limit_cannot_be_set(version_two: VersionTwo, name: str) -> None:
    found = version_two.find()
    found.close()
    version_two.missing.add(name)
    with pytest.raises(FileNotFoundError):
        found.make("s", LIMITS)


def test_version_two_leaves_no_group_behind_when_a_controller_is_gone(version_two: VersionTwo) -> None:
    found = version_two.find()
    for directory in (version_two.root, version_two.own, found.roots["memory"]):
        (directory / CONTROLLERS).write_text("cpu pids")
        (directory / ENABLED).write_text("cpu pids")
    with pytest.raises(FileNotFoundError):
        found.make("s", LIMITS)
    assert not (found.roots["memory"] / "s").exists()


def test_version_two_works_without_swap(version_two: VersionTwo) -> None:
    version_two.missing.add("memory.swap.max")
    group = version_two.find().make("s", LIMITS)
    assert group is not None
    assert value(group.directories[0], "memory.max") == str(64 * MIB)


def test_groups_of_sandboxes_that_are_no_more_are_swept(version_two: VersionTwo) -> None:
    found = version_two.find()
    group = found.make("s", LIMITS)
    assert group is not None
    found.sweep(lambda sandbox: sandbox == "s")
    assert group.directories[0].is_dir()
    found.close()
    assert group.directories[0].is_dir(), "a parent with sandboxes in it stays"
    found.sweep(lambda _: False)
    assert not group.directories[0].exists()


def test_a_sandbox_that_starts_anew_has_a_group_beside_its_last_one(version_two: VersionTwo) -> None:
    found = version_two.find()
    last, new = found.make("s", LIMITS), found.make("s", LIMITS)
    assert last is not None
    assert new is not None
    last.remove()
    found.sweep(lambda sandbox: sandbox == "s")
    assert [group.is_dir() for group in (*last.directories, *new.directories)] == [False, True]
    assert value(new.directories[0], "memory.max") == str(64 * MIB)
    third = found.make("s", LIMITS)
    assert third is not None
    assert third.directories == last.directories


def test_limits_hold_while_other_managers_come_and_go(version_two: VersionTwo) -> None:
    """Whatever others do to the parent between any two steps, a sandbox gets every limit."""
    found = version_two.find()
    pauses = 0
    real = version_two.mkdir

    def meddle(path: Path, mode: int = 0o777) -> None:
        nonlocal pauses
        if path.name == "s" and pauses < 3:
            pauses += 1
            found.close()
        real(path, mode)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "mkdir", meddle)
        group = found.make("s", LIMITS)
    assert group is not None
    assert (pauses, value(group.directories[0], "memory.max")) == (3, str(64 * MIB))


def test_a_parent_that_is_taken_away_while_it_is_looked_at_is_made_again(version_two: VersionTwo) -> None:
    found = version_two.find()
    write = cgroups._write
    taken = threading.Event()

    def meddle(path: Path, text: str) -> None:
        if path.parent == found.roots["memory"] and not taken.is_set():
            taken.set()
            found.close()
        write(path, text)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cgroups, "_write", meddle)
        assert version_two.find() == found
    assert taken.is_set()
