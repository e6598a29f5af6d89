"""What dead owners left is swept; what living ones make or hold is not, however close the race."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.from_thread
import pytest

from gloveport.agents.rooms import open_room
from gloveport.backends.bubblewrap import backend
from gloveport.backends.bubblewrap.cgroups import Cgroups
from gloveport.backends.bubblewrap.place import make_place, sweep
from gloveport.errors import InvalidRequest
from gloveport.model import Spec, new_id
from gloveport.sandbox import Manager, Sandbox
from gloveport.settings import Settings
from gloveport.store import make_private

pytestmark = pytest.mark.anyio

ROOM_MAKERS = 4


def test_places_made_while_others_sweep_survive(state: Path) -> None:
    make_private(state, mode=0o711)
    over = threading.Event()
    swept: list[str] = []

    def sweep_on() -> None:
        while not over.is_set():
            swept.extend(sweep(state))

    sweepers = [threading.Thread(target=sweep_on) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        places = [make_place(state, new_id()) for _ in range(200)]
    finally:
        over.set()
        for sweeper in sweepers:
            sweeper.join()
    assert swept == []
    assert all(place.upper.is_dir() for place in places)
    for place in places:
        place.lock.release()
    assert sorted(sweep(state)) == sorted(place.path.name for place in places)
    assert (
        list((state / "sandboxes").iterdir())
        == list((state / "trash").iterdir())
        == list((state / "new").iterdir())
        == []
    )


def test_parents_of_control_groups_that_others_take_away_are_swept_past(tmp_path: Path) -> None:
    groups = Cgroups(version=1, roots={"memory": tmp_path / "parent"})
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            (tmp_path / "parent").mkdir(exist_ok=True)
            groups.close()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(3000):
            groups.sweep(lambda _: False)
    finally:
        over.set()
        other.join()


async def test_a_cancelled_scope_removes_what_its_sandboxes_wrote(settings: Settings) -> None:
    with anyio.CancelScope() as scope:
        async with Manager(settings) as manager:
            await manager.create(Spec())
            scope.cancel()
            await anyio.sleep_forever()
    assert list((settings.state / "sandboxes").iterdir()) == []
    assert list((settings.state / "trash").iterdir()) == []


async def test_a_sandbox_that_cannot_be_deleted_properly_keeps_no_other(settings: Settings) -> None:
    with pytest.raises(InvalidRequest, match="closed"):  # noqa: PT012 - the scope is what is tested
        async with Manager(settings) as manager:
            for _ in range(3):
                held = await manager.create(Spec())
            assert held.trail is not None
            held.trail.close()  # its end cannot be recorded
    assert list((settings.state / "sandboxes").iterdir()) == []


async def test_a_second_owner_sweeps_nothing_of_the_first(settings: Settings) -> None:
    async with Manager(settings) as first:
        sandbox = Sandbox(await first.create(Spec()))
        async with Manager(settings) as second:
            with anyio.fail_after(60):
                other = Sandbox(await second.create(Spec()))
            assert (await other.exec(["true"])).ok
        assert (await sandbox.exec(["true"])).ok


async def test_a_sweep_that_fails_ends_nobodys_sandbox(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    swept = anyio.Event()

    def fail(state: Path) -> list[str]:
        anyio.from_thread.run_sync(swept.set)
        raise RuntimeError("no broom")

    monkeypatch.setattr(backend, "sweep", fail)
    monkeypatch.setattr(backend, "empty_trash", fail)
    async with Manager(settings) as manager:
        with anyio.fail_after(60):
            await swept.wait()
        sandbox, other = Sandbox(await manager.create(Spec())), Sandbox(await manager.create(Spec()))
        await other.delete()
        assert (await sandbox.exec(["true"])).ok
        monkeypatch.undo()
    assert "no broom" in caplog.text


def test_what_cannot_be_swept_keeps_nothing_else(state: Path) -> None:
    make_private(state, mode=0o711)
    dead = make_place(state, "zzz")
    dead.lock.release()
    (state / "sandboxes" / "aaa").write_text("no directory")
    (state / "sandboxes" / "bbb" / "lock").mkdir(parents=True)
    assert sweep(state) == ["zzz"]
    assert sorted(path.name for path in (state / "sandboxes").iterdir()) == ["aaa", "bbb"]


def test_rooms_made_while_others_make_and_sweep_survive(state: Path) -> None:
    with ThreadPoolExecutor(ROOM_MAKERS) as makers:
        assert all(makers.map(lambda _: keeps_its_rooms(state), range(ROOM_MAKERS)))
    assert list((state / "agents").iterdir()) == []


def keeps_its_rooms(state: Path) -> bool:
    kept = True
    for _ in range(100):
        with open_room(state) as room:
            (room.path / "file").write_text("x")
            kept = kept and (room.path / "lock").exists()
    return kept
