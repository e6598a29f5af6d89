"""What a guest takes of the host's disk, measured; and how soon it is measured again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gloveport.backends.bubblewrap import disk
from gloveport.backends.bubblewrap.disk import BEYOND, LEAST_CHARGE, disk_usage
from gloveport.backends.bubblewrap.watch import Look
from gloveport.model import GIB, MIB


def test_disk_usage_counts_hard_links_once_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"x" * 100_000)
    before = disk_usage(tmp_path)
    assert 100_000 <= before < 200_000
    (tmp_path / "d" / "b").hardlink_to(tmp_path / "d" / "a")
    (tmp_path / "up").symlink_to("/usr")
    assert disk_usage(tmp_path) < before + 10_000


def test_disk_usage_sees_what_lies_deeper_than_a_path_is_long(tmp_path: Path) -> None:
    name = "d" * 200
    deepest = os.open(tmp_path, os.O_RDONLY)
    for _ in range(40):
        os.mkdir(name, dir_fd=deepest)
        below = os.open(name, os.O_RDONLY, dir_fd=deepest)
        os.close(deepest)
        deepest = below
    file = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=deepest)
    os.write(file, b"x" * 1_000_000)
    os.close(file)
    os.close(deepest)
    (tmp_path / "beside").write_bytes(b"x" * 1_000_000)
    assert disk_usage(tmp_path) >= 2_000_000


def test_disk_usage_goes_on_beside_a_directory_that_is_moved_meanwhile(tmp_path: Path) -> None:
    for place in ("root/a/b/c", "root/a/more", "root/z", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
    for place in ("root/a/more", "root/z"):
        (tmp_path / place / "file").write_bytes(b"x" * 1_000_000)
    moved = []

    def move_when_inside() -> bool:
        if not moved and deepest_is_open(tmp_path / "root/a/b/c"):
            (tmp_path / "root/a/b/c").rename(tmp_path / "elsewhere/c")
            moved.append(True)
        return False

    assert disk_usage(tmp_path / "root", move_when_inside) >= 2_000_000
    assert moved


def deepest_is_open(path: Path) -> bool:
    return any(os.path.realpath(f"/proc/self/fd/{fd}") == str(path) for fd in os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("kind", ["empty files", "directories", "links", "FIFOs"])
def test_whatever_takes_an_inode_is_charged_for(tmp_path: Path, kind: str) -> None:
    for number in range(1000):
        path = tmp_path / str(number)
        match kind:
            case "empty files":
                path.touch()
            case "directories":
                path.mkdir()
            case "links":
                path.symlink_to("x")
            case "FIFOs":
                os.mkfifo(path)
    assert disk_usage(tmp_path) >= 1000 * LEAST_CHARGE


def test_a_tree_of_too_many_entries_is_beyond_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        (tmp_path / str(number)).touch()
    assert disk_usage(tmp_path) < BEYOND
    monkeypatch.setattr(disk, "_MOST_ENTRIES", 20)
    assert disk_usage(tmp_path) == BEYOND


def test_directory_names_that_take_too_much_memory_are_beyond_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (tmp_path / f"{number:0200}").mkdir()
    (tmp_path / "0" / "deep").mkdir(parents=True)
    assert disk_usage(tmp_path) < BEYOND
    monkeypatch.setattr(disk, "_MOST_PENDING", 5000)
    assert disk_usage(tmp_path) == BEYOND


def test_a_measurement_nobody_wants_any_more_ends_within_one_directory(tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / str(number)).touch()
    asked: list[bool] = []

    def is_over() -> bool:
        asked.append(True)
        return len(asked) > 1

    assert disk_usage(tmp_path, is_over) < 5000 * LEAST_CHARGE


def test_a_host_that_has_no_descriptors_left_measures_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    real = os.open

    def no_more(path: object, *words: object, **more: object) -> int:
        if path == b"d":
            raise OSError(24, "Too many open files")
        return real(path, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", no_more)
    with pytest.raises(OSError, match="Too many open files"):
        disk_usage(tmp_path)


def test_a_directory_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    assert disk_usage(tmp_path / "none") == 0


@pytest.mark.parametrize(("took", "pause"), [(0.01, 0.2), (0.2, 4.0), (4.0, 5.0), (100.0, 100.0)])
def test_a_slow_measurement_is_followed_by_a_bounded_pause(took: float, pause: float) -> None:
    """Five seconds at most, but never more than half of the time is spent measuring."""
    look = Look(began=0.0, ended=took, used=0, free=0)
    assert not look.is_due(took + pause - 0.001, free=0, room=GIB, idle=False)
    assert look.is_due(took + pause + 0.001, free=0, room=GIB, idle=False)


def test_a_file_system_that_lost_more_than_the_room_left_is_looked_at_at_once() -> None:
    look = Look(began=0.0, ended=0.2, used=MIB, free=100 * MIB)
    assert not look.is_due(0.5, free=90 * MIB, room=10 * MIB, idle=True)
    assert look.is_due(0.5, free=89 * MIB, room=10 * MIB, idle=True)
    assert not look.is_due(0.3, free=0, room=0, idle=True), "at most half of the time"
