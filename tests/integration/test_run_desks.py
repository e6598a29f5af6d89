"""Several desks of one installation, beside what dead and stopped processes left: one command asks them all."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from gloveport.client import Connection
from gloveport.listen.desk import open_desk
from gloveport.model import Asked, Decision, EventKind, Grant, QuestionKind, Verdict
from gloveport.sandbox import approvals
from gloveport.sandbox.approvals import Desk
from gloveport.sandbox.grants import Clock, KeptGrants
from gloveport.settings import Settings
from gloveport.store import Trail, make_private

from ..conftest import PATIENCE, Cli  # noqa: TID252 - tests are no package of ours

pytestmark = pytest.mark.anyio
ASKED = Asked(kind=QuestionKind.EXEC, name="touch made")


@asynccontextmanager
async def waiting(settings: Settings, run: str, found: list[Grant | None]) -> AsyncIterator[Desk]:
    """An open desk at which a sandbox of `run` asks; what comes of it goes to `found`."""
    desk = Desk(KeptGrants(make_private(settings.data) / "grants.json", Clock()), seconds=PATIENCE)
    posed = anyio.Event()
    trail = Trail(
        settings.data / f"{run}.jsonl",
        listener=lambda event: posed.set() if event.kind is EventKind.APPROVAL_ASKED else None,
    )
    window = desk.open(f"sandbox-{run}", trail)

    async def ask() -> None:
        found.append((await window.ask(Decision(verdict=Verdict.ASK, rule="exec.ask", reason="why"), ASKED))[1])

    try:
        async with open_desk(desk, run, settings), anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await posed.wait()
            yield desk
            desk.close(f"sandbox-{run}")
    finally:
        trail.close()


async def ask(cli: Cli, *words: str) -> Any:
    return await anyio.to_thread.run_sync(lambda: cli("approvals", *words))


@contextmanager
def listening(path: Path, *, alive: bool) -> Iterator[None]:
    """A socket of a process that was stopped, or has died."""
    make_private(path.parent)
    with closing(socket.socket(socket.AF_UNIX)) as peer:
        peer.bind(str(path))
        if alive:
            peer.listen()
        else:
            peer.close()
        yield


async def test_an_id_that_two_desks_have_is_answered_at_neither(
    cli: Cli, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "new_id", lambda: "same-id-000000")
    found: list[Grant | None] = []
    async with waiting(settings, "one", found), waiting(settings, "two", found):
        for word in ("allow", "deny"):
            done = await ask(cli, word, "same-id-000000")
            assert done.returncode == 5
            assert b"at more than one place: run one, run two" in done.stderr
        assert found == []
        listed = json.loads((await ask(cli, "--json")).stdout)
        assert [each["run"] for each in listed] == ["one", "two"]
    assert found == [None, None]


async def test_a_dead_desk_is_removed_and_a_stopped_one_holds_up_nobody(cli: Cli, settings: Settings) -> None:
    found: list[Grant | None] = []
    async with waiting(settings, "live", found) as desk:
        dead, stopped = settings.desks / "dead.sock", settings.desks / "stopped.sock"
        with listening(dead, alive=False), listening(stopped, alive=True):
            assert dead.exists()
            listed = await ask(cli, "--json")
            assert [each["run"] for each in json.loads(listed.stdout)] == ["live"]
            assert listed.stderr == b"gloveport: run stopped: it does not answer\n"
            assert not dead.exists()
            assert stopped.exists()
            (asked,) = desk.pending()
            done = await ask(cli, "allow", asked.id)
            assert done.stdout.startswith(b"allowed exec touch made until")
    assert [str(grant) for grant in found] == ["exec touch made"]
    assert not (settings.desks / "live.sock").exists()


async def test_what_a_killed_run_left_is_removed_by_the_next_run_that_asks(settings: Settings) -> None:
    found: list[Grant | None] = []
    with listening(settings.desks / "dead.sock", alive=False):
        async with waiting(settings, "live", found):
            assert [path.name for path in settings.desks.iterdir()] == ["live.sock"]
    assert list(settings.desks.iterdir()) == []


async def test_a_desk_is_reached_below_a_directory_with_a_long_name(cli: Cli, settings: Settings, place: Path) -> None:
    longest = place / ("d" * (99 - len(str(place))))
    deep = replace(settings, state=longest)
    found: list[Grant | None] = []
    async with waiting(deep, "a-run-with-a-name", found) as desk:
        (asked,) = desk.pending()
        done = await ask(replace(cli, settings=deep), "allow", asked.id)
        assert done.returncode == 0, done
    assert [str(grant) for grant in found] == ["exec touch made"]


async def test_a_desk_answers_about_approvals_and_nothing_else(settings: Settings) -> None:
    found: list[Grant | None] = []

    def call(verb: str) -> str:
        connection = Connection.open(settings.desks / "live.sock", seconds=PATIENCE)
        assert connection is not None
        with connection, pytest.raises(Exception, match="no verb") as refused:
            connection.call(verb, id="x")
        return str(refused.value.hint)  # type: ignore[attr-defined]

    async with waiting(settings, "live", found):
        for verb in ("exec", "delete", "create", "info"):
            hint = await anyio.to_thread.run_sync(call, verb)
            assert hint == "one of: approvals, approve, grants, revoke"


async def test_an_error_of_the_run_passes_as_it_is_and_its_socket_goes(settings: Settings) -> None:
    desk = Desk(KeptGrants(make_private(settings.data) / "grants.json", Clock()), seconds=PATIENCE)
    with pytest.raises(KeyError):
        async with open_desk(desk, "live", settings):
            raise KeyError("x")
    assert list(settings.desks.iterdir()) == []
