"""What the host holds of a started sandbox, with strangers around: process numbers are used again."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import anyio
import pytest

from gloveport.backends.bubblewrap.launcher import Launched

pytestmark = pytest.mark.anyio


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host that has nothing to do with any sandbox."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def launched(said: dict[str, int]) -> Launched:
    """A bubblewrap that ended at once, after saying this of its child."""
    outer = subprocess.Popen(["true"])
    reading, writing = os.pipe()
    os.write(writing, json.dumps(said).encode())
    os.close(writing)
    return Launched(outer, reading)


@pytest.mark.parametrize("namespace", [{"pid-namespace": 4026530000}, {}], ids=["of the guest", "unknown"])
async def test_a_process_that_got_guestds_number_is_left_alone(
    stranger: subprocess.Popen[bytes], namespace: dict[str, int]
) -> None:
    ended = launched({"child-pid": stranger.pid, **namespace})
    with anyio.fail_after(60):
        await ended.reap()
    assert stranger.poll() is None
    assert ended.open_proc() is None


async def test_a_process_in_the_guests_namespace_is_ended(stranger: subprocess.Popen[bytes]) -> None:
    namespace = os.stat(f"/proc/{stranger.pid}/ns/pid").st_ino
    with anyio.fail_after(60):
        await launched({"child-pid": stranger.pid, "pid-namespace": namespace}).reap()
    assert stranger.poll() is not None
