"""The MCP server with the SDK's own client, in both of its protocols, over standard streams and over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from gloveport.settings import Settings

pytest.importorskip("mcp")

from mcp import MCPError, types
from mcp.client.client import Client

from .mcp_world import MODES, PATIENCE, TOKEN, World

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

TOOLS = {
    "create_sandbox",
    "execute_tool",
    "reset_sandbox",
    "replay_trajectory",
    "score_trajectory",
    "snapshot_sandbox",
    "fork_sandbox",
    "list_sandboxes",
    "close_sandbox",
    "get_diff",
}


@pytest.fixture
def repository(make_repository: Callable[[Mapping[str, str]], Path]) -> Path:
    return make_repository({"calc.py": "def add(a, b):\n    return a - b\n", "README.md": "# A project\n"})


@pytest.fixture
def world(settings: Settings, repository: Path) -> World:
    return World(settings=settings, here=repository.parent)


@asynccontextmanager
async def connected(world: World, way: str) -> AsyncIterator[Client]:
    """A client by a way such as `stdio auto` or `http legacy`."""
    transport, _, mode = way.partition(" ")
    if transport == "stdio":
        async with world.client(mode) as client:
            yield client
    else:
        given = World(settings=world.settings, here=world.here, variables={"GLOVEPORT_MCP_TOKEN": TOKEN})
        with given.http() as served:
            async with served.client(mode=mode) as client:
                yield client


@pytest.fixture(params=[f"{transport} {mode}" for transport in ("stdio", "http") for mode in MODES])
async def client(request: pytest.FixtureRequest, world: World) -> AsyncIterator[Client]:
    """Any client, by every way there is."""
    async with in_own_task(connected(world, request.param)) as client:
        yield client


@pytest.fixture
async def only_client(world: World) -> AsyncIterator[Client]:
    """One client, where the way makes no difference."""
    async with in_own_task(connected(world, "stdio auto")) as client:
        yield client


@asynccontextmanager
async def in_own_task(scope: Any) -> AsyncIterator[Client]:
    """A fixture's beginning and end may be in different tasks, which the client's own scopes do not bear."""
    ready, over = anyio.Event(), anyio.Event()
    held: list[Client] = []

    async def hold() -> None:
        async with scope as client:
            held.append(client)
            ready.set()
            await over.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await ready.wait()
        yield held[0]
        over.set()


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """A call that succeeds: its structured result, which the client has checked against the tool's schema."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    assert json.loads(text_of(result)) == result.structured_content, "the text says the same"
    return result.structured_content


async def shell(client: Client, sandbox: str, command: str) -> dict[str, Any]:
    return await call(client, "execute_tool", sandbox_id=sandbox, tool_name="shell", params={"command": command})


async def refusal(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """A call that the platform refuses: the error tree's own JSON."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result
    error = json.loads(text_of(result))["error"]
    assert error["code"]
    assert error["message"]
    assert error["hint"]
    return error


def text_of(result: types.CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


async def made(client: Client, **arguments: Any) -> str:
    return (await call(client, "create_sandbox", **arguments))["sandbox_id"]


async def test_every_client_makes_uses_compares_and_closes_a_sandbox(
    client: Client, repository: Path, world: World
) -> None:
    facts = await call(
        client, "create_sandbox", repo_url=str(repository), base_commit="main", timeout=60, memory="512m"
    )
    assert (facts["state"], facts["workspace"], facts["network"]) == ("running", "/workspace", False)
    sandbox = facts["sandbox_id"]
    ran = await shell(client, sandbox, "cat calc.py; sed -i 's/a - b/a + b/' calc.py")
    assert (ran["output"], ran["exit_code"], ran["timed_out"]) == ("def add(a, b):\n    return a - b\n", 0, False)
    diff = await call(client, "get_diff", sandbox_id=sandbox)
    assert "+    return a + b" in diff["patch"]
    assert (diff["paths"], diff["truncated"]) == (["calc.py"], False)
    assert (repository / "calc.py").read_text().endswith("a - b\n"), "the repository itself is never written"
    listed = await call(client, "list_sandboxes")
    assert [one["sandbox_id"] for one in listed["sandboxes"]] == [sandbox]
    assert (await call(client, "close_sandbox", sandbox_id=sandbox))["closed"] is True
    assert (await call(client, "list_sandboxes"))["sandboxes"] == []
    assert world.sandboxes == []


async def test_the_tools_are_typed_both_ways(only_client: Client) -> None:
    tools = {tool.name: tool for tool in (await only_client.list_tools()).tools}
    assert tools.keys() == TOOLS
    for tool in tools.values():
        assert tool.description
        assert tool.input_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
        assert tool.output_schema["properties"]
    wanted = {"repo_url", "base_commit", "language", "image", "timeout", "memory", "cpu", "policy"}
    assert wanted <= tools["create_sandbox"].input_schema["properties"].keys()
    inner = tools["execute_tool"].input_schema["properties"]["tool_name"]["enum"]
    assert {"file_read", "file_write", "shell", "search", "git", "Bash", "Edit"} <= set(inner)


@pytest.mark.needs("git")
async def test_the_standard_tools_and_claudes_work(only_client: Client, repository: Path) -> None:
    sandbox = await made(only_client, repo_url=str(repository))
    table = [
        ("file_read", {"path": "README.md"}, "# A project\n"),
        ("search", {"pattern": "return"}, "calc.py:2:    return a - b"),
        ("git", {"subcommand": "log", "args": "--format=%s"}, "first\n"),
        ("Read", {"file_path": "/workspace/README.md"}, "1\t# A project"),
        ("Bash", {"command": "cat README.md"}, "# A project"),
        ("Glob", {"pattern": "*.py"}, "calc.py"),
    ]
    for tool, params, output in table:
        done = await call(only_client, "execute_tool", sandbox_id=sandbox, tool_name=tool, params=params)
        assert output in done["output"], tool


async def test_claudes_tools_remember_from_call_to_call(only_client: Client, repository: Path) -> None:
    sandbox = await made(only_client, repo_url=str(repository))

    async def claude(tool: str, **params: Any) -> dict[str, Any]:
        return await call(only_client, "execute_tool", sandbox_id=sandbox, tool_name=tool, params=params)

    await claude("Bash", command="mkdir sub && cd sub")
    assert "/workspace/sub" in (await claude("Bash", command="pwd"))["output"]
    await claude("Read", file_path="/workspace/calc.py")
    await claude("Edit", file_path="/workspace/calc.py", old_string="a - b", new_string="a + b")
    assert "a + b" in (await claude("Bash", command="cat /workspace/calc.py"))["output"]


async def test_what_fails_in_a_sandbox_is_flagged_and_whole(only_client: Client, repository: Path) -> None:
    sandbox = await made(only_client, repo_url=str(repository))
    table = [
        ("shell", {"command": "echo gone wrong >&2; exit 3"}, "gone wrong"),
        ("file_read", {"path": "nowhere"}, "nowhere"),
        ("Edit", {"file_path": "/workspace/README.md", "old_string": "a", "new_string": "b"}, "read"),
        ("shell", {"command": "sleep 1000", "timeout": 0.2}, "timed out"),
    ]
    for tool, params, said in table:
        arguments = {"sandbox_id": sandbox, "tool_name": tool, "params": params}
        result = await only_client.call_tool("execute_tool", arguments)
        assert result.is_error
        assert result.structured_content["exit_code"] != 0
        assert said in result.structured_content["error"]
        assert json.loads(text_of(result)) == result.structured_content


async def test_what_cannot_be_done_is_an_error_with_code_message_and_hint(only_client: Client) -> None:
    table: list[tuple[str, dict[str, Any], str]] = [
        ("create_sandbox", {"timeout": "soon"}, "invalid_request"),
        ("create_sandbox", {"timeout": True}, "invalid_request"),
        ("create_sandbox", {"cpu": 0}, "invalid_request"),
        ("create_sandbox", {"memory": "much"}, "invalid_request"),
        ("create_sandbox", {"policy": "anything goes"}, "invalid_request"),
        ("create_sandbox", {"surprise": 1}, "invalid_request"),
        ("create_sandbox", {"base_commit": "main"}, "invalid_request"),
        ("create_sandbox", {"repo_url": ""}, "invalid_request"),
        ("create_sandbox", {"repo_url": "nowhere"}, "not_found"),
        ("create_sandbox", {"snapshot": "sha256:" + "0" * 64}, "not_found"),
        ("create_sandbox", {"snapshot": "good"}, "invalid_request"),
        ("create_sandbox", {"snapshot": "0000"}, "invalid_request"),
        ("execute_tool", {}, "invalid_request"),
        ("execute_tool", {"sandbox_id": "nobody", "tool_name": "shell"}, "not_found"),
        ("execute_tool", {"sandbox_id": "nobody", "tool_name": "rm"}, "invalid_request"),
        ("execute_tool", {"sandbox_id": 7, "tool_name": "shell"}, "invalid_request"),
        ("fork_sandbox", {"sandbox_id": "nobody", "count": 0}, "invalid_request"),
        ("fork_sandbox", {"sandbox_id": "nobody", "count": 10**30}, "invalid_request"),
        ("reset_sandbox", {"sandbox_id": "nobody"}, "not_found"),
        ("snapshot_sandbox", {"sandbox_id": "nobody"}, "not_found"),
        ("replay_trajectory", {"sandbox_id": "nobody", "trajectory": {}}, "not_found"),
        ("get_diff", {"sandbox_id": "nobody"}, "not_found"),
        ("close_sandbox", {"sandbox_id": "nobody"}, "not_found"),
    ]
    for tool, arguments, code in table:
        assert (await refusal(only_client, tool, **arguments))["code"] == code, (tool, arguments)


async def test_parameters_that_do_not_fit_are_named_with_what_is_expected(only_client: Client) -> None:
    sandbox = await made(only_client)
    missing = await refusal(only_client, "execute_tool", sandbox_id=sandbox, tool_name="shell", params={})
    assert "`command` is missing" in missing["message"]
    assert "shell(command" in missing["hint"]
    wrong = await refusal(only_client, "execute_tool", sandbox_id=sandbox, tool_name="Bash", params={"command": 1})
    assert wrong["code"] == "invalid_request"


async def test_an_unknown_tool_is_an_error_of_the_protocol(client: Client) -> None:
    with pytest.raises(MCPError, match="no tool 'sudo'") as raised:
        await client.call_tool("sudo", {})
    assert raised.value.code == types.INVALID_PARAMS
    assert raised.value.data["code"] == "invalid_request"
    assert (await call(client, "list_sandboxes"))["sandboxes"] == [], "it goes on"


async def test_calls_run_at_the_same_time_and_the_server_answers_meanwhile(client: Client) -> None:
    """Each of three commands waits for the two others, and all of them for a file that a fourth call writes."""
    sandbox = await made(client)
    meet = "touch {0}; until test -e a && test -e b && test -e c && test -e go; do sleep 0.02; done; echo {0} met"
    said = []

    async def wait(name: str) -> None:
        said.append((await shell(client, sandbox, meet.format(name)))["output"])

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(wait, name)
        await shell(client, sandbox, "until test -e a && test -e b && test -e c; do sleep 0.02; done")
        await client.list_tools()
        assert len((await call(client, "list_sandboxes"))["sandboxes"]) == 1
        assert said == [], "they still wait"
        go = {"path": "go", "content": ""}
        await call(client, "execute_tool", sandbox_id=sandbox, tool_name="file_write", params=go)
    assert sorted(said) == ["a met\n", "b met\n", "c met\n"]


async def test_a_long_call_reports_its_progress(client: Client) -> None:
    sandbox = await made(client)
    heard: list[tuple[float, str | None]] = []
    twice = anyio.Event()

    async def hear(seconds: float, _total: float | None, message: str | None) -> None:
        heard.append((seconds, message))
        if len(heard) > 1:
            twice.set()

    async def wait() -> None:
        params = {"command": "until test -e go; do sleep 0.02; done"}
        arguments = {"sandbox_id": sandbox, "tool_name": "shell", "params": params}
        result = await client.call_tool("execute_tool", arguments, progress_callback=hear)
        assert not result.is_error

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await twice.wait()
        await shell(client, sandbox, "touch go")
    seconds = [one for one, _ in heard]
    assert seconds == sorted(set(seconds)), "progress only grows"
    assert heard[0][1] == "shell is running"


async def test_a_cancelled_call_kills_what_it_runs(client: Client) -> None:
    sandbox = await made(client)
    gone = "until test -e begun; do sleep 0.02; done; while kill -0 $(cat begun) 2>/dev/null; do sleep 0.02; done"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shell, client, sandbox, "sh -c 'echo $$ > begun.part; mv begun.part begun; sleep 100000'")
        await shell(client, sandbox, "until test -e begun; do sleep 0.02; done")
        tasks.cancel_scope.cancel()
    assert (await shell(client, sandbox, gone))["exit_code"] == 0
    assert (await shell(client, sandbox, "cat begun"))["output"].strip().isdigit(), "the sandbox is as it was"


async def test_files_diffs_and_events_are_resources(client: Client, repository: Path) -> None:
    sandbox = await made(client, repo_url=str(repository))
    await shell(client, sandbox, r"printf '\0\377' > raw; mkdir 'a dir'; echo ok > 'a dir/ä.txt'")
    address = f"gloveport://sandbox/{sandbox}"

    async def read(rest: str) -> types.TextResourceContents | types.BlobResourceContents:
        (content,) = (await client.read_resource(f"{address}/{rest}")).contents
        return content

    assert (await read("file/README.md")).text == "# A project\n"
    assert (await read("file/a%20dir/%C3%A4.txt")).text == "ok\n"
    assert (await read("file/%2Fworkspace/calc.py")).text.startswith("def add")
    assert (await read("file/raw")).blob == "AP8="
    assert "+ok" in (await read("diff")).text
    kinds = [json.loads(line)["kind"] for line in (await read("events")).text.splitlines()]
    assert kinds[0] == "sandbox.created"
    assert "tool.called" in kinds
    listed = {resource.uri for resource in (await client.list_resources()).resources}
    assert {f"{address}/{name}" for name in ("diff", "trajectory", "events")} <= listed
    templates = {one.uri_template for one in (await client.list_resource_templates()).resource_templates}
    assert "gloveport://sandbox/{sandbox_id}/file/{+path}" in templates


async def test_an_address_that_names_nothing_is_an_error_with_a_hint(only_client: Client) -> None:
    sandbox = await made(only_client)
    for address in (
        "gloveport://sandbox/{0}/file/nowhere",
        "gloveport://sandbox/{0}/file/",
        "gloveport://sandbox/{0}/diff/more",
        "gloveport://sandbox/{0}/surprise",
        "gloveport://sandbox/nobody/diff",
        "gloveport://sandbox//diff",
        "file:///etc/passwd",
        "nonsense",
    ):
        with pytest.raises(MCPError) as raised:
            await only_client.read_resource(address.format(sandbox))
        assert raised.value.code == types.INVALID_PARAMS, address
        assert raised.value.data["hint"]


async def test_a_resource_reads_the_guests_files_and_not_the_hosts(only_client: Client, world: World) -> None:
    secret = world.here / "secret"
    secret.write_text("of the host")
    sandbox = await made(only_client)
    await shell(only_client, sandbox, f"ln -s {secret} link; ln -s / root")
    for path in ("link", f"root/{secret}", f"%2F{secret}", f"../..{secret}"):
        with pytest.raises(MCPError):
            await only_client.read_resource(f"gloveport://sandbox/{sandbox}/file/{path}")


async def test_a_patch_beyond_the_bound_says_that_it_is_cut(only_client: Client) -> None:
    sandbox = await made(only_client)
    await shell(only_client, sandbox, "seq 400000 > numbers")
    diff = await call(only_client, "get_diff", sandbox_id=sandbox)
    assert diff["truncated"] is True
    assert diff["patch_bytes"] > len(diff["patch"]) > 0
    assert diff["paths"] == ["numbers"]


async def test_names_and_output_that_are_no_utf_8_pass(only_client: Client) -> None:
    sandbox = await made(only_client)
    ran = await shell(only_client, sandbox, r"touch $'caf\xe9'; printf 'caf\xe9\n'")
    assert ran["output"] == "caf\ufffd\n"
    assert (await call(only_client, "get_diff", sandbox_id=sandbox))["paths"] == ["caf\ufffd"]


async def test_a_sandbox_is_saved_forked_and_reset(only_client: Client, repository: Path) -> None:
    client = only_client
    sandbox = await made(client, repo_url=str(repository))
    await shell(client, sandbox, "echo saved > state; (sleep 100000 &)")
    saved = (await call(client, "snapshot_sandbox", sandbox_id=sandbox, label="before"))["snapshot"]
    await shell(client, sandbox, "echo spoilt > state; rm calc.py")
    (fork,) = (await call(client, "fork_sandbox", sandbox_id=sandbox, count=1))["sandboxes"]
    assert (await call(client, "reset_sandbox", sandbox_id=sandbox, snapshot=saved))["snapshot"] == saved
    assert (await shell(client, sandbox, "cat state; ls; pgrep sleep || true"))["output"] == (
        "saved\nREADME.md\ncalc.py\nstate\n"
    )
    assert (await shell(client, fork["sandbox_id"], "cat state"))["output"] == "spoilt\n"
    await call(client, "reset_sandbox", sandbox_id=sandbox)
    assert (await call(client, "get_diff", sandbox_id=sandbox))["patch"] == ""
    again = await made(client, snapshot=saved)
    assert (await shell(client, again, "cat state"))["output"] == "saved\n"
    assert len((await call(client, "list_sandboxes"))["sandboxes"]) == 3


async def test_a_recorded_trajectory_replays_and_a_change_of_behaviour_is_found(
    only_client: Client, repository: Path
) -> None:
    client = only_client
    sandbox = await made(client, repo_url=str(repository))
    await shell(client, sandbox, "date; sed -i 's/a - b/a + b/' calc.py")
    params = {"path": "calc.py"}
    await call(client, "execute_tool", sandbox_id=sandbox, tool_name="file_read", params=params)
    failing = {"sandbox_id": sandbox, "tool_name": "shell", "params": {"command": "echo no >&2; exit 3"}}
    assert (await client.call_tool("execute_tool", failing)).is_error
    (content,) = (await client.read_resource(f"gloveport://sandbox/{sandbox}/trajectory")).contents
    trajectory = json.loads(content.text)
    assert [step["tool_name"] for step in trajectory["steps"]] == ["shell", "file_read", "shell"]
    await call(client, "reset_sandbox", sandbox_id=sandbox)
    (content,) = (await client.read_resource(f"gloveport://sandbox/{sandbox}/trajectory")).contents
    assert json.loads(content.text)["steps"] == []
    replayed = await call(client, "replay_trajectory", sandbox_id=sandbox, trajectory=trajectory)
    assert replayed["success"] is True, replayed
    assert (replayed["total_steps"], replayed["completed_steps"], replayed["divergence_step"]) == (3, 3, -1)
    await call(client, "reset_sandbox", sandbox_id=sandbox)
    await shell(client, sandbox, "sed -i 's/return/return 1 +/' calc.py")
    replayed = await call(client, "replay_trajectory", sandbox_id=sandbox, trajectory=trajectory)
    assert (replayed["success"], replayed["completed_steps"]) == (False, 3)
    assert "return 1 +" in "".join(one["difference"] for one in replayed["details"])
    assert len((await call(client, "list_sandboxes"))["sandboxes"]) == 1
    for nonsense in ({}, {"steps": 3}, {"steps": [{"params": {}}]}, {"schema_version": "ATIF-v99"}):
        error = await refusal(client, "replay_trajectory", sandbox_id=sandbox, trajectory=nonsense)
        assert error["code"] == "invalid_request", nonsense


async def test_what_was_recorded_in_a_sandbox_is_scored_by_a_rubric(only_client: Client) -> None:
    client = only_client
    sandbox = await made(client)
    await shell(client, sandbox, "touch tests")
    arguments = {"sandbox_id": sandbox, "tool_name": "shell", "params": {"command": "ls none"}}
    assert (await client.call_tool("execute_tool", arguments)).is_error
    (content,) = (await client.read_resource(f"gloveport://sandbox/{sandbox}/trajectory")).contents
    trajectory = json.loads(content.text)
    tidy = {"name": "tidy", "weight": 3, "max_errors": 0.25}
    looked = {"name": "looked", "command": {"matches": "^ls", "succeeded": False, "after": "last-edit"}}
    scored = await call(client, "score_trajectory", trajectory=trajectory, rubric={"criteria": [tidy, looked]})
    assert (scored["score"], scored["total_steps"]) == (0.25, 2)
    assert scored["criteria"] == [
        {
            "name": "tidy",
            "check": "max_errors",
            "weight": 3.0,
            "score": 0.0,
            "why": "errors: 1 of 2 calls, 0.25 at most",
            "steps": [1],
            "steps_total": 1,
        },
        {
            "name": "looked",
            "check": "command",
            "weight": 1.0,
            "score": 1.0,
            "why": "no file was changed after it",
            "steps": [1],
            "steps_total": 1,
        },
    ]
    for rubric, said in (
        (
            {"criteria": [{**tidy, "max_error": 1}]},
            "rubric: unknown key 'criteria.0.max_error'; did you mean 'max_errors'?",
        ),
        ({"criteria": [{"name": "x", "command": {"matches": "("}}]}, "no regular expression"),
        ({}, "criteria"),
    ):
        error = await refusal(client, "score_trajectory", trajectory=trajectory, rubric=rubric)
        assert (error["code"], said in error["message"]) == ("invalid_request", True), error
    error = await refusal(client, "score_trajectory", trajectory={"steps": 3}, rubric={"criteria": [tidy]})
    assert (error["code"], "no trajectory" in error["message"]) == ("invalid_request", True), error


async def test_a_client_gets_no_directory_outside_the_roots(only_client: Client, repository: Path, place: Path) -> None:
    link = repository.parent / "link"
    link.symlink_to("/usr")
    for outside in ("/usr", "..", "file:///usr", "link", "/"):
        denied = await refusal(only_client, "create_sandbox", repo_url=outside)
        assert denied["code"] == "policy_denied", outside
        assert "--root" in denied["hint"]
    denied = await refusal(only_client, "create_sandbox", image="/usr")
    assert denied["code"] == "policy_denied"
    await made(only_client, repo_url="repository")


async def test_the_servers_policy_stands_above_what_clients_ask_for(world: World) -> None:
    async with world.client("auto", "--policy", "minimal", "--root", str(world.here)) as client:
        denied = await refusal(client, "create_sandbox", memory="1g")
        assert denied["code"] == "policy_denied"
        facts = await call(client, "create_sandbox", policy="development")
        assert facts["network"] is False, "a lower layer widens nothing"
    async with world.client("auto") as client:
        assert (await call(client, "create_sandbox", policy="minimal"))["network"] is False


async def test_a_server_holds_no_more_sandboxes_than_it_may(world: World) -> None:
    async with world.client("auto", "--most", "2") as client:
        first = await made(client)
        assert (await refusal(client, "fork_sandbox", sandbox_id=first, count=2))["code"] == "limit_exceeded"
        await made(client)
        assert (await refusal(client, "create_sandbox"))["code"] == "limit_exceeded"
        await call(client, "close_sandbox", sandbox_id=first)
        await made(client)


async def test_the_time_of_a_command_is_that_of_its_sandbox(only_client: Client) -> None:
    sandbox = await made(only_client, timeout=0.3)
    params = {"command": "sleep 100000"}
    arguments = {"sandbox_id": sandbox, "tool_name": "shell", "params": params}
    with anyio.fail_after(PATIENCE):
        result = await only_client.call_tool("execute_tool", arguments)
    assert result.is_error
    assert (result.structured_content["timed_out"], result.structured_content["exit_code"]) == (True, 124)
