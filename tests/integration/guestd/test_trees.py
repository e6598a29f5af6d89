"""The whole tree of a process ends at one signal and with its time, whatever it does to be left out."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from gloveport.guest.wire import encode_signal

if TYPE_CHECKING:
    from conftest import Client

# Whoever descends from it holds `held` open for writing: its reader sees the end when nobody is left.
PRELUDE = """
import ctypes, os, platform, signal, threading, time
libc = ctypes.CDLL(None)
CLONE, EXIT = {"x86_64": (56, 60), "aarch64": (220, 93)}[platform.machine()]
held = os.open("held", os.O_WRONLY)
signal.signal(signal.SIGTERM, signal.SIG_IGN)

def ready():
    os.write(1, b"ready")

def rest():
    time.sleep(1000)

def orphan(work):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            work()
            os._exit(0)
        os._exit(0)
    os.wait()

"""

ESCAPES = {
    "an orphan in a session of its own": "orphan(rest); ready(); rest()",
    "an orphan whose ancestors adopt nobody": "libc.prctl(36, 0, 0, 0, 0); orphan(rest); ready(); rest()",
    "a child that is made a sibling": """
CLONE_PARENT = 0x8000
if libc.syscall(CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0) == 0:
    rest()
ready()
rest()
""",
    "a child whose first thread has ended": """
def headless():
    threading.Thread(target=rest).start()
    libc.syscall(EXIT, 0)
if os.fork() == 0:
    headless()
ready()
rest()
""",
    "one whose first thread has ended, alone": """
threading.Thread(target=rest).start()
ready()
libc.syscall(EXIT, 0)
""",
    "a chain that forks and ends": """
def hop():
    while os.fork() == 0:
        pass
orphan(hop)
ready()
rest()
""",
    "a chain that shares its memory": """
stack = ctypes.create_string_buffer(1 << 16)
def hop():
    while True:
        if os.fork() > 0:
            os._exit(0)
        if os.fork() > 0:
            os._exit(0)
for _ in range(4):
    orphan(hop)
ready()
rest()
""",
    "somebody who wakes and somebody who stops the others": """
def shout(number):
    while True:
        try:
            os.kill(-1, number)
        except OSError:
            pass
orphan(lambda: shout(signal.SIGCONT))
ready()
rest()
""",
}

# At the polite signal it leaves a child that nobody has seen before, and ends.
LATE = """
def leave(*_):
    orphan(rest)
    os._exit(9)
signal.signal(signal.SIGTERM, leave)
ready()
while True:
    time.sleep(0.01)
"""


@pytest.fixture
def hostile(guestd: Client, directory: bytes) -> Callable[[str, int], int]:
    """Starts a hostile tree, with its time in milliseconds; its stream once it is ready."""

    def start(script: str, timeout_ms: int) -> int:
        stream = guestd.start("python3", "-c", PRELUDE + script, cwd=directory, timeout_ms=timeout_ms)
        guestd.started(stream)
        assert guestd.output(stream, 5) == b"ready"
        return stream

    return start


@pytest.fixture
def witness(guestd: Client, directory: bytes) -> int:
    """Ends when nobody holds `held` any more; out of the reach of signals to everybody."""
    assert guestd.run("mkfifo", directory + b"/held").code == 0
    stream = guestd.start("cat", "held", cwd=directory, timeout_ms=50_000)
    guestd.started(stream)
    return stream


def escapes(function: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("script", ESCAPES.values(), ids=ESCAPES.keys())(function)


@escapes
def test_out_of_time_nobody_is_left(
    guestd: Client, witness: int, hostile: Callable[[str, int], int], script: str
) -> None:
    end = guestd.finish(hostile(script, 3_000)).exit
    assert end.timed_out
    assert not guestd.finish(witness).exit.timed_out


@escapes
def test_a_signal_to_the_tree_leaves_nobody(
    guestd: Client, witness: int, hostile: Callable[[str, int], int], script: str
) -> None:
    stream = hostile(script, 0)
    guestd.send(encode_signal(stream, signal.SIGKILL, tree=True))
    assert guestd.finish(stream).exit.code == signal.SIGKILL
    assert not guestd.finish(witness).exit.timed_out


def test_who_is_born_at_the_polite_signal_goes_with_the_process(
    guestd: Client, witness: int, hostile: Callable[[str, int], int]
) -> None:
    end = guestd.finish(hostile(LATE, 3_000)).exit
    assert (end.timed_out, end.code) == (True, 9)
    assert not guestd.finish(witness).exit.timed_out


def test_another_process_and_what_it_left_behind_live_on(
    guestd: Client, directory: bytes, witness: int, hostile: Callable[[str, int], int]
) -> None:
    guestd.run("mkfifo", "go", cwd=directory)
    left = guestd.run("sh", "-c", "(read line < go; echo $line > said) > /dev/null 2>&1 &", cwd=directory)
    assert left.code == 0
    beside = guestd.start("sh", "-c", "read line; exit 7", stdin=True)
    guestd.started(beside)
    assert guestd.finish(hostile("orphan(rest); ready(); rest()", 300)).exit.timed_out
    assert not guestd.finish(witness).exit.timed_out
    guestd.send(len(b"x\n").to_bytes(4, "little") + b"\2" + beside.to_bytes(4, "little") + b"x\n")
    assert guestd.finish(beside).code == 7
    assert guestd.run("sh", "-c", "mkfifo said; echo alive > go; cat said", cwd=directory).stdout == b"alive\n"
