"""Resets, one after the other: each is the beginning again, whatever became of what waited ready for it."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from gloveport.backends.bubblewrap import lifecycle
from gloveport.backends.bubblewrap.live import LiveSandbox
from gloveport.backends.bubblewrap.place import Place
from gloveport.errors import BackendUnavailable
from gloveport.model import FileRules, Origin, PolicyLayer, SandboxState, Source, Spec
from gloveport.policy.reading.layers import merge_layers
from gloveport.sandbox import Manager, Sandbox
from gloveport.settings import Settings

from ..conftest import PATIENCE, MakeRepository  # noqa: TID252 - tests are no package of ours

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

MESS = """
    echo mess > a; rm d/x; echo n > n; echo n > /tmp/n; echo n > ~/n; sleep 1000 >/dev/null 2>&1 &
"""
LOOK = """
    for each in * d/* /tmp/* ~/*; do test ! -f "$each" || { echo "$each"; cat "$each"; }; done
    for each in /proc/[0-9]*; do tr '\\0' ' ' < "$each/cmdline" 2>/dev/null | grep -x 'sleep 1000 '; done; true
"""
FIRST = b"a\nfirst\nd/x\nx\n"


@pytest.fixture
async def sandbox(manager: Manager, make_repository: MakeRepository) -> AsyncIterator[Sandbox]:
    repository = make_repository({"a": "first\n", "d/x": "x\n"})
    with anyio.fail_after(PATIENCE):
        yield Sandbox(await manager.create(Spec(source=Source(repo=str(repository)))))


async def look(sandbox: Sandbox) -> bytes:
    return (await sandbox.exec(["sh", "-c", LOOK])).stdout


def lives(sandbox: Sandbox) -> lifecycle.Lifecycle:
    return sandbox._backend._backend._lives


async def successor(sandbox: Sandbox) -> LiveSandbox:
    """What waits ready for its next reset."""
    waiting = lives(sandbox)._successors[sandbox.id]
    await waiting.settled.wait()
    assert waiting.live is not None
    return waiting.live


async def test_each_of_many_resets_is_the_beginning(sandbox: Sandbox, settings: Settings) -> None:
    assert await look(sandbox) == FIRST
    for number in range(4):
        await sandbox.exec(["sh", "-c", MESS])
        assert b"mess" in await look(sandbox)
        assert b"sleep" in await look(sandbox)
        if number % 2:
            await successor(sandbox)
        await sandbox.reset()
        assert await look(sandbox) == FIRST
        assert (await sandbox.diff()).data == b""
    (place,) = (settings.state / "sandboxes").iterdir()
    await successor(sandbox)
    assert len([path for path in place.iterdir() if path.name.startswith("guest")]) == 2


BUSY = """
import os, sys
out = sys.argv[2]
for number in range(int(sys.argv[1])):
    if not os.fork():
        turn = 0
        while True:
            turn += 1
            os.close(os.open(f"{out}/{number}-{turn}", os.O_CREAT | os.O_WRONLY))
            if turn > 3: os.unlink(f"{out}/{number}-{turn - 3}")
print("ready", flush=True)
"""


async def test_nothing_of_before_writes_when_a_reset_is_over(manager: Manager, place: Path) -> None:
    """Not even the rest of a system call: what is killed in one goes on until that ends."""
    (place / "out").mkdir(mode=0o777)
    rules = FileRules(writable=(str(place / "out"),))
    spec = Spec(policy=merge_layers([PolicyLayer(origin=Origin(layer="user"), files=rules)]))
    sandbox = Sandbox(await manager.create(spec))
    busy = ("python3", "-c", BUSY, "100", str(place / "out"))
    with anyio.fail_after(PATIENCE):
        for number in range(3):
            # What it starts goes on, and so must not hold the output of the exec.
            started = await sandbox.exec(["sh", "-c", '"$@" > /tmp/said; cat /tmp/said', "-", *busy])
            assert started.stdout == b"ready\n"
            if number:
                await successor(sandbox)
            await sandbox.reset()
            then = sorted(os.listdir(place / "out"))
            for _ in range(100):
                await sandbox.exec(["true"])
            assert sorted(os.listdir(place / "out")) == then
            assert len(then) > 100
            for each in then:
                (place / "out" / each).unlink()


async def test_what_was_replaced_on_the_host_is_shown_as_it_is_now(manager: Manager, place: Path) -> None:
    repository = place / "repository"
    spec = Spec(source=Source(repo=str(repository)))
    repository.mkdir()
    (repository / "version").write_text("0")
    sandbox = Sandbox(await manager.create(spec))
    with anyio.fail_after(PATIENCE):
        for number in range(1, 4):
            await sandbox.reset()
            await successor(sandbox)
            repository.rename(place / f"old-{number}")
            repository.mkdir()
            (repository / "version").write_text(str(number))
            await sandbox.reset()
            assert await sandbox.files.read("version") == str(number).encode()


async def test_no_cancellation_cuts_a_reset_in_half(settings: Settings, make_repository: MakeRepository) -> None:
    """Asyncio's own, too, which anyio's shields do not stop."""
    repository = make_repository({"a": "first\n", "d/x": "x\n"})
    with anyio.fail_after(PATIENCE):
        async with Manager(settings) as manager:
            sandbox = Sandbox(await manager.create(Spec(source=Source(repo=str(repository)))))
            for number in range(12):
                with suppress(TimeoutError):
                    await asyncio.wait_for(sandbox.reset(), number / 1000)
                await sandbox.reset()
                assert await look(sandbox) == FIRST
    assert list((settings.state / "sandboxes").iterdir()) == []


async def test_nobody_prunes_what_is_being_reset(manager: Manager, sandbox: Sandbox, settings: Settings) -> None:
    """Another process goes by the record on disk, which is that of the sandbox and of no other at any time."""
    await sandbox.exec(["sh", "-c", "echo kept > a"])
    snapshot = await sandbox.snapshot()
    other = Sandbox(await manager.create(Spec(snapshot=snapshot.id)))
    record = settings.state / "sandboxes" / other.id / "record.json"
    layer = json.loads(record.read_text())["layer"]
    assert layer
    seen = set()

    def read(until: threading.Event) -> None:
        while not until.is_set():
            seen.add(json.loads(record.read_text())["layer"])

    over = threading.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, read, over)
        for _ in range(8):
            await other.reset()
        over.set()
    assert seen == {layer}
    assert await other.files.read("a") == b"kept\n"


async def test_a_reset_that_fails_leaves_the_record_as_it_was(sandbox: Sandbox, settings: Settings) -> None:
    record = settings.state / "sandboxes" / sandbox.id / "record.json"
    await sandbox.exec(["sh", "-c", "echo kept > a"])
    await sandbox.reset((await sandbox.snapshot()).id)
    before = record.read_text()
    means = lives(sandbox)._means
    lives(sandbox)._means = replace(means, helpers=replace(means.helpers, launch="/nonexistent"))
    with pytest.raises(BackendUnavailable):
        await sandbox.reset("base")
    assert record.read_text() == before
    assert b"+kept" in (await sandbox.diff()).data


async def test_no_successor_where_files_are_copied(manager: Manager, sandbox: Sandbox) -> None:
    await sandbox.exec(["sh", "-c", "head -c 6000000 /dev/zero > /tmp/large"])
    snapshot = await sandbox.snapshot()
    await sandbox.reset(snapshot.id)
    waiting = lives(sandbox)._successors[sandbox.id]
    await waiting.settled.wait()
    assert waiting.live is None
    await sandbox.reset(snapshot.id)
    assert (await sandbox.exec(["stat", "-c", "%s", "/tmp/large"])).stdout == b"6000000\n"


async def test_a_successor_that_cannot_be_removed_ends_no_other_sandbox(
    manager: Manager, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Sandbox(await manager.create(Spec()))
    await sandbox.reset()
    waiting = await successor(sandbox)
    tried = anyio.Event()

    def fail(_: Place) -> None:
        tried.set()
        raise BackendUnavailable("it cannot be removed", hint="see what holds it")

    with monkeypatch.context() as patched:
        patched.setattr(Place, "clear", fail)
        mine = sandbox._backend._backend._sandboxes[sandbox.id]
        signal.pidfd_send_signal(mine.launched._handles[-1], signal.SIGKILL)
        await tried.wait()
    assert waiting.is_left
    assert (await other.exec(["true"])).ok


async def test_a_successor_ends_with_a_sandbox_that_ends_by_itself(sandbox: Sandbox) -> None:
    await sandbox.reset()
    waiting = await successor(sandbox)
    mine = sandbox._backend._backend._sandboxes[sandbox.id]
    signal.pidfd_send_signal(mine.launched._handles[-1], signal.SIGKILL)
    await waiting.channel.ended()
    assert waiting.is_left


async def test_what_waits_ready_is_of_no_use_to_another_reset(sandbox: Sandbox) -> None:
    await sandbox.exec(["sh", "-c", "echo kept > a"])
    snapshot = await sandbox.snapshot()
    await sandbox.reset()
    other = await successor(sandbox)
    await sandbox.reset(snapshot.id)
    assert other.launched.open_root() is None
    assert await sandbox.files.read("a") == b"kept\n"
    await sandbox.exec(["sh", "-c", MESS])
    await successor(sandbox)
    await sandbox.reset(snapshot.id)
    assert await sandbox.files.read("a") == b"kept\n"
    await sandbox.reset("base")
    assert await look(sandbox) == FIRST


async def test_what_waits_ready_may_be_killed(sandbox: Sandbox) -> None:
    await sandbox.reset()
    waiting = await successor(sandbox)
    signal.pidfd_send_signal(waiting.launched._handles[1], signal.SIGKILL)
    await waiting.channel.ended()
    await sandbox.exec(["sh", "-c", MESS])
    await sandbox.reset()
    assert await look(sandbox) == FIRST


@pytest.mark.parametrize("is_started", [True, False])
async def test_what_waits_ready_ends_with_its_sandbox(
    sandbox: Sandbox, settings: Settings, *, is_started: bool
) -> None:
    await sandbox.reset()
    waiting = lives(sandbox)._successors[sandbox.id]
    guests = [os.dup(handle) for handle in (await successor(sandbox)).launched._handles] if is_started else []
    await sandbox.delete()
    assert waiting.settled.is_set()
    assert waiting.live is None
    assert select.select(guests, [], [], 0)[0] == guests
    for guest in guests:
        os.close(guest)
    assert list((settings.state / "sandboxes").iterdir()) == []


async def test_where_nothing_new_starts_what_was_there_is_kept_and_it_can_be_tried_again(sandbox: Sandbox) -> None:
    await sandbox.exec(["sh", "-c", "echo precious > a"])
    means = lives(sandbox)._means
    lives(sandbox)._means = replace(means, helpers=replace(means.helpers, launch="/nonexistent"))
    with pytest.raises(BackendUnavailable, match="cannot start"):
        await sandbox.reset()
    status = await sandbox.status()
    assert (status.state, "its reset failed" in status.reason) == (SandboxState.FAILED, True)
    with pytest.raises(BackendUnavailable, match="its reset failed"):
        await sandbox.exec(["true"])
    assert b"+precious" in (await sandbox.diff()).data
    lives(sandbox)._means = means
    await sandbox.reset()
    assert await look(sandbox) == FIRST


async def test_where_nothing_new_can_be_prepared_everything_goes_on(
    sandbox: Sandbox, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise BackendUnavailable("no room", hint="make some")

    await sandbox.exec(["sh", "-c", MESS])
    with monkeypatch.context() as patched:
        patched.setattr(lifecycle, "prepare_workspace", fail)
        with pytest.raises(BackendUnavailable, match="no room"):
            await sandbox.reset()
    assert b"sleep" in await look(sandbox)
    (place,) = (settings.state / "sandboxes").iterdir()
    assert [path.name for path in place.iterdir() if path.name.startswith("guest")] == ["guest"]
    await sandbox.reset()
    assert await look(sandbox) == FIRST


async def test_a_reset_begins_the_wall_time_anew(manager: Manager) -> None:
    sandbox = Sandbox(await manager.create(Spec()))
    with anyio.fail_after(PATIENCE):
        await sandbox.reset()
        created = (await sandbox.status()).created_at
        waiting = await successor(sandbox)
        assert waiting.watch is None
        began = time.time()
        await sandbox.reset()
        assert waiting.watch is not None
        assert (await sandbox.status()).created_at >= began > created
