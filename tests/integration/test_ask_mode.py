"""Asking a person before a sandbox reaches a host: answered from another process, late, never, and taken back."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest

from gloveport.client import connect, encode
from gloveport.model import AnswerKind, Approval, Event, EventKind, Grant, Policy, Spec
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.sandbox.grants import Clock, KeptGrants
from gloveport.settings import Settings
from gloveport.store import Trail, make_private

from ..conftest import PATIENCE, Cli  # noqa: TID252 - tests are no package of ours

pytestmark = pytest.mark.needs("bubblewrap")
ATTEMPTS = 200
"""How often a test looks again at what changes a moment after a command."""


class Server(ThreadingHTTPServer):
    """Answers at once; `/stream` begins to answer and goes on until the test is over."""

    over: threading.Event
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"reached\n")
        self.wfile.flush()
        if self.path == "/stream":
            self.server.over.wait(10 * PATIENCE)  # longer than any test waits for its end

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
        return


@contextmanager
def serving() -> Iterator[int]:
    """The port of a server that listens meanwhile."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.over = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.over.set()
        server.shutdown()


@pytest.fixture
def port() -> Iterator[int]:
    with serving() as port:
        yield port


def policy(text: str) -> Policy:
    return merge_layers([compile_layer(parse_document(text.encode(), "p.toml"), "project")])


def asking(port: int) -> Policy:
    return policy(f"[egress]\nask = [{_host(port)}]")


def _host(port: int) -> str:
    return f'{{ host = "localhost:{port}", private = true, reason = "who knows" }}'


WAYS = {"http": "", "connect": "--proxytunnel", "socks5": "--noproxy '' --socks5-hostname 127.0.0.1:3128"}


def curl(port: int, path: str = "/", way: str = "http") -> str:
    return f"unset no_proxy NO_PROXY; curl -sSN {WAYS[way]} http://localhost:{port}{path}"


def create(cli: Cli, rules: Policy) -> str:
    """A sandbox with a policy, in the runner that `cli` talks to."""
    with connect(cli.settings) as runner:
        return str(runner.call("create", spec=encode(Spec(policy=rules)))["status"]["ref"]["id"])


def question(cli: Cli) -> dict[str, Any]:
    """The only one, as a person at a second terminal sees it."""
    for _ in range(ATTEMPTS):
        found = json.loads(cli.ok("approvals", "--json"))
        if found:
            (only,) = found
            return dict(only)
    raise AssertionError("nobody asks")


def output(process: subprocess.Popen[bytes]) -> bytes:
    try:
        return process.communicate(timeout=PATIENCE)[0]
    finally:
        process.kill()


def events(cli: Cli, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cli.ok("logs", name, "--json").splitlines()]


def kinds(cli: Cli, name: str) -> list[str]:
    return [
        event["kind"] for event in events(cli, name) if event["kind"].split(".")[0] in ("approval", "grant", "egress")
    ]


def test_a_question_is_answered_once_from_a_second_terminal(cli: Cli, port: int) -> None:
    name = create(cli, asking(port))
    waiting = cli.start("exec", name, "--", "sh", "-c", curl(port))
    asked = question(cli)
    assert (asked["sandbox"], asked["host"], asked["port"], asked["waiting"]) == (name, "localhost", port, 1)
    assert asked["rule"].startswith("egress.ask: localhost")
    shown = cli.ok("approvals").splitlines()
    assert [asked["id"], name, f"localhost:{port}"] == shown[1].split()[:3]
    assert shown[2] == "1 question"
    assert waiting.poll() is None
    said = cli.ok("approvals", "allow", asked["id"])
    assert said.startswith(f"allowed localhost:{port} until its connection ends: grant ")
    assert output(waiting) == b"reached\n"
    again = cli.start("exec", name, "--", "sh", "-c", curl(port))
    second = question(cli)
    assert second["id"] != asked["id"]
    assert cli.ok("approvals", "deny", second["id"]) == "denied\n"
    assert b"blocked by egress.ask: localhost" in (refusal := output(again))
    assert b"denied it for this sandbox" in refusal
    assert cli.ok("approvals", "grants").splitlines()[-1] == "0 grants"  # it ended with its connection
    assert kinds(cli, name) == [
        *("approval.asked", "approval.answered", "grant.made", "egress"),
        *("approval.asked", "approval.answered", "egress"),
    ]
    answered = [event["data"]["by"] for event in events(cli, name) if event["kind"] == "approval.answered"]
    assert all(f"uid {os.geteuid()}" in who for who in answered)


def test_a_grant_for_the_sandbox_ends_with_it_and_one_for_always_is_kept_and_revoked(cli: Cli, port: int) -> None:
    first, second = create(cli, asking(port)), create(cli, asking(port))
    waiting = cli.start("exec", first, "--", "sh", "-c", curl(port))
    cli.ok("approvals", "allow", question(cli)["id"], "--sandbox")
    assert output(waiting) == b"reached\n"
    assert cli.ok("exec", first, "--", "sh", "-c", curl(port)) == "reached\n"
    cli.ok("rm", first)
    assert cli.ok("approvals", "grants").splitlines()[-1] == "0 grants"
    waiting = cli.start("exec", second, "--", "sh", "-c", curl(port))
    cli.ok("approvals", "allow", question(cli)["id"], "--always")
    assert output(waiting) == b"reached\n"
    cli.ok("runner", "stop")
    third = create(cli, asking(port))
    assert cli.ok("exec", third, "--", "sh", "-c", curl(port)) == "reached\n"
    (grant,) = json.loads(cli.ok("approvals", "grants", "--json"))
    assert (grant["scope"], grant["sandbox"], grant["until"] - grant["granted_at"]) == ("always", second, 30 * 86_400)
    row = cli.ok("approvals", "grants").splitlines()[1].split()
    assert row[:4] == [grant["id"], "always", f"localhost:{port}", "(all)"]
    assert cli.ok("approvals", "revoke", grant["id"]) == "taken back; 0 connections ended\n"
    waiting = cli.start("exec", third, "--", "sh", "-c", curl(port))
    cli.ok("approvals", "deny", question(cli)["id"])
    assert b"blocked" in output(waiting)


@pytest.mark.parametrize("way", WAYS)
def test_a_grant_taken_back_while_a_connection_is_open_ends_that_connection_and_no_other(
    cli: Cli, port: int, way: str
) -> None:
    with serving() as other:
        name = create(cli, policy(f"[egress]\nask = [{_host(port)}, {_host(other)}]"))
        streams = []
        for place in (port, other):
            process = cli.start("exec", name, "--", "sh", "-c", curl(place, "/stream", way))
            cli.ok("approvals", "allow", question(cli)["id"], "--sandbox")
            assert process.stdout is not None
            assert process.stdout.readline() == b"reached\n"  # the connection is open, and carries data
            streams.append(process)
        mine = next(grant for grant in json.loads(cli.ok("approvals", "grants", "--json")) if grant["port"] == port)
        assert cli.ok("approvals", "revoke", mine["id"]) == "taken back; 1 connection ended\n"
        output(streams[0])
        (record,) = [event["data"] for event in events(cli, name) if event["kind"] == "egress"]
        assert (record["grant"], record["allowed"], record["protocol"]) == (mine["id"], True, way)
        assert record["error"] == "what allowed it was taken back"
        assert "grant.revoked" in kinds(cli, name)
        assert streams[1].poll() is None
        assert not select.select([streams[1].stdout], [], [], 0)[0]
    assert output(streams[1]) == b""  # its server has ended it


def test_a_runner_that_is_killed_takes_its_questions_with_it_and_leaves_what_is_kept(cli: Cli, port: int) -> None:
    name = create(cli, asking(port))
    waiting = cli.start("exec", name, "--", "sh", "-c", curl(port))
    cli.ok("approvals", "allow", question(cli)["id"], "--always")
    assert output(waiting) == b"reached\n"
    (grant,) = json.loads(cli.ok("approvals", "grants", "--json"))
    with Server(("127.0.0.1", 0), Handler) as unused:
        new = unused.server_address[1]
        name = create(cli, asking(new))
        waiting = cli.start("exec", name, "--", "sh", "-c", curl(new))
        asked = question(cli)
        os.kill(json.loads(cli.ok("runner", "status", "--json"))["pid"], signal.SIGKILL)
        output(waiting)
        assert waiting.returncode == 69
    done = cli("approvals", "allow", asked["id"], "--always")
    assert done.returncode == 4
    assert f"no question '{asked['id']}' waits" in done.stderr.decode()
    assert json.loads(cli.ok("approvals", "--json")) == []
    assert json.loads(cli.ok("approvals", "grants", "--json")) == [grant]
    assert kinds(cli, name) == ["approval.asked"]


@pytest.mark.parametrize(
    "words",
    [
        *(("allow",), ("deny",), ("revoke",), ("list", "x"), ("grants", "x"), ("deny", "x", "--once")),
        ("allow", "x", "--once", "--always"),
    ],
    ids=" ".join,
)
def test_a_command_that_could_mean_two_things_does_neither(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli("approvals", *words, "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "invalid_request")


def test_an_id_that_names_nothing_is_not_found_and_the_hint_says_where_to_look(cli: Cli) -> None:
    for words in (("allow", "brave-otter-000000"), ("deny", "x"), ("revoke", "x")):
        done = cli("approvals", *words)
        assert done.returncode == 4
        assert b"next: give the whole id; see what" in done.stderr


@dataclass
class Watched:
    """A sandbox of this process with a policy, and what its trail heard."""

    manager: Manager
    sandbox: Sandbox
    heard: list[Event] = field(default_factory=list)
    asked: anyio.Event = field(default_factory=anyio.Event)

    async def question(self) -> Approval:
        with anyio.fail_after(PATIENCE):
            await self.asked.wait()
        (pending,) = self.manager.approvals.pending()
        return pending

    def kinds(self) -> list[str]:
        return [str(event.kind) for event in self.heard]


@asynccontextmanager
async def watched(settings: Settings, rules: Policy, *, seconds: float = PATIENCE) -> AsyncIterator[Watched]:
    heard: list[Event] = []
    asked = anyio.Event()

    def listen(event: Event) -> None:
        heard.append(event)
        if event.kind is EventKind.APPROVAL_ASKED:
            asked.set()

    async with Manager(settings, ask_seconds=seconds) as manager:
        trail = Trail(make_private(settings.data) / "trail.jsonl", listener=listen)
        held = await manager.create(Spec(policy=rules), trail=trail)
        yield Watched(manager, Sandbox(held), heard, asked)


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS)
async def test_a_question_that_nobody_answers_in_time_is_a_denial_with_its_reason(
    settings: Settings, port: int, way: str
) -> None:
    async with watched(settings, asking(port), seconds=0.2) as there:
        done = await there.sandbox.exec(shell_request(f"{curl(port, way=way)} -i"))
        found = there.kinds()
        (record,) = [event.data for event in there.heard if event.kind is EventKind.EGRESS]
    assert "reached" not in done.text
    if way != "socks5":
        assert "blocked by egress.ask: localhost" in done.text
        assert "nobody allowed it within 0.2 s (gloveport approvals); ask your operator" in done.text
    assert [kind for kind in found if kind.startswith("approval")] == ["approval.asked", "approval.expired"]
    assert (record["allowed"], record["address"], record["grant"]) == (False, "", "")


@pytest.mark.anyio
async def test_nothing_reaches_the_client_and_nothing_is_dialled_while_the_question_waits(
    settings: Settings, port: int
) -> None:
    rules = policy('[egress]\nask = ["never.invalid"]')
    async with watched(settings, rules) as there:
        process = await there.sandbox.start(shell_request(curl(port).replace(f"localhost:{port}", "never.invalid")))
        asked = await there.question()
        assert EventKind.EGRESS not in there.kinds()
        there.manager.approvals.answer(asked.id, AnswerKind.DENY, "ann")
        said = b"".join([chunk.data async for chunk in process])
        await process.wait()
        again = await there.sandbox.exec(shell_request(curl(port).replace(f"localhost:{port}", "never.invalid")))
        records = [event.data for event in there.heard if event.kind is EventKind.EGRESS]
    assert said.startswith(b"gloveport: blocked by egress.ask: never.invalid")
    assert b"ann denied it for this sandbox" in said
    assert again.text.encode() == said
    assert there.kinds().count("approval.asked") == 1
    # It has no address: had anybody looked for one, that is what would be said.
    assert [(record["allowed"], record["error"]) for record in records] == [(False, "")] * 2


@pytest.mark.anyio
@pytest.mark.parametrize("verdict", ["deny", "ask"])
async def test_no_grant_undoes_a_rule_that_denies(settings: Settings, port: int, verdict: str) -> None:
    """With `ask` the same grant lets the same connection pass."""
    place = f'{{ host = "localhost:{port}", private = true }}'
    rules = policy(
        f'[egress]\ndefault = "ask"\nask = [{place}]\n{"deny" if verdict == "deny" else "allow"} = [{place}]'
    )
    grants = KeptGrants(make_private(settings.data) / "grants.json", clock := Clock())
    now = clock.wall()
    grants.add(
        Grant(
            id="g",
            scope=AnswerKind.ALWAYS,
            host="localhost",
            port=port,
            sandbox="s",
            granted_at=now,
            granted_by="ann",
            until=now + 3600,
        )
    )
    async with watched(settings, rules) as there:
        done = await there.sandbox.exec(shell_request(curl(port)))
        assert ("reached" in done.text) is (verdict == "ask")
        assert ("blocked by egress.deny" in done.text) is (verdict == "deny")
        assert not there.asked.is_set()


@pytest.mark.anyio
async def test_nobody_is_asked_about_a_place_that_no_answer_would_open(settings: Settings, port: int) -> None:
    async with watched(settings, policy('[egress]\ndefault = "ask"')) as there:
        for host in (f"127.0.0.1:{port}", "169.254.169.254", "[::1]:80"):
            done = await there.sandbox.exec(shell_request(f"unset no_proxy NO_PROXY; curl -sS -g http://{host}/"))
            assert "blocked by built-in: private addresses" in done.text
        assert not there.asked.is_set()


@pytest.mark.anyio
async def test_a_granted_name_that_leads_to_a_private_place_is_still_refused(settings: Settings, port: int) -> None:
    async with watched(settings, policy('[egress]\ndefault = "ask"')) as there:
        process = await there.sandbox.start(shell_request(curl(port)))
        there.manager.approvals.answer((await there.question()).id, AnswerKind.ALWAYS, "ann")
        said = b"".join([chunk.data async for chunk in process])
        await process.wait()
    assert b"blocked by built-in: private addresses: localhost leads to" in said


@pytest.mark.anyio
async def test_a_sandbox_that_ends_takes_its_question_with_it(settings: Settings, port: int) -> None:
    async with watched(settings, asking(port)) as there:
        await there.sandbox.start(shell_request(curl(port)))
        await there.question()
        with anyio.fail_after(PATIENCE):
            await there.manager.delete(there.sandbox.id)
        assert there.manager.approvals.pending() == []
        ended = [event.data for event in there.heard if event.kind is EventKind.APPROVAL_EXPIRED]
        assert [facts["reason"] for facts in ended] == ["the sandbox ended"]
