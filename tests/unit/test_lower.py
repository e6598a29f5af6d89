"""Looking at the directory under a workspace, and copying it where it cannot be shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gloveport.backends.bubblewrap.place import make_place
from gloveport.backends.bubblewrap.workspace import prepare_workspace
from gloveport.errors import InvalidRequest, NotFound, PermissionDenied
from gloveport.model import Bind, Limits, Overlay, Plan
from gloveport.store import remove_tree
from gloveport.store.lower import copy_tree, inspect_lower

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "d/deep").mkdir(parents=True)
    (root / "d/deep/file").write_bytes(b"content" * 1000)
    (root / "script").write_bytes(b"#!/bin/sh\n")
    (root / "script").chmod(0o750)
    (root / "link").symlink_to("d/deep/file")
    (root / "dangling").symlink_to("/nowhere")
    os.link(root / "script", root / "d/same-inode")
    os.mkfifo(root / "fifo")
    os.utime(root / "d/deep/file", ns=(1, 1_000_000_000_123_456_789))
    os.utime(root / "d", ns=(1, 1_000_000_000_000_000_001))
    return root


def look(root: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Mode, modification time, hard links and content of every entry."""
    found = {}
    for path in sorted(root.rglob("*")):
        seen = path.lstat()
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        links = seen.st_nlink if stat.S_ISREG(seen.st_mode) else 1
        found[str(path.relative_to(root))] = (seen.st_mode, seen.st_mtime_ns, links, content)
    return found


def test_a_tree_of_one_owner_is_uniform_and_every_entry_is_counted(tree: Path) -> None:
    facts = inspect_lower(tree)
    assert (facts.uid, facts.gid, facts.uniform) == (os.geteuid(), tree.stat().st_gid, True)
    assert facts.entries == 8


@as_root
@pytest.mark.parametrize("owner", [(1, -1), (-1, 1)], ids=["user", "group"])
def test_one_entry_of_another_owner_makes_a_tree_not_uniform(tree: Path, owner: tuple[int, int]) -> None:
    os.lchown(tree / "link", *owner)
    assert not inspect_lower(tree).uniform


@as_user
def test_what_this_user_cannot_list_is_passed_over(tree: Path) -> None:
    """It is closed to the guest's user too."""
    below = sum(1 for _ in (tree / "d/deep").iterdir())
    (tree / "d/deep").chmod(0o000)
    found = inspect_lower(tree).entries
    (tree / "d/deep").chmod(0o700)
    assert found == 8 - below


def test_a_missing_root_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        inspect_lower(tmp_path / "nowhere")


def test_a_loop_of_links_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(".")
    assert inspect_lower(tmp_path).entries == 1


def test_a_copy_keeps_modes_times_links_and_hard_links_and_leaves_out_the_rest(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.mkdir()
    assert copy_tree(tree, target)
    expected = look(tree)
    del expected["fifo"]
    assert look(target) == expected
    assert target.stat().st_mtime_ns == tree.stat().st_mtime_ns
    assert (target / "script").stat().st_ino == (target / "d/same-inode").stat().st_ino
    assert (target / "script").stat().st_ino != (tree / "script").stat().st_ino


def test_a_copy_drops_set_user_id(tree: Path, tmp_path: Path) -> None:
    (tree / "script").chmod(0o4755)
    target = tmp_path / "copy"
    target.mkdir()
    copy_tree(tree, target)
    assert stat.S_IMODE((target / "script").stat().st_mode) == 0o755


def test_a_directory_without_write_permission_is_copied_with_what_it_holds(tree: Path, tmp_path: Path) -> None:
    (tree / "d").chmod(0o555)
    target = tmp_path / "copy"
    target.mkdir()
    copy_tree(tree, target)
    assert (target / "d/deep/file").read_bytes() == b"content" * 1000
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o555
    for place in (tree, target):
        (place / "d").chmod(0o755)


@as_root
def test_a_copy_belongs_to_the_given_owner_links_included(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.mkdir()
    copy_tree(tree, target, owner=(12345, 54321))
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in (target, *target.rglob("*"))}
    assert owners == {(12345, 54321)}
    assert stat.S_IMODE((target / "script").stat().st_mode) == 0o750
    assert tree.joinpath("script").stat().st_uid == 0


@as_user
def test_an_unreadable_file_is_refused_by_name_with_a_next_step(tree: Path, tmp_path: Path) -> None:
    (tree / "script").chmod(0o000)
    target = tmp_path / "copy"
    target.mkdir()
    with pytest.raises(PermissionDenied, match=r"script|same-inode") as refused:
        copy_tree(tree, target)
    assert "chmod" in refused.value.hint


def test_a_copy_stops_between_two_files_when_told(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.mkdir()
    asked = iter([False, False, True])
    assert not copy_tree(tree, target, should_stop=lambda: next(asked))
    assert len(list(target.rglob("*"))) <= 2


def test_a_tree_deeper_than_a_path_can_say_is_refused(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    below = os.open(top, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=below)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=below)
        os.close(below)
        below = deeper
    os.close(below)
    try:
        with pytest.raises(InvalidRequest, match="deeper"):
            inspect_lower(top)
        (tmp_path / "copy").mkdir()
        with pytest.raises(InvalidRequest, match="deeper"):
            copy_tree(top, tmp_path / "copy")
    finally:
        remove_tree(top)
        remove_tree(tmp_path / "copy")


@pytest.mark.anyio
@pytest.mark.needs("root")
async def test_only_what_others_cannot_reach_is_staged(place: Path) -> None:
    open_, closed = place / "open", place / "closed"
    (closed / "inner").mkdir(parents=True)
    open_.mkdir(mode=0o755)
    closed.chmod(0o700)
    shown = ("/usr", str(open_), str(closed), str(closed / "inner"))
    mounts = (*(Bind(path, path) for path in shown), Overlay(None))
    made = make_place(place, "brave-otter-000000")
    plan = Plan(sandbox="brave-otter-000000", mounts=mounts, limits=Limits())
    try:
        workspace = await prepare_workspace(plan, made)
        assert list(workspace.staged) == [str(closed), str(closed / "inner")]
    finally:
        made.lock.release()
