"""The tape of a session's traffic with its model: written by the proxy, and played in the model's place."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from gloveport.agents.model_player import TapeTransport
from gloveport.agents.model_proxy import Credential, ModelProxySpec, serve_model_proxy
from gloveport.agents.model_tape import STAND_INS, Opening, Part, Tape, TapedAnswer, TapeWriter
from gloveport.errors import InvalidRequest, LimitExceeded, NotFound
from gloveport.testing import Endpoint, Fail, ScriptedModel, Text, ToolUse, serve

from ..conftest import files_no_larger_than  # noqa: TID252 - tests are no package of ours

pytestmark = pytest.mark.anyio

KEY = "sk-ant-the-real-one"
OPENING = Opening(prompt="Repair it.", sdk="1.0", model="m", max_turns=5)
PATH = "/v1/messages?beta=true"


def asked(*messages: str, user: str = "a", model: str = "m") -> dict[str, object]:
    roles = ("user", "assistant")
    return {
        "model": model,
        "messages": [{"role": roles[number % 2], "content": text} for number, text in enumerate(messages)],
        "metadata": {"user_id": json.dumps({"device_id": user})},
        "stream": True,
    }


@dataclass
class Session:
    client: httpx2.AsyncClient

    async def post(self, body: object, path: str = PATH) -> httpx2.Response:
        return await self.client.post(path, json=body)


@asynccontextmanager
async def session(
    place: Path,
    upstream: str,
    *,
    tape: TapeWriter | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> AsyncIterator[Session]:
    """A client on a model proxy's socket."""
    socket = place / "m.sock"
    spec = ModelProxySpec(upstream=upstream, credential=Credential.api_key(KEY))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            serve_model_proxy(socket, spec, on_call=lambda call: None, tape=tape, transport=transport)
        )
        through = httpx2.AsyncHTTPTransport(uds=str(socket))
        yield Session(
            await stack.enter_async_context(httpx2.AsyncClient(transport=through, base_url="http://model", timeout=60))
        )


@pytest.fixture
async def recorded(place: Path) -> tuple[Path, list[bytes]]:
    """A tape of two exchanges, and their answers."""
    model = ScriptedModel.of((Text("I look."), ToolUse("Bash", {"command": "ls"})), Fail(529, "overloaded_error", "x"))
    path = place / "tape.jsonl"
    writer = TapeWriter(path, KEY)
    writer.open(OPENING)
    async with serve(model) as endpoint, session(place, endpoint.url, tape=writer) as live:
        first = await live.post(asked("Repair it."))
        second = await live.post(asked("Repair it.", "I look.", f"it says {KEY}"))
    writer.close()
    return path, [first.content, second.content]


async def test_what_was_answered_is_answered_again_to_the_byte_and_nobody_else_is_asked(
    place: Path, recorded: tuple[Path, list[bytes]]
) -> None:
    path, answers = recorded
    transport = TapeTransport(Tape.read(path))
    async with session(place, "http://tape.invalid", transport=transport) as played:
        first = await played.post(asked("Repair it.", user="another jail's"))
        second = await played.post(asked("Repair it.", "I look.", "it says [redacted]"))
    assert [first.content, second.content] == answers
    assert (first.status_code, second.status_code) == (200, 529)
    assert (transport.served, transport.left, transport.misses) == (2, (), [])


async def test_the_key_is_not_on_the_tape(recorded: tuple[Path, list[bytes]]) -> None:
    path, _ = recorded
    assert KEY not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_another_request_is_a_miss_that_is_located_and_stays_one(
    place: Path, recorded: tuple[Path, list[bytes]]
) -> None:
    transport = TapeTransport(Tape.read(recorded[0]))
    async with session(place, "http://tape.invalid", transport=transport) as played:
        await played.post(asked("Repair it."))
        answer = await played.post(asked("Repair it.", "I look.", "it says nothing"))
        again = await played.post(asked("Repair it."))
    assert (answer.status_code, again.status_code) == (400, 400)
    assert "exchange 1 with the model is not on the tape: messages[2] is another" in answer.text
    miss = transport.misses[0]
    assert (miss.exchange, miss.place) == (1, "messages[2]")
    assert "it says [redacted]" in miss.recorded
    assert "it says nothing" in miss.asked


async def test_a_request_for_more_or_less_than_was_recorded_names_what_is_new_or_gone(
    place: Path, recorded: tuple[Path, list[bytes]]
) -> None:
    transport = TapeTransport(Tape.read(recorded[0]))
    async with session(place, "http://tape.invalid", transport=transport) as played:
        await played.post({**asked("Repair it."), "thinking": {"type": "enabled"}})
        await played.post({"model": "m", "messages": [], "stream": True})
        await played.post(asked("Repair it."), "/v1/messages")
    assert [miss.place for miss in transport.misses] == ["thinking", "messages[0]", "the request's address"]


async def test_each_exchange_is_served_once(place: Path, recorded: tuple[Path, list[bytes]]) -> None:
    transport = TapeTransport(Tape.read(recorded[0]), count=1)
    async with session(place, "http://tape.invalid", transport=transport) as played:
        assert (await played.post(asked("Repair it."))).status_code == 200
        assert (await played.post(asked("Repair it."))).status_code == 400
    assert "the recording ends after 2 exchanges" in transport.misses[0].reason


async def test_after_the_part_that_is_played_the_real_model_is_asked_by_the_name_it_is_given(
    place: Path, recorded: tuple[Path, list[bytes]]
) -> None:
    model = ScriptedModel.of((Text("one"),), (Text("two"),))
    async with serve(model) as endpoint, httpx2.AsyncClient() as live:
        transport = TapeTransport(Tape.read(recorded[0]), count=1, live=live, live_model="another")
        async with session(place, endpoint.url, transport=transport) as forked:
            await forked.post(asked("Repair it."))
            answer = await forked.post(asked("Repair it.", "I look.", "more"))
        assert b"two" in answer.content
        (request,) = requests(endpoint)
        assert (request["model"], request["messages"]) == (
            "another",
            asked("Repair it.", "I look.", "more")["messages"],
        )


async def test_a_miss_before_the_fork_asks_no_real_model(place: Path, recorded: tuple[Path, list[bytes]]) -> None:
    async with serve(ScriptedModel.of((Text("one"),))) as endpoint, httpx2.AsyncClient() as live:
        transport = TapeTransport(Tape.read(recorded[0]), count=1, live=live)
        async with session(place, endpoint.url, transport=transport) as forked:
            assert (await forked.post(asked("Break it."))).status_code == 400
            assert (await forked.post(asked("Repair it."))).status_code == 200
            assert (await forked.post(asked("Repair it.", "I look.", "more"))).status_code == 400
        assert requests(endpoint) == []


async def test_an_answer_that_broke_off_breaks_off_again(place: Path) -> None:
    path = place / "tape.jsonl"
    writer = TapeWriter(path)
    writer.open(OPENING)
    half = TapedAnswer(status=200, headers={"content-type": "text/event-stream"}, body=bytearray(b"event: mess"))
    writer.add("/v1/messages", "beta=true", asked("Repair it."), half)
    writer.close()
    async with session(place, "http://tape.invalid", transport=TapeTransport(Tape.read(path))) as played:
        with pytest.raises(httpx2.RemoteProtocolError):
            await played.post(asked("Repair it."))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda lines: lines[:1] + lines[2:], "line 5 "),
        (lambda lines: [*lines[:-1], lines[-1][:-20]], "is no record of a tape"),
        (lambda lines: [lines[0].replace('"format":1', '"format":2')], "has format 2"),
        (lambda lines: [lines[0].replace('"prompt"', '"pronto"')], "line 1 "),
        (lambda lines: ["[]"], "line 1 "),
        (lambda lines: [], "line 1 "),
        (lambda lines: [*lines, '{"full":true}'], "longer than a tape may be"),
    ],
)
async def test_a_tape_that_was_cut_or_altered_is_refused_at_its_line(
    recorded: tuple[Path, list[bytes]], harm, said: str
) -> None:
    path, _ = recorded
    path.write_text("\n".join(harm(path.read_text().splitlines())))
    with pytest.raises(InvalidRequest, match=said):
        Tape.read(path)


def test_a_run_without_a_tape_says_what_can_be_done(place: Path) -> None:
    with pytest.raises(NotFound, match="no recording") as raised:
        Tape.read(place / "none")
    assert "R2" in raised.value.hint


def test_a_tape_that_finds_no_room_is_told_when_it_ends(place: Path) -> None:
    writer = TapeWriter(place / "tape.jsonl")
    with files_no_larger_than(100):
        writer.open(OPENING)
        writer.add("/v1/messages", "", asked("x" * 1000), TapedAnswer(status=200))
    with pytest.raises(LimitExceeded, match="no space"):
        writer.close()


def test_what_may_differ_is_looked_for_in_its_own_place_and_nowhere_else() -> None:
    """A tool that prints a kernel's version, or a user's id, is held to what it printed."""
    said = "OS Version: Linux 6.1"
    system = Part.of("messages[1]", {"role": "system", "content": [{"type": "text", "text": said}]})
    result = {"type": "tool_result", "tool_use_id": "t", "content": f'{said} "user_id":"me"'}
    told = Part.of("messages[2]", {"role": "user", "content": [result]})
    assert "OS Version: <kernel>" in system.text
    assert said in told.text
    assert "<user>" not in told.text
    assert Part.of("metadata", {"user_id": "a"}).digest == Part.of("metadata", {"user_id": "b"}).digest


def test_all_that_may_differ_is_listed_with_its_reason() -> None:
    assert [each.name for each in STAND_INS] == ["user", "kernel"]
    assert all(each.why for each in STAND_INS)


def requests(endpoint: Endpoint) -> list[dict[str, object]]:
    return [request.body for request in endpoint.requests]
