"""Directories that guests wrote are removed whatever is in them, and nothing beside them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gloveport.errors import BackendUnavailable
from gloveport.store import claim, make_private, remove_tree, try_claim


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(2500):  # a path of more than PATH_MAX
        os.mkdir("d", dir_fd=here)
        with open(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here), "w") as file:
            file.write("x")
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_tree(root)
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_may_read_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o750)
    (kept / "file").write_text("x")
    root = tmp_path / "tree"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "f").write_text("x")
    (root / "link").symlink_to(kept)
    (root / "a" / "up").symlink_to(kept / "file")
    os.mkfifo(root / "pipe")
    (root / "a" / "b").chmod(0)
    (root / "a").chmod(0o500)
    remove_tree(root)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").read_text() == "x"
    assert kept.stat().st_mode & 0o777 == 0o750


def test_a_link_and_a_missing_tree_are_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    remove_tree(tmp_path / "link")
    remove_tree(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["real"]


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    assert try_claim(tmp_path) is None
    with pytest.raises(BackendUnavailable):
        claim(tmp_path)
    lock.release()
    lock.release()
    assert try_claim(tmp_path) is not None


def test_a_private_directory_gets_its_mode_back(tmp_path: Path) -> None:
    path = make_private(tmp_path / "p" / "q")
    path.chmod(0o777)
    assert make_private(path).stat().st_mode & 0o777 == 0o700


def test_several_may_remove_one_tree(tmp_path: Path) -> None:
    for number in range(20):
        tree = tmp_path / str(number)
        for name in ("a/b/c/d", "a/e/f", "g/h", "i"):
            (tree / name).mkdir(parents=True)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(remove_tree, [tree] * 4))
        assert not tree.exists()
