"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from gloveport.errors import BackendUnavailable, LimitExceeded
from gloveport.store import whole_file

from ..conftest import files_no_larger_than  # noqa: TID252 - tests are no package of ours


def test_a_file_takes_the_place_of_the_old_one_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    path.write_bytes(b"old")
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_what_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with whole_file(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(BackendUnavailable if error is OSError else error):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_room_is_told_before_the_old_one_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with files_no_larger_than(1000), pytest.raises(LimitExceeded), whole_file(path) as file:
        file.write(b"n" * 2000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_laid_beside_it_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".file").symlink_to(victim)
    with whole_file(tmp_path / "file") as file:
        file.write(b"new")
    assert victim.read_bytes() == b"precious"
