"""Resets, one after the other: each is the beginning again, whatever became of what waited ready for it."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest

from gloveport.backends.bubblewrap import lifecycle
from gloveport.backends.bubblewrap.live import LiveSandbox
from gloveport.errors import BackendUnavailable
from gloveport.model import SandboxState, Source, Spec
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
    guests = []
    if is_started:
        guests = [os.dup(handle) for handle in (await successor(sandbox)).launched._handles]
    await sandbox.delete()
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
        await sandbox.reset()
        assert waiting.watch is not None
        assert (await sandbox.status()).created_at > created
