"""The guest against guestd, whose user it shares."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from gloveport.guest.wire import encode_signal

if TYPE_CHECKING:
    from conftest import Client, Variant

CALLS = """
import ctypes, errno, os, platform, resource, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "x86_64": dict(setattr=314, ioprio_get=252, ioprio_set=251, setrlimit=160, prlimit=302, vm_writev=311,
                   ptrace=101, move_pages=279, migrate_pages=256, robust=274),
    "aarch64": dict(setattr=274, ioprio_get=31, ioprio_set=30, setrlimit=164, prlimit=261, vm_writev=271,
                    ptrace=117, move_pages=239, migrate_pages=238, robust=100),
}[platform.machine()]
PIDFD_OPEN, PIDFD_GETFD, MADVISE = 434, 438, 440

def call(number, *arguments):
    ctypes.set_errno(0)
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *words) < 0 else 0

def buffer(*words):
    return ctypes.create_string_buffer(struct.pack("<%dQ" % len(words), *words))

zeros = buffer(*[0] * 8)
"""

# Each line: what to call on process 1.
ON_GUESTD = """
def facts():
    stat = open("/proc/1/stat").read().rpartition(")")[2].split()
    priority = stat[15], stat[16], stat[37], stat[38]
    io = libc.syscall(NUMBERS["ioprio_get"], 1, 1)
    return open("/proc/1/limits").read(), priority, os.sched_getaffinity(1), io

before = facts()
idle = buffer(48 | 5 << 32, 0, 19)
attributes = ctypes.create_string_buffer(struct.pack("<IIQiIQQQ", 48, 5, 0, 19, 0, 0, 0, 0))
one_cpu = buffer(1 << min(os.sched_getaffinity(0)))
part = buffer(ctypes.addressof(zeros), 8)
pidfd = libc.syscall(PIDFD_OPEN, 1, 0)
answers = {
    **{"prlimit %d" % each: call(NUMBERS["prlimit"], 1, each, zeros, 0) for each in range(16)},
    "prlimit, upper half set": call(NUMBERS["prlimit"], 1 | 1 << 32, 7, zeros, 0),
    "sched_setattr": call(NUMBERS["setattr"], 1, attributes, 0),
    "sched_setscheduler": ctypes.set_errno(0) or libc.sched_setscheduler(1, 5, zeros) and ctypes.get_errno(),
    "sched_setparam": ctypes.set_errno(0) or libc.sched_setparam(1, zeros) and ctypes.get_errno(),
    "sched_setaffinity": ctypes.set_errno(0) or libc.sched_setaffinity(1, 8, one_cpu) and ctypes.get_errno(),
    "ioprio_set": call(NUMBERS["ioprio_set"], 1, 1, 3 << 13),
    "ioprio_set group": call(NUMBERS["ioprio_set"], 2, 1, 3 << 13),
    "ioprio_set user": call(NUMBERS["ioprio_set"], 3, os.getuid(), 3 << 13),
    "ioprio_set own user": call(NUMBERS["ioprio_set"], 3, 0, 3 << 13),
    **{
        "setpriority %d %d" % scope: ctypes.set_errno(0) or libc.setpriority(*scope, 19) and ctypes.get_errno()
        for scope in ((0, 1), (1, 1), (2, os.getuid()), (2, 0))
    },
    "ptrace": call(NUMBERS["ptrace"], 16, 1, 0, 0),
    "process_vm_writev": call(NUMBERS["vm_writev"], 1, part, 1, part, 1, 0),
    "pidfd_getfd": call(PIDFD_GETFD, pidfd, 3, 0),
    "process_madvise": call(MADVISE, pidfd, part, 1, 21, 0),
    "move_pages": call(NUMBERS["move_pages"], 1, 0, 0, 0, 0, 0),
    "migrate_pages": call(NUMBERS["migrate_pages"], 1, 8, buffer(1), buffer(1)),
    "get_robust_list": call(NUMBERS["robust"], 1, zeros, zeros),
}
print([name for name, answer in answers.items() if answer not in (errno.EPERM, errno.EACCES, errno.ENOSYS)])
print(facts() == before)
"""

FILES = """
import os
for directory, _, names in os.walk("/proc/1"):
    for path in (os.path.join(directory, name) for name in names):
        for value in (b"0", b"1", b"1000", b"x"):
            try:
                with open(path, "wb", buffering=0) as file:
                    file.write(value)
            except OSError:
                continue
            print(path)
"""


def needs_sandbox(variant: Variant) -> None:
    if not variant.is_pid_1:
        pytest.skip("root may do anything to a process of its own")


def test_no_call_changes_guestd(guestd: Client, variant: Variant) -> None:
    needs_sandbox(variant)
    finished = guestd.run("python3", "-c", CALLS + ON_GUESTD)
    assert (finished.stdout, finished.stderr) == (b"[]\nTrue\n", b"")


def test_no_file_of_guestd_can_be_written(guestd: Client, variant: Variant) -> None:
    needs_sandbox(variant)
    finished = guestd.run("python3", "-c", FILES)
    assert (finished.stdout, finished.code) == (b"", 0)


def test_no_signal_however_sent_keeps_guestd_from_its_work(guestd: Client, variant: Variant) -> None:
    needs_sandbox(variant)
    script = """
import fcntl, os, signal
for number in range(1, 65):
    os.kill(1, number)
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, 1)
    fcntl.fcntl(reader, 10, number)
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
    os.write(writer, b"x")
"""
    assert guestd.run("python3", "-c", script).code == 0
    assert guestd.run("sleep", "1000", timeout_ms=50).exit.timed_out


def test_a_flood_of_signals_does_not_keep_guestd_from_its_work(guestd: Client, variant: Variant) -> None:
    needs_sandbox(variant)
    flood = 'import os\nos.write(1, b"go")\nwhile True: os.kill(1, 17)'
    streams = [guestd.start("python3", "-c", flood, timeout_ms=20_000) for _ in range(4)]
    for stream in streams:
        guestd.started(stream)
        guestd.output(stream, 2)
    assert guestd.run("sleep", "1000", timeout_ms=50).exit.timed_out
    for stream in streams:
        guestd.send(encode_signal(stream, signal.SIGKILL, tree=True))
        assert not guestd.finish(stream).exit.timed_out


def test_a_guest_that_stops_whatever_starts_does_not_stop_guestd(guestd: Client, variant: Variant) -> None:
    needs_sandbox(variant)
    script = """
import os
os.write(1, b"go")
while True:
    try:
        os.kill(-1, 19)
    except OSError:
        pass
"""
    stopper = guestd.start("python3", "-c", script, timeout_ms=5_000)
    guestd.started(stopper)
    guestd.output(stopper, 2)
    streams = [guestd.start("true", timeout_ms=100) for _ in range(200)]
    for stream in streams:
        guestd.finish(stream)
    assert guestd.finish(stopper).exit.timed_out
    assert guestd.run("true").code == 0


def test_a_process_can_change_itself_but_not_its_mark(guestd: Client) -> None:
    script = """
mark = buffer(*resource.prlimit(0, 10))
other = buffer(7, 7)
high = 1 << 32
answers = [
    call(NUMBERS["prlimit"], 0, 10, other, 0),
    call(NUMBERS["prlimit"], os.getpid(), 10, other, 0),
    call(NUMBERS["prlimit"], os.getpid(), 10 | high, mark, 0),
    call(NUMBERS["prlimit"], 0, 10, other, 0, 0, 0),
    call(NUMBERS["setrlimit"], 10, other),
    call(NUMBERS["setrlimit"], 10 | high, other),
]
print(answers == [errno.EPERM] * len(answers))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE, (63, 63))
os.sched_setaffinity(os.getpid(), os.sched_getaffinity(0))
os.setpriority(os.PRIO_PROCESS, os.getpid(), 5)
os.setpriority(os.PRIO_PGRP, 0, 6)
print(resource.getrlimit(resource.RLIMIT_NOFILE), os.nice(0))
"""
    finished = guestd.run("python3", "-c", CALLS + script)
    assert (finished.stdout, finished.stderr) == (b"True\n(63, 63) 6\n", b"")


def test_nobody_gets_a_priority_over_guestd(guestd: Client) -> None:
    table = " ".join(guestd.run("cat", "/proc/self/limits").stdout.decode().split())
    assert "Max nice priority 0 0 Max realtime priority 0 0" in table


def test_guestd_ends_when_it_cannot_see_the_processes(launch: Callable[..., Client], variant: Variant) -> None:
    if variant.is_pid_1:
        pytest.skip("its number is not known here")
    guestd = launch()
    guestd.statuses = (1,)
    stream = guestd.start("sleep", "1000")
    guestd.started(stream)
    resource.prlimit(guestd.process.pid, resource.RLIMIT_NOFILE, (0, 0))
    guestd.send(encode_signal(stream, signal.SIGKILL, tree=True))
    assert guestd.ended() == 1
