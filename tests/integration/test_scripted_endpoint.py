"""The scripted model: over plain HTTP, and with the real Agent SDK and command line as its client."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, query

from gloveport.errors import InvalidRequest
from gloveport.testing import Fail, Gate, Lane, MessagesRequest, Reply, ScriptedModel, Text, ToolUse, serve
from gloveport.testing.claude_code import claude_code_variables
from gloveport.testing.messages import assemble

PATIENCE_S = 60
USER = {"role": "user", "content": "Repair the parser."}
ASSISTANT = {"role": "assistant", "content": "I did."}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def ask(*messages: dict[str, Any], stream: bool = False) -> dict[str, Any]:
    return {"model": "claude-test", "max_tokens": 100, "stream": stream, "messages": list(messages)}


async def post(url: str, body: dict[str, Any], path: str = "/v1/messages?beta=true") -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=PATIENCE_S) as client:
        return await client.post(url + path, json=body, headers={"x-api-key": "sk-test"})


def texts(response: httpx2.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [block["text"] for block in response.json()["content"] if block["type"] == "text"]


async def test_the_number_of_assistant_messages_chooses_the_turn_so_a_retry_hears_the_same() -> None:
    async with serve(ScriptedModel.of((Text("first"),), (Text("second"),))) as endpoint:
        opening, retried = [await post(endpoint.url, ask(USER)) for _ in range(2)]
        following = await post(endpoint.url, ask(USER, ASSISTANT, USER))

    assert texts(opening) == ["first"]
    assert retried.content == opening.content
    assert texts(following) == ["second"]


async def test_a_streamed_turn_is_the_same_message_as_an_unstreamed_one() -> None:
    command = "printf '%s\n' 'quotes \" and \\ and 中文' " * 5
    model = ScriptedModel.of((Text("I look first. " * 20), ToolUse("Bash", {"command": command}), ToolUse("Noop")))
    async with serve(model) as endpoint:
        whole = (await post(endpoint.url, ask(USER))).json()
        streamed = await post(endpoint.url, ask(USER, stream=True))

    message = assemble(httpx2.EventSource(streamed))
    assert message is not None
    usage, expected_usage = message.pop("usage"), whole.pop("usage")
    assert message == whole
    assert usage["output_tokens"] == expected_usage["output_tokens"] > 0
    assert whole["stop_reason"] == "tool_use"
    assert len({block["id"] for block in whole["content"] if block["type"] == "tool_use"}) == 2


async def test_a_stream_that_breaks_off_is_not_taken_for_a_message() -> None:
    async with serve(ScriptedModel.of((Text("whole"),))) as endpoint:
        streamed = await post(endpoint.url, ask(USER, stream=True))
    events = list(httpx2.EventSource(streamed))
    assert assemble(events) is not None
    assert assemble(events[:-1]) is None


async def test_a_turn_past_the_end_of_the_script_is_a_400_that_names_lane_and_turn() -> None:
    model = ScriptedModel([Lane(name="developer", turns=[(Text("only"),)])])
    async with serve(model) as endpoint:
        response = await post(endpoint.url, ask(USER, ASSISTANT))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "'developer'" in error["message"]
    assert "no turn 1" in error["message"]


async def test_conversations_follow_the_lane_that_matches_their_first_words() -> None:
    lanes = [
        Lane(name="manager", match="Plan", turns=[(Text("a plan"),)]),
        Lane(name="developer", match="Repair", turns=[(Text("a repair"),)]),
    ]
    async with serve(ScriptedModel(lanes)) as endpoint:
        manager = await post(endpoint.url, ask({"role": "user", "content": "Plan it."}))
        reminder = {"type": "text", "text": "<system-reminder>Plan nothing.</system-reminder>"}
        opening = {"role": "user", "content": [reminder, {"type": "text", "text": "Repair it."}]}
        developer = await post(endpoint.url, ask(opening))
        stranger = await post(endpoint.url, ask({"role": "user", "content": "Sing."}))
    assert texts(manager) == ["a plan"]
    assert texts(developer) == ["a repair"]
    assert stranger.status_code == 400
    assert "manager, developer" in stranger.json()["error"]["message"]


async def test_system_entries_inside_the_messages_are_accepted_and_are_no_turns() -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "Skills: coding"}]}
    async with serve(ScriptedModel.of((Text("first"),))) as endpoint:
        response = await post(endpoint.url, ask(USER, system))
    assert texts(response) == ["first"]


async def test_a_scripted_failure_is_sent_as_the_api_words_it() -> None:
    async with serve(ScriptedModel.of(Fail(529, "overloaded_error", "Overloaded"))) as endpoint:
        response = await post(endpoint.url, ask(USER))
    assert response.status_code == 529
    expected = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert response.json() == expected


async def test_a_reply_can_quote_what_a_tool_returned() -> None:
    def quote(request: MessagesRequest) -> tuple[Text]:
        return (Text(f"The tool said {request.tool_results[-1].text}"),)

    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}]}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "forty-two"}]}
    async with serve(ScriptedModel.of((ToolUse("Bash"),), Reply(quote))) as endpoint:
        said = await post(endpoint.url, ask(USER, call, {"role": "user", "content": [result]}))
        unprepared = await post(endpoint.url, ask(USER, ASSISTANT))
    assert texts(said) == ["The tool said forty-two"]
    assert unprepared.status_code == 400
    assert "IndexError" in unprepared.json()["error"]["message"]


async def test_a_gate_holds_the_stream_where_it_stands_until_it_is_opened() -> None:
    gate = Gate()
    body = ask(USER, stream=True)
    with anyio.fail_after(PATIENCE_S):
        async with (
            serve(ScriptedModel.of((Text("before"), gate, Text("after")))) as endpoint,
            httpx2.AsyncClient(timeout=PATIENCE_S) as client,
            client.stream("POST", endpoint.url + "/v1/messages", json=body) as response,
        ):
            seen = ""
            async for chunk in response.aiter_text():
                seen += chunk
                if '"before"' in seen and '"after"' not in seen:
                    await gate.reached()
                    assert "after" not in seen
                    gate.open()
    assert '"after"' in seen


async def test_a_client_that_leaves_at_a_gate_is_noticed() -> None:
    gate = Gate()
    body = ask(USER, stream=True)
    with anyio.fail_after(PATIENCE_S):
        async with serve(ScriptedModel.of((gate, Text("never")))) as endpoint:
            async with (
                httpx2.AsyncClient() as client,
                client.stream("POST", endpoint.url + "/v1/messages", json=body),
            ):
                await gate.reached()
            await gate.abandoned()


async def test_the_end_of_serving_does_not_wait_for_an_answer_that_stands_at_a_gate() -> None:
    gate = Gate()
    body = ask(USER, stream=True)
    with anyio.fail_after(PATIENCE_S):
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as client:
            async with serve(ScriptedModel.of((gate, Text("never")))) as endpoint:
                request = client.build_request("POST", endpoint.url + "/v1/messages", json=body)
                response = await client.send(request, stream=True)
                await gate.reached()
            with pytest.raises(httpx2.RemoteProtocolError):
                await response.aread()
            await response.aclose()


async def test_requests_are_kept_with_headers_and_body() -> None:
    async with serve(ScriptedModel.of((Text("yes"),))) as endpoint:
        await post(endpoint.url, ask(USER))
        await post(endpoint.url, ask(USER), path="/v1/messages/count_tokens")
    assert [request.path for request in endpoint.requests] == ["/v1/messages", "/v1/messages/count_tokens"]
    (turn,) = endpoint.turns
    assert turn.headers["x-api-key"] == "sk-test"
    assert turn.body == ask(USER)


async def test_the_rest_of_the_api_is_answered_sensibly() -> None:
    async with serve(ScriptedModel.of()) as endpoint, httpx2.AsyncClient() as client:
        counted = await post(endpoint.url, ask(USER), path="/v1/messages/count_tokens")
        hello = await client.head(endpoint.url + "/api/hello")
        unknown = await client.post(endpoint.url + "/v1/files", json={})
        garbled = await client.post(endpoint.url + "/v1/messages", content=b"{")
    assert counted.json()["input_tokens"] > 0
    assert hello.status_code == 200
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    assert (garbled.status_code, garbled.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_it_serves_on_a_unix_socket_that_only_its_owner_may_use(tmp_path: Path) -> None:
    socket = tmp_path / "model.sock"
    async with serve(ScriptedModel.of((Text("by socket"),)), uds=socket) as endpoint:
        assert socket.stat().st_mode & 0o777 == 0o600
        async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(socket))) as client:
            response = await client.post(endpoint.url + "/v1/messages", json=ask(USER))
    assert texts(response) == ["by socket"]
    assert not socket.exists()


async def test_a_place_where_it_cannot_listen_is_an_invalid_request(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(InvalidRequest):
        async with serve(ScriptedModel.of(), uds=taken):
            pass
    assert taken.read_text() == "mine"
    async with serve(ScriptedModel.of()) as endpoint:
        with pytest.raises(InvalidRequest):
            async with serve(ScriptedModel.of(), port=int(endpoint.url.rpartition(":")[2])):
                pass


async def test_the_real_agent_sdk_and_command_line_hear_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "CLAUDE"))]:
        monkeypatch.delenv(name)
    work = tmp_path / "work"
    work.mkdir()
    with anyio.fail_after(PATIENCE_S):
        async with serve(ScriptedModel.of((Text("All is well."),))) as endpoint:
            kit = ClaudeAgentOptions(
                cwd=work,
                env=dict(claude_code_variables(tmp_path / "home", url=endpoint.url)),
                tools=[],
                setting_sources=[],
            )
            messages = [message async for message in query(prompt="How is it?", options=kit)]

    results = [(m.is_error, m.result) for m in messages if isinstance(m, ResultMessage)]
    assert results == [(False, "All is well.")]
    assert [request.path for request in endpoint.requests] == ["/v1/messages"]
    assert endpoint.turns[0].first_user_text == "How is it?"
