"""Input, output, and their credit."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gloveport.guest.wire import (
    INPUT_WINDOW,
    Exit,
    InputCredit,
    Output,
    encode_credit,
    encode_input,
    encode_input_end,
)

PATIENCE = 60

if TYPE_CHECKING:
    from conftest import Client


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def test_a_megabyte_of_anything_goes_through_a_process(guestd: Client) -> None:
    sent = os.urandom(1 << 20)
    stream = guestd.start("cat", stdin=True)
    guestd.started(stream)
    window, at, received = INPUT_WINDOW, 0, b""
    while len(received) < len(sent):
        size = min(window, len(sent) - at)
        guestd.send(encode_input(stream, sent[at : at + size]))
        window -= size
        at += size
        frame = guestd.frame_of(stream)
        if isinstance(frame, InputCredit):
            window += frame.amount
        if isinstance(frame, Output):
            received += frame.data
    guestd.send(encode_input_end(stream))
    assert guestd.finish(stream).code == 0
    assert received == sent


def test_input_is_empty_unless_it_is_open(guestd: Client) -> None:
    assert guestd.run("cat").stdout == b""
    assert guestd.run("readlink", "/proc/self/fd/0").stdout == b"/dev/null\n"


def test_input_that_nobody_reads_waits_in_guestd_and_not_in_the_way(guestd: Client) -> None:
    stream = guestd.start("sleep", "1000", stdin=True)
    guestd.started(stream)
    guestd.send(encode_input(stream, b"x" * INPUT_WINDOW))
    assert guestd.run("echo", "other").stdout == b"other\n"


def test_input_for_a_process_that_closed_it_is_granted_back(guestd: Client) -> None:
    stream = guestd.start(*shell("exec 0<&-; echo closed; sleep 1000"), stdin=True)
    guestd.started(stream)
    guestd.output(stream, 7)
    guestd.send(encode_input(stream, b"x" * INPUT_WINDOW))
    granted = 0
    while granted < INPUT_WINDOW - 65_536:
        frame = guestd.frame_of(stream)
        assert isinstance(frame, InputCredit)
        granted += frame.amount


def test_late_input_is_dropped_silently(guestd: Client) -> None:
    stream = guestd.start("true", stdin=True)
    guestd.finish(stream)
    guestd.send(encode_input(stream, b"late") + encode_input_end(stream) + encode_credit(stream, 1))
    assert guestd.run("true").code == 0


def test_without_credit_a_process_waits_and_no_other_notices(guestd: Client) -> None:
    stream = guestd.start(*shell("head -c 300000 /dev/zero; echo done"), credit=1000)
    guestd.started(stream)
    assert len(guestd.output(stream, 1000)) == 1000
    assert guestd.run("echo", "other").stdout == b"other\n"
    for amount in (1, 70_000, 5):
        guestd.send(encode_credit(stream, amount))
        assert len(guestd.output(stream, amount)) == amount
    guestd.send(encode_credit(stream, 1 << 20))
    assert guestd.finish(stream).stdout.endswith(b"\0done\n")


def test_output_written_before_the_end_precedes_it_however_late_the_credit(guestd: Client) -> None:
    stream = guestd.start(*shell("head -c 50000 /dev/zero; head -c 50000 /dev/zero >&2"), credit=0)
    guestd.started(stream)
    assert guestd.run("sleep", "0.1").code == 0
    guestd.send(encode_credit(stream, 99_999))
    received = guestd.output(stream, 99_999)
    assert len(received) == 99_999
    guestd.send(encode_credit(stream, 1))
    assert isinstance(guestd.frame_of(stream), Output)
    assert isinstance(guestd.frame_of(stream), Exit)


@pytest.mark.parametrize("keep", [0, 1, 1000, 65_536, 100_000])
def test_what_exceeds_keep_is_dropped_and_counted_to_the_byte(guestd: Client, keep: int) -> None:
    script = "head -c 1000000 /dev/zero & head -c 200000 /dev/zero >&2; wait"
    finished = guestd.run(*shell(script), keep=keep)
    assert (len(finished.stdout), len(finished.stderr)) == (keep, keep)
    assert finished.exit.stdout_dropped == 1_000_000 - keep
    assert finished.exit.stderr_dropped == 200_000 - keep


def test_dropped_output_needs_no_credit(guestd: Client) -> None:
    finished = guestd.run("head", "-c", "1000000", "/dev/zero", keep=10, credit=10)
    assert (len(finished.stdout), finished.exit.stdout_dropped) == (10, 999_990)


def test_a_background_child_lives_on_with_its_output_dropped(guestd: Client, directory: bytes) -> None:
    work = directory.decode()
    guestd.run(*shell(f"mkfifo {work}/go {work}/done"))
    child = f"read line < {work}/go; head -c 300000 /dev/zero && echo alive > {work}/done"
    finished = guestd.run(*shell(f"({child}) & echo first"))
    assert (finished.stdout, finished.code) == (b"first\n", 0)
    guestd.run(*shell(f"echo > {work}/go"))
    assert guestd.run("cat", f"{work}/done").stdout == b"alive\n"


def test_a_host_that_does_not_read_costs_guestd_bounded_memory(guestd: Client) -> None:
    before = peak_memory(guestd)
    streams = [guestd.start("head", "-c", "5000000", "/dev/zero") for _ in range(8)]
    until(lambda: waiting(guestd) > 1 << 16)
    with ThreadPoolExecutor() as pool:  # guestd may well stop reading, too
        more = pool.submit(lambda: [guestd.start("true") for _ in range(200)])
        for stream in streams:
            assert guestd.finish(stream).code == 0
        for stream in more.result():
            assert guestd.finish(stream).code == 0
    assert peak_memory(guestd) - before < 16 << 20


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def waiting(guestd: Client) -> int:
    """How many bytes guestd has sent that nobody has read."""
    return int.from_bytes(fcntl.ioctl(guestd.control, termios.FIONREAD, bytes(4)), sys.byteorder)


def peak_memory(guestd: Client) -> int:
    status: dict[str, str] = {}
    pid = str(guestd.process.pid)
    while not status.get("Name", "").strip().startswith("guestd"):  # as pid 1 it is a child of bubblewrap's
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        pid = Path(f"/proc/{pid}/task/{pid}/children").read_text().partition(" ")[0]
    return int(status["VmHWM"].split()[0]) << 10
