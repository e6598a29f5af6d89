"""Processes: how they start, what they see, how they end."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from gloveport.guest.wire import (
    Exit,
    GuestFrame,
    How,
    Output,
    Pong,
    Started,
    encode_input_end,
    encode_ping,
    encode_resize,
    encode_signal,
)

if TYPE_CHECKING:
    from conftest import Client, Variant


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def test_stdout_and_stderr_arrive_apart_and_the_exit_code_last(guestd: Client) -> None:
    finished = guestd.run(*shell("echo out; echo err >&2; exit 3"))
    assert (finished.stdout, finished.stderr, finished.code) == (b"out\n", b"err\n", 3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_death_by_a_signal_is_told_from_an_exit_code(guestd: Client, number: int) -> None:
    end = guestd.run(*shell(f"kill -{number} $$")).exit
    assert (end.how, end.code) == (How.SIGNALLED, number)


@pytest.mark.parametrize(
    ("argv", "facts", "reason", "bad_directory"),
    [
        (["nonesuch"], {}, errno.ENOENT, False),
        ([""], {}, errno.ENOENT, False),
        (["/etc/passwd"], {}, errno.EACCES, False),
        (["/nonesuch/true"], {}, errno.ENOENT, False),
        (["true"], {"env": []}, errno.ENOENT, False),
        (["true"], {"cwd": b"/nonesuch"}, errno.ENOENT, True),
        (["true"], {"cwd": b"/etc/passwd"}, errno.ENOTDIR, True),
    ],
    ids=repr,
)
def test_what_cannot_start_says_why(
    guestd: Client, argv: list[str], facts: dict[str, object], reason: int, bad_directory: bool
) -> None:
    end = guestd.run(*argv, **facts).exit
    assert (end.how, end.code, end.bad_directory) == (How.NOT_STARTED, reason, bad_directory)
    assert guestd.run("true").code == 0


def test_a_name_is_looked_up_in_the_given_path_past_what_cannot_run(guestd: Client, directory: bytes) -> None:
    guestd.builtin("write", directory + b"/true", "644", "0", stdin=b"not a program")
    path = b"/nonesuch:/etc/passwd:" + directory + b":/usr/bin:/bin"
    assert guestd.run("true", path=path).code == 0
    assert guestd.run("true", path=directory).exit.code == errno.EACCES


def test_a_process_gets_exactly_the_given_environment_and_directory(guestd: Client) -> None:
    finished = guestd.run(*shell("env -i true; cat /proc/self/environ; pwd"), cwd=b"/usr", env=[b"PATH=/usr/bin:/bin"])
    assert finished.stdout.startswith(b"PATH=/usr/bin:/bin\0")
    assert b"HOME" not in finished.stdout
    assert finished.stdout.endswith(b"/usr\n")


def test_a_process_starts_with_a_clean_state(guestd: Client) -> None:
    status = guestd.run("cat", "/proc/self/status").stdout.decode().splitlines()
    for field in ("SigBlk:\t" + "0" * 16, "SigIgn:\t" + "0" * 16, "NoNewPrivs:\t1"):
        assert field in status
    assert guestd.run(*shell("umask; ulimit -c; ls /proc/$$/fd")).stdout == b"0022\n0\n0\n1\n2\n"
    stream = guestd.start("cat", "/proc/self/stat")
    pid = guestd.started(stream)
    facts = guestd.finish(stream).stdout.decode().rpartition(")")[2].split()
    assert facts[2:4] == [str(pid), str(pid)], "it leads its process group and session"


def test_a_long_start_arrives_whole(guestd: Client) -> None:
    words = ["name", *["x" * 1000] * 1000, *[""] * 2000]
    finished = guestd.run(*shell('printf %s "$*" | wc -c; echo $#'), *words)
    assert finished.stdout.split() == [str(1000 * 1000 + 2999).encode(), b"3000"]


def test_many_processes_at_once_keep_their_output_apart(guestd: Client) -> None:
    streams = [guestd.start(*shell(f"seq {n} {n + 5000}; echo {n} >&2; exit {n}")) for n in range(64)]
    for n, stream in enumerate(streams):
        finished = guestd.finish(stream)
        assert finished.stdout == b"".join(b"%d\n" % each for each in range(n, n + 5001))
        assert (finished.stderr, finished.code) == (b"%d\n" % n, n)


def test_limits_bind_every_process(launch: Callable[..., Client]) -> None:
    guestd = launch("-p", "123", "-n", "64", "-s", "1048576", "-d", "268435456")
    table = " ".join(guestd.run("cat", "/proc/self/limits").stdout.decode().split())
    for line in ("processes 123 123", "open files 64 64", "file size 1048576 1048576", "data size 268435456 268435456"):
        assert f"Max {line} " in table


def test_a_file_stops_at_its_limit(launch: Callable[..., Client]) -> None:
    guestd = launch("-s", "1048576")
    big = guestd.directory + b"/big"
    finished = guestd.run("head", "-c", "2000000", "/dev/zero", terminal=None, keep=0)
    assert finished.exit.stdout_dropped == 2_000_000
    guestd.run(*shell(f"head -c 2000000 /dev/zero > {big.decode()}"))
    assert guestd.builtin("stat", big).stdout.split()[2] == b"1048576"
    assert guestd.builtin("remove", big, "0").code == 0


def test_a_terminal_has_its_size_and_follows_a_resize(guestd: Client) -> None:
    stream = guestd.start(*shell("tty; stty size; read line; stty size"), terminal=(30, 100))
    guestd.started(stream)
    first = guestd.output(stream, len(b"/dev/pts/0\r\n30 100\r\n"))
    assert first.startswith(b"/dev/pts/")
    assert first.endswith(b"\r\n30 100\r\n")
    guestd.send(encode_resize(stream, 50, 132))
    send_input(guestd, stream, b"go\n")
    finished = guestd.finish(stream)
    assert finished.stdout == b"go\r\n50 132\r\n"
    assert (finished.stderr, finished.code) == (b"", 0)


def test_a_terminal_is_the_controlling_one_and_its_end_of_input_is_typed(guestd: Client) -> None:
    finished = guestd.run(*shell("cat > /dev/tty; echo end"), stdin=b"line\n", terminal=(24, 80))
    assert (finished.stdout, finished.code) == (b"line\r\nline\r\nend\r\n", 0)


def test_an_interrupt_character_interrupts_the_foreground(guestd: Client) -> None:
    stream = guestd.start(*shell("echo ready; exec cat"), terminal=(24, 80))
    guestd.started(stream)
    assert guestd.output(stream, 7) == b"ready\r\n"
    send_input(guestd, stream, b"\x03")
    end = guestd.finish(stream).exit
    assert (end.how, end.code) == (How.SIGNALLED, signal.SIGINT)


def send_input(guestd: Client, stream: int, data: bytes) -> None:
    guestd.send(len(data).to_bytes(4, "little") + b"\2" + stream.to_bytes(4, "little") + data)


# Starts a grandchild in a session of its own whose parent is gone, and says when it is there.
DETACH = "(setsid sh -c 'trap \"\" TERM HUP; echo $$; exec sleep 1000' &)"


def is_alive(guestd: Client, pid: bytes) -> bool:
    return guestd.run("test", "-d", b"/proc/" + pid).code == 0


def goes_away(guestd: Client, pid: bytes) -> bool:
    """A killed process stays visible until it is reaped."""
    script = f"while [ -d /proc/{pid.decode()} ]; do sleep 0.01; done"
    return not guestd.run(*shell(script), timeout_ms=30_000).exit.timed_out


def test_a_signal_may_go_to_the_process_alone(guestd: Client) -> None:
    stream = guestd.start(*shell(f"{DETACH}; trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done"))
    guestd.started(stream)
    (pid,) = set(guestd.lines(stream, 2)) - {b"ready"}
    guestd.send(encode_signal(stream, signal.SIGUSR1, tree=False))
    assert guestd.finish(stream).code == 9
    assert is_alive(guestd, pid)
    guestd.run("kill", "-9", pid)


def test_a_signal_to_the_tree_finds_daemonised_descendants(guestd: Client) -> None:
    stream = guestd.start(*shell(f"{DETACH}; sleep 1000"))
    guestd.started(stream)
    (pid,) = guestd.lines(stream, 1)
    assert is_alive(guestd, pid)
    guestd.send(encode_signal(stream, signal.SIGKILL, tree=True))
    end = guestd.finish(stream).exit
    assert (end.how, end.code) == (How.SIGNALLED, signal.SIGKILL)
    assert goes_away(guestd, pid)


def test_a_polite_signal_to_the_tree_leaves_it_running(guestd: Client) -> None:
    script = "trap 'echo got; exit 4' TERM; echo ready; while :; do sleep 0.01; done"
    stream = guestd.start(*shell(script))
    guestd.started(stream)
    assert guestd.output(stream, 6) == b"ready\n"
    guestd.send(encode_signal(stream, signal.SIGTERM, tree=True))
    finished = guestd.finish(stream)
    assert (finished.stdout, finished.code) == (b"got\n", 4)


def test_a_stopped_tree_goes_on_when_told(guestd: Client) -> None:
    stream = guestd.start(*shell("echo ready; read line; echo $line"), stdin=True)
    guestd.started(stream)
    guestd.output(stream, 6)
    guestd.send(encode_signal(stream, signal.SIGSTOP, tree=True))
    send_input(guestd, stream, b"on\n")
    assert guestd.run("true").code == 0
    guestd.send(encode_signal(stream, signal.SIGCONT, tree=True))
    assert guestd.finish(stream).stdout == b"on\n"


def test_a_pong_says_that_what_came_before_it_is_done(guestd: Client) -> None:
    stream = guestd.start("cat", stdin=True)
    guestd.started(stream)
    send_input(guestd, stream, b"before")
    guestd.send(encode_signal(0, signal.SIGSTOP, tree=True) + encode_ping() + encode_ping())
    send_input(guestd, stream, b" and after")
    until: list[GuestFrame] = [guestd.frame()]
    while until[-1] != Pong():
        until.append(guestd.frame())
    assert guestd.frame() == Pong()
    assert b"after" not in b"".join(frame.data for frame in until if isinstance(frame, Output))
    guestd.send(encode_signal(0, signal.SIGCONT, tree=True) + encode_input_end(stream))
    assert guestd.finish(stream).stdout.endswith(b" and after")


def test_a_thousand_processes_die_at_one_signal(guestd: Client) -> None:
    script = "i=0; while [ $i -lt 1000 ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait"
    stream = guestd.start(*shell(script))
    guestd.started(stream)
    assert guestd.output(stream, 6) == b"ready\n"
    guestd.send(encode_signal(stream, signal.SIGKILL, tree=True))
    assert guestd.finish(stream).exit.code == signal.SIGKILL


# It bounds itself too, lest a broken guestd takes the machine along.
FORK_BOMB = """
import os, time
os.write(1, b"boom")
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        pass
"""


def test_a_fork_bomb_dies_at_one_signal(launch: Callable[..., Client], variant: Variant) -> None:
    if not variant.is_pid_1:
        pytest.skip("only a sandbox bounds its processes")
    guestd = launch("-p", "200")
    stream = guestd.start("python3", "-c", FORK_BOMB)
    guestd.started(stream)
    assert guestd.output(stream, 4).startswith(b"boom")
    assert guestd.run("true").exit.how == How.EXITED, "the host can still start processes"
    guestd.send(encode_signal(stream, signal.SIGKILL, tree=True))
    assert guestd.finish(stream).exit.code == signal.SIGKILL
    left = guestd.run(*shell("cat /proc/[0-9]*/stat | grep -c python3"))
    assert left.stdout == b"0\n"


def test_out_of_time_is_flagged_and_polite_first(guestd: Client) -> None:
    script = "trap 'exit 7' TERM; while :; do sleep 0.01; done"
    end = guestd.run(*shell(script), timeout_ms=50).exit
    assert (end.timed_out, end.how, end.code) == (True, How.EXITED, 7)


def test_out_of_time_kills_what_ignores_it(guestd: Client) -> None:
    end = guestd.run(*shell("trap '' TERM; while :; do sleep 0.01; done"), timeout_ms=50).exit
    assert (end.timed_out, end.how, end.code) == (True, How.SIGNALLED, signal.SIGKILL)


def test_out_of_time_also_ends_descendants_that_outlive_the_process(guestd: Client) -> None:
    script = f"{DETACH}; trap 'exit 7' TERM; while :; do sleep 0.01; done"
    stream = guestd.start(*shell(script), timeout_ms=500)
    guestd.started(stream)
    (pid,) = guestd.lines(stream, 1)
    end = guestd.finish(stream).exit
    assert (end.timed_out, end.code) == (True, 7)
    assert goes_away(guestd, pid)


def test_in_time_is_not_flagged(guestd: Client) -> None:
    assert not guestd.run("true", timeout_ms=60_000).exit.timed_out


def test_orphans_are_reaped(guestd: Client, directory: bytes) -> None:
    guestd.run("mkfifo", directory + b"/go")
    orphan = f"echo $$; exec > /dev/null; read line < {directory.decode()}/go"
    stream = guestd.start(*shell(f"setsid sh -c '{orphan}' & read forever"), stdin=True)
    guestd.started(stream)
    (pid,) = guestd.lines(stream, 1)
    guestd.send(encode_signal(stream, signal.SIGKILL, tree=False))
    guestd.finish(stream)
    assert is_alive(guestd, pid)
    guestd.run(*shell(f"echo > {directory.decode()}/go"))
    assert goes_away(guestd, pid)


def test_the_end_of_the_stream_ends_detached_grandchildren(guestd: Client, variant: Variant) -> None:
    stream = guestd.start(*shell(f"{DETACH}; sleep 1000"))
    guestd.started(stream)
    pid = int(guestd.lines(stream, 1)[0])
    watched = None if variant.is_pid_1 else os.pidfd_open(pid)
    guestd.control.close()
    assert guestd.process.wait(60) == 0
    if watched is not None:
        ready, _, _ = select.select([watched], [], [], 60)
        os.close(watched)
        assert ready


def test_guestd_is_closed_to_the_guest(guestd: Client, variant: Variant) -> None:
    if not variant.is_pid_1:
        pytest.skip("root may look into anything")
    for path in ("/proc/1/fd", "/proc/1/mem", "/proc/1/environ", "/proc/1/maps"):
        finished = guestd.run(*shell(f"ls {path}/* || head -c 1 {path}"))
        assert (finished.code, finished.stdout) == (1, b""), path
    assert guestd.run("kill", "-9", "1").code == 0
    assert guestd.run("true").code == 0


def test_started_comes_first_and_exit_last(guestd: Client) -> None:
    stream = guestd.start("echo", "x")
    frames = [guestd.frame_of(stream) for _ in range(3)]
    assert [type(frame) for frame in (frames[0], frames[2])] == [Started, Exit]


def test_a_program_may_become_a_subreaper(guestd: Client) -> None:
    script = "import ctypes; print(ctypes.CDLL(None).prctl(36, 1, 0, 0, 0))"
    assert guestd.run("python3", "-c", script).stdout == b"0\n"


def test_a_signal_to_all_reaches_orphans_and_spares_guestd(guestd: Client) -> None:
    first = guestd.start(*shell(f"{DETACH}; exec sleep 1000"))
    second = guestd.start("sleep", "1000")
    guestd.started(first)
    guestd.started(second)
    (orphan,) = guestd.lines(first, 1)
    guestd.send(encode_signal(first, signal.SIGKILL, tree=False))
    guestd.finish(first)
    assert is_alive(guestd, orphan)
    guestd.send(encode_signal(0, signal.SIGKILL, tree=True))
    assert guestd.finish(second).exit.code == signal.SIGKILL
    assert goes_away(guestd, orphan)
    assert guestd.run("true").code == 0
