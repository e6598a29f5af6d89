"""What sealing says of a copy is what reading the copy would find, or it says nothing."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from gloveport.model import Base
from gloveport.store import Snapshots
from gloveport.store.copying import copy_exactly, seal
from gloveport.store.layers import read_layer


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    """A tree with one of everything that a guest can make."""
    top = tmp_path / "rich"
    (top / "deep" / "deeper").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "file").write_text("content")
    (top / "nothing").touch()
    (top / "deep" / "large").write_bytes(os.urandom(3 * 2**20))
    (top / "deep" / "deeper" / "script").write_text("#!/bin/sh\n")
    (top / "deep" / "deeper" / "script").chmod(0o4751)
    os.link(top / "file", top / "deep" / "again")
    (top / "link").symlink_to("../nowhere")
    os.mkfifo(top / "pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(top / "socket"))
    for name, end in (("sparse", 2**19), ("large and sparse", 2**26)):
        with (top / name).open("wb") as file:
            file.write(b"begin")
            file.seek(end)
            file.write(b"end")
    os.setxattr(top / "file", "user.note", b"kept")
    os.setxattr(top / "deep", "user.note", b"kept as well")
    (top / "closed").mkdir()
    (top / "closed" / "inside").write_text("hidden")
    (top / "closed" / "inside").chmod(0)
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(number * 10**9 + 7, number * 10**9 + 123_456_789), follow_symlinks=False)
    (top / "closed").chmod(0o300)
    return top


def target(tmp_path: Path, name: str = "sealed") -> Path:
    made = tmp_path / name
    made.mkdir()
    return made


def test_what_is_said_of_a_copy_is_what_reading_it_finds(rich: Path, tmp_path: Path) -> None:
    sealed = target(tmp_path)
    said = seal((rich,), sealed)
    assert said is not None
    assert said == read_layer(sealed).layer == read_layer(rich).layer
    assert said.entries == 1 + len(list(rich.rglob("*"))) + (not os.access(rich / "closed", os.R_OK))


def test_a_copy_and_a_copy_of_the_copy_are_the_same(rich: Path, tmp_path: Path) -> None:
    copy, again = target(tmp_path, "copy"), target(tmp_path, "again")
    copy_exactly(rich, copy)
    copy_exactly(copy, again)
    assert seal((again,), target(tmp_path)) == read_layer(rich).layer
    assert (again / "large and sparse").stat().st_blocks * 512 < 2**20


def test_of_several_trees_nothing_is_said(rich: Path, tmp_path: Path) -> None:
    assert seal((rich, target(tmp_path, "behind")), target(tmp_path)) is None


@pytest.mark.parametrize("what", ["times", "modes"])
def test_where_a_file_system_keeps_something_else_nothing_is_said(
    what: str, rich: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, change = os.utime, os.fchmod

    def rounded(
        path: str | int, *, ns: tuple[int, int], dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> None:
        keep(path, ns=(ns[0], ns[1] // 10**9 * 10**9), dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    def without_bits(descriptor: int, mode: int) -> None:
        change(descriptor, mode & 0o777)

    monkeypatch.setattr(os, "utime", rounded if what == "times" else keep)
    monkeypatch.setattr(os, "fchmod", without_bits if what == "modes" else change)
    sealed = target(tmp_path)
    assert seal((rich,), sealed) is None
    assert read_layer(sealed).layer != read_layer(rich).layer


def test_a_hole_is_one_also_where_room_lies_behind_the_end(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "file").open("wb") as file:
        file.seek(60 * 1024)
        file.write(b"x" * 4096)
        file.flush()
        subprocess.run(["fallocate", "-n", "-o", "65536", "-l", "131072", source / "file"], check=True)
    sealed = target(tmp_path)
    assert seal((source,), sealed) == read_layer(sealed).layer
    with (source / "file").open("rb") as old, (sealed / "file").open("rb") as new:
        assert os.lseek(new.fileno(), 0, os.SEEK_DATA) == os.lseek(old.fileno(), 0, os.SEEK_DATA) > 0


def access_list(uid: int) -> bytes:
    entries = ((1, 7, 2**32 - 1), (2, 4, uid), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_a_layer_has_no_access_control_list_of_the_directory_it_is_made_in(rich: Path, tmp_path: Path) -> None:
    data = target(tmp_path, "data")
    os.setxattr(data, "system.posix_acl_default", access_list(4242))
    store = Snapshots(data / "snapshots")
    with store.draft() as draft:
        draft.seal("workspace", (rich,), owner=None)
        (described,) = draft.known.values()
        snapshot = store.keep(draft, Base(), sandbox="any")
    assert described == snapshot.layers["workspace"] == read_layer(rich).layer
    assert described == read_layer(store.layer(snapshot, "workspace")).layer


def test_a_copy_that_has_a_list_of_its_directory_is_read(rich: Path, tmp_path: Path) -> None:
    sealed = target(tmp_path)
    os.setxattr(sealed, "system.posix_acl_default", access_list(4242))
    assert seal((rich,), sealed) is None
