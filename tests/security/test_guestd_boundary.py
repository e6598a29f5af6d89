"""Escape and HostDoS by a guest that turns on guestd: the time and the tree of a command still end."""

from __future__ import annotations

import anyio
import pytest

from gloveport.model import ExecRequest
from gloveport.sandbox import Sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

PATIENCE = 60

ATTACK = """
import ctypes, os, resource, signal, threading, time

libc = ctypes.CDLL(None)
print("attacked", flush=True)
for limit in range(16):
    try:
        resource.prlimit(1, limit, (0, 0))
        print("changed", limit, flush=True)
    except OSError:
        pass
for scope in ((os.PRIO_PROCESS, 1), (os.PRIO_PGRP, 1), (os.PRIO_USER, 0)):
    try:
        os.setpriority(*scope, 19)
        print("slowed", scope, flush=True)
    except OSError:
        pass

def hop():
    while os.fork() == 0:
        pass
    os._exit(0)

def leave(*_):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                time.sleep(1000)
    os._exit(9)

if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hop()
if os.fork() == 0:
    threading.Thread(target=time.sleep, args=(1000,)).start()
    libc.syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
signal.signal(signal.SIGTERM, leave)
while True:
    time.sleep(0.01)
"""


async def test_a_hostile_tree_ends_with_its_time_and_nothing_else_does(sandbox: Sandbox) -> None:
    with anyio.fail_after(PATIENCE):
        if not (await sandbox.exec(["python3", "-c", ""])).ok:
            pytest.skip("no python3 in the sandbox")
        result = await sandbox.exec(ExecRequest(argv=("python3", "-c", ATTACK), timeout=2))
        left = await sandbox.exec(["sh", "-c", "cat /proc/[0-9]*/comm"])
    assert result.exit.timed_out
    assert result.stdout == b"attacked\n"
    assert left.ok
    assert "guestd" in left.text
    assert "python3" not in left.text
