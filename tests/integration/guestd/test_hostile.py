"""guestd against a broken host, a greedy guest, and noise."""

from __future__ import annotations

import random
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from gloveport.guest.wire import INPUT_WINDOW, How, Start, encode_input, encode_input_end, encode_start

if TYPE_CHECKING:
    from conftest import Client, Variant


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IBI", len(payload), kind, stream) + payload


def string(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def start_payload(
    flags: int = 0,
    cwd: bytes = string(b"/"),
    argv: bytes = struct.pack("<I", 1) + string(b"/bin/true"),
    environment: bytes = struct.pack("<I", 0),
) -> bytes:
    return struct.pack("<HHHIIQ", flags, 0, 0, 0, 0, 0) + cwd + argv + environment


MALFORMED = {
    "an unknown frame": frame(8, 1),
    "a frame of the guest": frame(65, 1, b"\1\0\0\0"),
    "a head that announces too much": struct.pack("<IBI", 65_537, 2, 1),
    "the greatest length": struct.pack("<IBI", 2**32 - 1, 1, 1),
    "stream 0": frame(1, 0, start_payload()),
    "an empty START": frame(1, 1),
    "START with unknown flags": frame(1, 1, start_payload(flags=8)),
    "START with a relative directory": frame(1, 1, start_payload(cwd=string(b"tmp"))),
    "START with NUL in a string": frame(1, 1, start_payload(cwd=string(b"/\0"))),
    "START without arguments": frame(1, 1, start_payload(argv=struct.pack("<I", 0))),
    "START with too many arguments": frame(1, 1, start_payload(argv=struct.pack("<I", 4097) + string(b"") * 4097)),
    "START with a string beyond its end": frame(1, 1, start_payload(cwd=struct.pack("<I", 2**32 - 1) + b"/")),
    "START with a nameless variable": frame(1, 1, start_payload(environment=struct.pack("<I", 1) + string(b"=x"))),
    "START with a variable without a value": frame(
        1, 1, start_payload(environment=struct.pack("<I", 1) + string(b"x"))
    ),
    "START with something after it": frame(1, 1, start_payload() + b"x"),
    "a part of START interrupted": frame(7, 1, b"x") + frame(3, 1),
    "a part of START of another stream": frame(7, 1, b"x") + frame(7, 2, b"x"),
    "parts of START without end": frame(7, 1, b"x" * 65_536) * 33,
    "a stream started twice": frame(
        1, 1, start_payload(argv=struct.pack("<I", 2) + string(b"/bin/sleep") + string(b"9"))
    )
    * 2,
    "INPUT_END with content": frame(3, 1, b"x"),
    "SIGNAL 0": frame(4, 1, b"\0\0"),
    "SIGNAL 65": frame(4, 1, b"\x41\0"),
    "SIGNAL with an unknown scope": frame(4, 1, b"\1\2"),
    "SIGNAL too short": frame(4, 1, b"\1"),
    "RESIZE too long": frame(5, 1, b"\1\0\1\0\1"),
    "CREDIT too short": frame(6, 1, b"\1\0\0"),
    "PING of a process": frame(8, 1),
    "PING with content": frame(8, 0, b"x"),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_frame_ends_guestd(guestd: Client, data: bytes) -> None:
    guestd.send(data)
    assert guestd.ended() == 2


def test_more_input_than_granted_ends_guestd(guestd: Client) -> None:
    stream = guestd.start("sleep", "1000", stdin=True)
    guestd.started(stream)
    with suppress(BrokenPipeError, ConnectionResetError):  # it may end before it has taken everything
        guestd.send(encode_input(stream, b"x" * 2 * INPUT_WINDOW))
    assert guestd.ended() == 2


def noise(seed: int) -> bytes:
    """Frames that are nearly right: valid ones with bytes changed, cut, repeated and mixed with junk."""
    chance = random.Random(seed)
    valid = [
        encode_start(1, Start(argv=[b"/bin/cat"], cwd=b"/", env=[b"A=1"], credit=99, keep=999, stdin=True)),
        encode_start(2, Start(argv=[b"hello"], cwd=b"/", env=[], credit=0, keep=0, builtin=True)),
        encode_start(3, Start(argv=[b"/bin/cat"], cwd=b"/", env=[], credit=9, keep=9, terminal=(2, 3))),
        *(frame(kind, stream, payload) for stream in (1, 2, 3) for kind, payload in SMALL),
    ]
    sent = bytearray()
    for _ in range(chance.randrange(1, 60)):
        data = bytearray(chance.choice(valid))
        if chance.random() < 0.15:
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.03:
            del data[chance.randrange(len(data)) :]
        if chance.random() < 0.03:
            data += chance.randbytes(chance.randrange(40))
        sent += data
    return bytes(sent)


SMALL = [
    (2, b"some input"),
    (2, b""),
    (3, b""),
    (4, b"\x12\1"),
    (4, b"\x12\0"),
    (5, b"\1\0\2\0"),
    (6, b"\x0a\0\0\0"),
    (7, b""),
]


@pytest.mark.parametrize("seed", range(40))
def test_noise_ends_guestd_in_order_or_not_at_all(guestd: Client, seed: int) -> None:
    try:
        guestd.send(noise(seed))
        guestd.control.shutdown(1)
    except (BrokenPipeError, ConnectionResetError, OSError):
        pass
    assert guestd.ended() in (0, 2)


GREEDY = "import time; held = bytearray(256 << 20); held[::4096] = b'x' * (len(held) // 4096); time.sleep(1000)"


def test_the_greediest_tree_dies_and_says_why(launch: Callable[..., Client]) -> None:
    guestd = launch("-m", str(128 << 20))
    modest = guestd.start("sh", "-c", "read line; echo still $line", stdin=True)
    guestd.started(modest)
    end = guestd.run("sh", "-c", "python3 -c '" + GREEDY.replace("'x'", '"x"') + "'; exit 0").exit
    assert (end.memory_limit, end.how, end.code) == (True, How.SIGNALLED, signal.SIGKILL)
    guestd.send(encode_input(modest, b"here\n"))
    finished = guestd.finish(modest)
    assert (finished.stdout, finished.exit.memory_limit) == (b"still here\n", False)


HEADLESS = """
import ctypes, platform, threading, time
held = bytearray(256 << 20)
held[::4096] = b"x" * (len(held) // 4096)
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


def test_memory_counts_though_the_first_thread_has_ended(launch: Callable[..., Client]) -> None:
    guestd = launch("-m", str(128 << 20))
    end = guestd.run("python3", "-c", HEADLESS, timeout_ms=30_000).exit
    assert (end.memory_limit, end.code) == (True, signal.SIGKILL)


SHARING = """
import os, sys
held = bytearray(96 << 20)
for _ in range(6):
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
print("shared", flush=True)
for _ in range(6):
    os.wait()
"""


def test_memory_that_processes_share_counts_once(launch: Callable[..., Client]) -> None:
    """The death of the greedy one proves that guestd looked while the others were there."""
    guestd = launch("-m", str(256 << 20))
    sharing = guestd.start("python3", "-c", SHARING, stdin=True)
    guestd.started(sharing)
    assert guestd.lines(sharing, 1) == [b"shared"]
    assert guestd.run("python3", "-c", GREEDY).exit.memory_limit
    guestd.send(encode_input_end(sharing))
    finished = guestd.finish(sharing)
    assert (finished.exit.memory_limit, finished.exit.code) == (False, 0)


def test_files_in_memory_count(launch: Callable[..., Client], variant: Variant) -> None:
    if not variant.is_pid_1:
        pytest.skip("an ordinary process would count the host's")
    guestd = launch("-m", str(64 << 20))
    end = guestd.run("sh", "-c", "head -c 100000000 /dev/zero > /tmp/file; sleep 1000").exit
    assert (end.memory_limit, end.code) == (True, signal.SIGKILL)
    assert guestd.builtin("remove", "/tmp/file", "0").code == 0
    assert guestd.run("sleep", "0.5").code == 0


def test_system_v_shared_memory_counts_though_nobody_maps_it(launch: Callable[..., Client], variant: Variant) -> None:
    if not variant.is_pid_1:
        pytest.skip("an ordinary process would count the host's")
    guestd = launch("-m", str(64 << 20))
    script = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
libc.shmat.argtypes, libc.shmat.restype = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int], ctypes.c_void_p
libc.shmdt.argtypes = [ctypes.c_void_p]
for _ in range(10):
    at = libc.shmat(libc.shmget(0, 10_000_000, 0o1600), None, 0)
    ctypes.memset(at, 1, 10_000_000)
    libc.shmdt(at)
time.sleep(1000)
"""
    end = guestd.run("python3", "-c", script).exit
    assert (end.memory_limit, end.code) == (True, signal.SIGKILL)
