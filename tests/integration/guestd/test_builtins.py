"""The functions of guestd that need nothing in the guest's file system."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from gloveport.guest.wire import How, encode_input, encode_input_end, encode_signal

if TYPE_CHECKING:
    from conftest import Client

HOSTILE_NAMES = [b"new\nline", b" f 644 1 1 1 x", b"\xff\xfe\x80", b"-rf", b"quote'\"$(id)", b"\x1b[2J", b"x" * 255]


@dataclass(frozen=True)
class Record:
    type: str
    mode: int
    size: int
    mtime_ns: int
    name: bytes
    target: bytes = b""


def parse_records(data: bytes) -> list[Record]:
    records = []
    while data:
        type_, mode, size, mtime, length, data = data.split(b" ", 5)
        name, data = data[: int(length)], data[int(length) :]
        target = b""
        if type_ == b"l":
            _, length, data = data.split(b" ", 2)
            target, data = data[: int(length)], data[int(length) :]
        assert data[:1] == b"\n"
        data = data[1:]
        records.append(Record(type_.decode(), int(mode, 8), int(size), int(mtime), name, target))
    return records


def failure(guestd: Client, *argv: str | bytes, stdin: bytes | None = None) -> int:
    """The errno a builtin fails with."""
    finished = guestd.builtin(*argv, stdin=stdin)
    assert (finished.code, finished.stdout) == (1, b"")
    number, _, message = finished.stderr.partition(b" ")
    assert message.endswith(b"\n")
    return int(number)


def put(guestd: Client, path: bytes, data: bytes = b"content", mode: str = "644") -> None:
    assert guestd.builtin("write", path, mode, "1", stdin=data).code == 0


def get(guestd: Client, path: bytes) -> bytes:
    finished = guestd.builtin("read", path, "0", "0")
    assert finished.code == 0, finished.stderr
    return finished.stdout


def mode_of(guestd: Client, path: bytes) -> int:
    return parse_records(guestd.builtin("stat", path).stdout)[0].mode


def test_hello_does_nothing_well(guestd: Client) -> None:
    finished = guestd.builtin("hello")
    assert (finished.code, finished.stdout, finished.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["nonesuch"], errno.ENOSYS),
        (["hello", "x"], errno.EINVAL),
        (["read", "/etc/passwd"], errno.EINVAL),
        (["read", "/etc/passwd", "-1", "0"], errno.EINVAL),
        (["read", "/etc/passwd", "0", "0x10"], errno.EINVAL),
        (["read", "/etc/passwd", "0", "99999999999999999999"], errno.EINVAL),
        (["write", "/tmp/x", "8", "0"], errno.EINVAL),
        (["write", "/tmp/x", "10000", "0"], errno.EINVAL),
        (["mkdir", "/tmp/x", "755", "2"], errno.EINVAL),
        (["stat", ""], errno.ENOENT),
    ],
    ids=repr,
)
def test_misuse_is_a_failure_with_its_errno(guestd: Client, argv: list[str], reason: int) -> None:
    assert failure(guestd, *argv) == reason


def test_a_part_of_a_file_is_read(guestd: Client, directory: bytes) -> None:
    content = os.urandom(300_000)
    put(guestd, directory + b"/file", content[:200_000])
    put(guestd, directory + b"/file", content[:200_000])
    for offset, length in ((0, 0), (100, 50), (199_990, 500), (300_000, 10)):
        end = offset + length if length else None
        part = guestd.builtin("read", directory + b"/file", str(offset), str(length)).stdout
        assert part == content[:200_000][offset:end]


def test_paths_are_relative_to_the_given_directory(guestd: Client, directory: bytes) -> None:
    put(guestd, directory + b"/file")
    assert guestd.builtin("read", "file", "0", "0", cwd=directory).stdout == b"content"


def test_what_is_not_a_regular_file_is_not_read_and_never_blocks(guestd: Client, directory: bytes) -> None:
    guestd.run("mkfifo", directory + b"/fifo")
    guestd.run("ln", "-s", "loop", directory + b"/loop")
    guestd.run("ln", "-s", "fifo", directory + b"/link")
    for path, reason in (
        (directory + b"/fifo", errno.EINVAL),
        (directory + b"/link", errno.EINVAL),
        (b"/dev/zero", errno.EINVAL),
        (directory, errno.EISDIR),
        (directory + b"/loop", errno.ELOOP),
        (directory + b"/none", errno.ENOENT),
    ):
        assert failure(guestd, "read", path, "0", "0") == reason


def test_a_reader_without_credit_can_be_killed(guestd: Client, directory: bytes) -> None:
    put(guestd, directory + b"/file", b"x" * 250_000)
    stream = guestd.start("read", directory + b"/file", "0", "0", builtin=True, credit=1)
    guestd.started(stream)
    guestd.output(stream, 1)
    guestd.send(encode_signal(stream, 9, tree=True))
    end = guestd.finish(guestd.start("hello", builtin=True)).exit
    assert end.code == 0


def test_a_file_is_written_with_its_parents_and_mode(guestd: Client, directory: bytes) -> None:
    path = directory + b"/a/b/file"
    assert failure(guestd, "write", path, "640", "0", stdin=b"x") == errno.ENOENT
    put(guestd, path, b"first", "640")
    assert (get(guestd, path), mode_of(guestd, path)) == (b"first", 0o640)
    put(guestd, path, b"second", "-")
    assert (get(guestd, path), mode_of(guestd, path)) == (b"second", 0o640)
    put(guestd, directory + b"/new", b"", "-")
    assert (get(guestd, directory + b"/new"), mode_of(guestd, directory + b"/new")) == (b"", 0o644)


def test_a_write_is_all_or_nothing(guestd: Client, directory: bytes) -> None:
    path = directory + b"/file"
    put(guestd, path, b"old")
    stream = guestd.start("write", path, "-", "0", builtin=True, stdin=True)
    guestd.started(stream)
    guestd.send(encode_input(stream, b"half"))
    assert get(guestd, path) == b"old"
    guestd.send(encode_signal(stream, 15, tree=False))
    assert guestd.finish(stream).exit.how == How.SIGNALLED
    assert get(guestd, path) == b"old"
    assert [each.name for each in listed(guestd, directory)] == [b"file"]


def test_a_write_beyond_the_limit_fails_and_leaves_nothing(launch: Callable[..., Client]) -> None:
    guestd = launch("-s", "100000")
    path = guestd.directory + b"/limited"
    assert guestd.builtin("mkdir", path, "755", "0").code == 0
    assert failure(guestd, "write", path + b"/file", "-", "0", stdin=b"x" * 100_001) == errno.EFBIG
    assert listed(guestd, path) == []
    put(guestd, path + b"/file", b"x" * 100_000)
    assert guestd.builtin("remove", path, "1").code == 0


def test_a_write_follows_links_as_an_editor_would(guestd: Client, directory: bytes) -> None:
    put(guestd, directory + b"/sub/file", b"old")
    guestd.run("ln", "-s", "sub/file", directory + b"/one")
    guestd.run("ln", "-s", directory + b"/one", directory + b"/two")
    guestd.run("ln", "-s", "sub/made", directory + b"/dangling")
    guestd.run("ln", "-s", "loop", directory + b"/loop")
    put(guestd, directory + b"/two", b"new", "-")
    put(guestd, directory + b"/dangling", b"made")
    assert get(guestd, directory + b"/sub/file") == b"new"
    assert get(guestd, directory + b"/sub/made") == b"made"
    assert parse_records(guestd.builtin("stat", directory + b"/one").stdout)[0].target == b"sub/file"
    assert failure(guestd, "write", directory + b"/loop", "-", "0", stdin=b"") == errno.ELOOP


def test_only_a_regular_file_is_replaced_and_nothing_is_left_behind(guestd: Client, directory: bytes) -> None:
    guestd.run("mkfifo", directory + b"/fifo")
    assert failure(guestd, "write", directory + b"/fifo", "-", "0", stdin=b"x") == errno.EINVAL
    assert failure(guestd, "write", directory, "-", "0", stdin=b"x") == errno.EISDIR
    assert failure(guestd, "write", directory + b"/fifo/file", "-", "1", stdin=b"x") == errno.ENOTDIR
    assert [each.name for each in listed(guestd, directory)] == [b"fifo"]


def listed(guestd: Client, path: bytes, depth: int = 0, limit: int = 0) -> list[Record]:
    finished = guestd.builtin("list", path, str(depth), str(limit))
    assert finished.code == 0, finished.stderr
    return parse_records(finished.stdout)


def test_every_type_has_its_letter(guestd: Client, directory: bytes) -> None:
    put(guestd, directory + b"/f", b"12345", "600")
    guestd.run("mkdir", directory + b"/d")
    guestd.run("ln", "-s", "a\nb", directory + b"/l")
    guestd.run("mkfifo", directory + b"/p")
    guestd.run("python3", "-c", "import socket; socket.socket(1).bind('s')", cwd=directory)
    found = {each.name: each for each in listed(guestd, directory)}
    assert {name: each.type for name, each in found.items()} == {
        each: each.decode() for each in (b"f", b"d", b"l", b"p", b"s")
    }
    assert (found[b"f"].mode, found[b"f"].size) == (0o600, 5)
    assert found[b"l"].target == b"a\nb"
    assert parse_records(guestd.builtin("stat", "/dev/null").stdout)[0].type == "c"
    assert parse_records(guestd.builtin("stat", directory + b"/f").stdout)[0].name == directory + b"/f"


def test_times_are_exact(guestd: Client, directory: bytes) -> None:
    put(guestd, directory + b"/f")
    guestd.run("touch", "-d", "1969-12-31 23:59:59.25 UTC", directory + b"/f")
    assert listed(guestd, directory)[0].mtime_ns == -750_000_000


def test_hostile_names_come_through_every_builtin(guestd: Client, directory: bytes) -> None:
    for name in HOSTILE_NAMES:
        put(guestd, directory + b"/" + name, name)
        assert get(guestd, directory + b"/" + name) == name
    assert sorted(each.name for each in listed(guestd, directory)) == sorted(HOSTILE_NAMES)
    for name in HOSTILE_NAMES:
        assert guestd.builtin("rename", name, name[:200] + b"2", cwd=directory).code == 0
        assert guestd.builtin("remove", name[:200] + b"2", "0", cwd=directory).code == 0
    assert listed(guestd, directory) == []


def test_a_listing_goes_level_by_level_to_its_depth_and_limit(guestd: Client, directory: bytes) -> None:
    for path in (b"/a/b/c/file", b"/a/.hidden", b"/top"):
        put(guestd, directory + path)
    guestd.run("ln", "-s", "..", directory + b"/a/up")
    names = [each.name for each in listed(guestd, directory)]
    assert sorted(names) == [b"a", b"a/.hidden", b"a/b", b"a/b/c", b"a/b/c/file", b"a/up", b"top"]
    assert names == sorted(names, key=lambda name: name.count(b"/"))
    assert sorted(each.name for each in listed(guestd, directory, depth=1)) == [b"a", b"top"]
    assert len(listed(guestd, directory, depth=2)) == 5
    assert {each.name for each in listed(guestd, directory, limit=2)} == {b"a", b"top"}
    assert failure(guestd, "list", directory + b"/top", "0", "0") == errno.ENOTDIR
    assert len(listed(guestd, directory + b"/a/up", depth=1)) == 2


def test_a_large_directory_is_listed_whole(guestd: Client, directory: bytes) -> None:
    guestd.run("sh", "-c", "seq 3000 | xargs touch", cwd=directory)
    assert len({each.name for each in listed(guestd, directory)}) == 3000


def test_a_file_that_is_rewritten_is_its_owners_program_no_more(guestd: Client, directory: bytes) -> None:
    path = directory + b"/program"
    put(guestd, path, b"first", "755")
    if guestd.run("chmod", "u+s,g+s", path).code != 0:
        pytest.skip("here nobody can set these bits")
    put(guestd, path, b"second", "-")
    assert (get(guestd, path), mode_of(guestd, path)) == (b"second", 0o755)


def test_directories_are_made_with_their_mode(guestd: Client, directory: bytes) -> None:
    path = directory + b"/a/b"
    assert failure(guestd, "mkdir", path, "700", "0") == errno.ENOENT
    assert guestd.builtin("mkdir", path, "1770", "1").code == 0
    assert mode_of(guestd, path) == 0o1770
    assert mode_of(guestd, directory + b"/a") == 0o755
    assert guestd.builtin("mkdir", path, "700", "1").code == 0
    assert mode_of(guestd, path) == 0o1770
    assert failure(guestd, "mkdir", path, "700", "0") == errno.EEXIST
    put(guestd, directory + b"/file")
    assert failure(guestd, "mkdir", directory + b"/file", "700", "1") == errno.EEXIST


def test_remove_takes_a_file_a_link_an_empty_directory_or_a_tree(guestd: Client, directory: bytes) -> None:
    put(guestd, directory + b"/keep/file")
    put(guestd, directory + b"/tree/x/y/file")
    guestd.run("mkdir", directory + b"/empty")
    for name in (b"/link", b"/tree/link", b"/tree/x/link"):
        guestd.run("ln", "-s", directory + b"/keep", directory + name)
    assert guestd.builtin("remove", directory + b"/link", "1").code == 0
    assert guestd.builtin("remove", directory + b"/empty", "0").code == 0
    assert failure(guestd, "remove", directory + b"/tree", "0") == errno.ENOTEMPTY
    assert guestd.builtin("remove", directory + b"/tree", "1").code == 0
    assert failure(guestd, "remove", directory + b"/tree", "1") == errno.ENOENT
    assert [each.name for each in listed(guestd, directory)] == [b"keep", b"keep/file"]


def test_no_tree_is_too_deep_to_remove(guestd: Client, directory: bytes) -> None:
    script = "import os\nfor _ in range(1500): os.mkdir('deep'); os.chdir('deep'); open('f', 'w').close()"
    assert guestd.run("python3", "-c", script, cwd=directory).code == 0
    assert len(listed(guestd, directory)) > 500
    assert guestd.builtin("remove", directory + b"/deep", "1").code == 0


def watch(guestd: Client, path: bytes, recursive: str = "1") -> int:
    stream = guestd.start("watch", path, recursive, builtin=True, stdin=True)
    guestd.started(stream)
    assert guestd.output(stream, 9) == b"ready 0 \n"
    return stream


def stop(guestd: Client, stream: int) -> set[bytes]:
    guestd.send(encode_input_end(stream))
    finished = guestd.finish(stream)
    assert finished.code == 0, finished.stderr
    return set(finished.stdout.splitlines())


def told(guestd: Client, stream: int, awaited: bytes) -> set[bytes]:
    """What a watch tells until it has told `awaited`."""
    data = b""
    while awaited not in (lines := set(data.splitlines())):
        data += guestd.output(stream, 1)
    return lines


def test_changes_below_a_directory_are_told(guestd: Client, directory: bytes) -> None:
    put(guestd, directory + b"/sub/old")
    stream = watch(guestd, directory)
    guestd.run("sh", "-c", "echo x >> sub/old; mkdir new; echo y > new/file; mv sub moved", cwd=directory)
    changes = told(guestd, stream, b"created 8 new/file")
    guestd.run("sh", "-c", "rm new/file; echo z > moved/z", cwd=directory)
    changes |= stop(guestd, stream)
    assert changes >= {b"modified 7 sub/old", b"created 3 new", b"moved 3 sub", b"moved 5 moved"}
    assert changes >= {b"deleted 8 new/file", b"created 7 moved/z"}


def test_a_flat_watch_stays_flat_and_ends_with_its_directory(guestd: Client, directory: bytes) -> None:
    put(guestd, directory + b"/place/sub/file")
    stream = watch(guestd, directory + b"/place", "0")
    put(guestd, directory + b"/place/sub/file", b"changed")
    guestd.builtin("remove", directory + b"/place", "1")
    finished = guestd.finish(stream)
    assert finished.code == 0
    assert set(finished.stdout.splitlines()) == {b"deleted 3 sub", b"deleted 0 "}


def test_a_file_can_be_watched(guestd: Client, directory: bytes) -> None:
    put(guestd, directory + b"/file")
    stream = watch(guestd, directory + b"/file", "0")
    guestd.run("sh", "-c", "echo more >> file", cwd=directory)
    assert b"modified 0 " in stop(guestd, stream)
    assert failure(guestd, "watch", directory + b"/none", "0") == errno.ENOENT


def test_modes_of_the_test_itself_are_what_stat_says(guestd: Client) -> None:
    assert mode_of(guestd, b"/etc/passwd") == stat.S_IMODE(os.stat("/etc/passwd").st_mode)
