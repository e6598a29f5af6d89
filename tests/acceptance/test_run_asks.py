"""A run whose policy asks: a person answers from a second terminal, too late, never, or takes it back."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from gloveport.compose import run_locally
from gloveport.model import Event, EventKind, RunState, Source, Spec, Task
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.settings import Settings
from gloveport.testing import ScriptedModel, Text, ToolUse, serve

from ..conftest import PATIENCE, Cli  # noqa: TID252 - tests are no package of ours
from .conftest import KEY, in_thread

pytestmark = [pytest.mark.anyio, pytest.mark.needs("agent")]

TOUCH = (ToolUse("Bash", {"command": "touch made.txt", "description": "Make a file"}),)
DONE = (Text("1. Summary: done."),)
ASKS = '[exec]\nask = [{ command = "touch **", reason = "why" }]\n'
ATTEMPTS = 200


@pytest.fixture
def asking(place: Path, repository: Path) -> Callable[[str], tuple[str, ...]]:
    """The words of a run under a policy."""

    def make(policy: str = ASKS) -> tuple[str, ...]:
        (place / "p.toml").write_text(policy)
        return ("run", "--repo", str(repository), "--policy", str(place / "p.toml"))

    return make


def questions(cli: Cli, count: int = 1, *, of: subprocess.Popen[bytes] | None = None) -> list[dict[str, Any]]:
    """What waits, as a second terminal sees it once so much does. `of` is who asks: what that said tells why not."""
    for _ in range(ATTEMPTS):
        found = json.loads(cli.ok("approvals", "--json"))
        if len(found) == count:
            return list(found)
    if of is not None:
        of.terminate()
    raise AssertionError(f"not {count} questions: {found}; {of and outcome(of)}")


def outcome(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, out.decode(), (err or b"").decode()


def kinds(cli: Cli) -> list[str]:
    lines = cli.ok("logs", "last", "--json").splitlines()
    return [kind for line in lines if (kind := json.loads(line)["kind"]).startswith(("approval", "grant"))]


async def test_a_run_says_how_to_answer_and_goes_on_with_the_answer(
    scripted, asking, settings: Settings, repository: Path
) -> None:
    command = await scripted(TOUCH, DONE)
    process = command.start(*asking(), "--ask", "Make made.txt")

    def answer() -> dict[str, Any]:
        said = process.stderr.readline().decode()
        (asked,) = questions(command)
        assert said == (
            f"gloveport: waiting 120 s for you; answer in another terminal: gloveport approvals allow {asked['id']}"
            f" (or deny {asked['id']}) about exec touch made.txt\n"
        )
        heading, row, total = command.ok("approvals").splitlines()
        assert heading.split()[:4] == ["ID", "SANDBOX", "WHAT", "RUN"]
        assert row.startswith(f"{asked['id']}  {asked['sandbox']}  exec touch made.txt  {asked['run']}  ")
        assert total == "1 question"
        (desk,) = settings.desks.iterdir()
        assert (desk.name, desk.stat().st_mode & 0o777) == (f"{asked['run']}.sock", 0o600)
        assert settings.desks.stat().st_mode & 0o777 == 0o700
        assert command.ok("approvals", "allow", asked["id"]).startswith("allowed exec touch made.txt until")
        return asked

    asked = await in_thread(answer)
    status, out, rest = await in_thread(outcome, process)
    assert (status, rest) == (0, ""), out
    assert asked["run"] in out
    assert "made.txt" in await in_thread(command.ok, "diff", "last")
    assert await in_thread(kinds, command) == ["approval.asked", "approval.answered", "grant.made"]
    assert list(settings.desks.iterdir()) == []
    assert not settings.socket.exists(), "no runner is needed to answer a run"


@pytest.mark.parametrize("words", [("--no-ask",), ()], ids=["--no-ask", "no terminal"])
async def test_where_nobody_watches_the_answer_is_no_at_once(scripted, asking, settings: Settings, words) -> None:
    command = await scripted(TOUCH, DONE)
    done = await in_thread(command, *asking(), *words, "Make made.txt")
    assert done.returncode == 0, done
    assert b"nobody allowed it within 0 s" in done.stdout
    assert done.stderr == b""
    assert json.loads(await in_thread(command.ok, "show", "last", "--json"))["changed"] == []
    assert not settings.desks.exists()


async def test_on_a_terminal_it_asks_and_a_denial_is_told_to_the_agent(scripted, asking) -> None:
    command = await scripted(TOUCH, DONE)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*command.argv, *asking(), "Make made.txt"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=command.environment,
    )
    os.close(theirs)

    def answer() -> str:
        (asked,) = questions(command)
        assert command.ok("approvals", "deny", asked["id"]) == "denied\n"
        out = outcome(process)[1]
        with open(ours, "rb", buffering=0) as terminal:
            assert asked["id"].encode() in terminal.read(65_536)
        return out

    assert "denied it for this sandbox" in await in_thread(answer)
    assert process.returncode == 0


async def test_no_answer_in_time_is_a_denial(settings: Settings, repository: Path) -> None:
    heard: list[Event] = []
    policy = merge_layers([compile_layer(parse_document(ASKS.encode(), "p.toml"), "project")])
    task = Task(prompt="Make made.txt", spec=Spec(source=Source(repo=str(repository)), policy=policy))
    async with serve(ScriptedModel.of(TOUCH, DONE)) as endpoint:
        there = replace(settings, upstream=endpoint.url, api_key=KEY)
        with anyio.fail_after(PATIENCE):
            summary = await run_locally(task, there, heard.append, ask_seconds=0.2)
    assert (summary.state, summary.changed) == (RunState.SUCCEEDED, ())
    assert [event.data["reason"] for event in heard if event.kind is EventKind.APPROVAL_EXPIRED] == [
        "no answer within 0.2 s"
    ]
    (returned,) = [event.data for event in heard if event.kind is EventKind.TOOL_RETURNED]
    assert "nobody allowed it within 0.2 s" in returned["text"]
    assert list(settings.desks.iterdir()) == []


async def test_two_runs_ask_at_once_and_one_that_is_killed_takes_its_question_along(
    scripted, asking, settings: Settings
) -> None:
    words = (*asking(), "--ask", "--json", "Make made.txt")
    commands = [await scripted(TOUCH, DONE), await scripted(TOUCH, DONE)]
    processes = [command.start(*words) for command in commands]

    def answer() -> None:
        asked = questions(commands[0], 2)
        by_run = {each["run"]: each for each in asked}
        runs = [json.loads(process.stdout.readline())["data"]["run"] for process in processes]
        assert sorted(by_run) == sorted(runs)
        processes[0].send_signal(signal.SIGKILL)
        outcome(processes[0])
        assert (settings.desks / f"{runs[0]}.sock").exists()
        late = commands[0]("approvals", "allow", by_run[runs[0]]["id"])
        assert late.returncode == 4
        assert [path.name for path in settings.desks.iterdir()] == [f"{runs[1]}.sock"]
        assert questions(commands[0]) == [by_run[runs[1]]]
        commands[0].ok("approvals", "allow", by_run[runs[1]]["id"], "--sandbox")
        status, out, _ = outcome(processes[1])
        assert status == 0
        assert json.loads(out.splitlines()[-1])["changed"] == ["made.txt"]

    await in_thread(answer)


class _Streaming(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"reached\n")
        self.wfile.flush()
        self.server.began.set()  # type: ignore[attr-defined]
        self.server.over.wait(10 * PATIENCE)  # type: ignore[attr-defined]

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
        return


@pytest.mark.parametrize("scope", ["--sandbox", "--always"])
async def test_what_a_run_was_granted_is_taken_back_while_it_is_in_use(scripted, asking, scope: str) -> None:
    """With `--always` at every desk: the runner's, which is asked first, is not the one that has the connection."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Streaming)
    server.began, server.over = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    server.daemon_threads = True
    port = server.server_address[1]
    fetch = {"command": f"unset no_proxy NO_PROXY; curl -sSN http://localhost:{port}/", "description": "Fetch"}
    command = await scripted((ToolUse("Bash", fetch),), DONE)
    policy = f'[egress]\nask = [{{ host = "localhost:{port}", private = true, reason = "why" }}]\n'
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        await in_thread(command.create)
        process = command.start(*asking(policy), "--ask", "Fetch it")

        def answer() -> str:
            (asked,) = questions(command, of=process)
            command.ok("approvals", "allow", asked["id"], scope)
            assert server.began.wait(PATIENCE)  # type: ignore[attr-defined]
            (grant,) = json.loads(command.ok("approvals", "grants", "--json"))
            assert command.ok("approvals", "revoke", grant["id"]) == "taken back; 1 connection ended\n"
            assert command("approvals", "revoke", grant["id"]).returncode == 4
            status, out, _ = outcome(process)
            assert status == 0
            return out

        assert "reached" in await in_thread(answer)
        server.over.set()  # type: ignore[attr-defined]
        await in_thread(server.shutdown)
    first, second, third, *ends = await in_thread(kinds, command)
    assert [first, second, third] == ["approval.asked", "approval.answered", "grant.made"]
    assert set(ends) == {"grant.revoked"}
