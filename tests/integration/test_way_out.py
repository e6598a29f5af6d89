"""The only way out of a real sandbox: what its policy allows passes, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from gloveport.backends.bubblewrap import lifecycle
from gloveport.egress import Gate
from gloveport.errors import Unsupported
from gloveport.model import Limits, Policy, Spec
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]
PATIENCE = 120


def policy(text: str) -> Policy:
    return merge_layers([compile_layer(parse_document(text.encode(), "p.toml"), "project")])


def egress_of(settings: Settings) -> list[dict[str, object]]:
    (trail,) = (settings.data / "audit").glob("*.jsonl")
    events = [json.loads(line) for line in Path(trail).read_text().splitlines()]
    return [event["data"] for event in events if event["kind"] == "egress"]


async def test_what_the_policy_names_is_reached_by_ordinary_programs(settings: Settings, port: int) -> None:
    allowed = policy(f'[egress]\nallow = [{{ host = "localhost:{port}", private = true }}]')
    script = f"""
unset no_proxy NO_PROXY
curl -sS http://localhost:{port}/ && curl -sS --proxytunnel http://localhost:{port}/
curl -sS --socks5-hostname 127.0.0.1:3128 http://localhost:{port}/
curl -sS http://other.test:{port}/; curl -sS -m 5 http://127.0.0.1:{port}/
python3 -c 'import urllib.request as u; print(u.urlopen("http://localhost:{port}/").read())'
"""
    async with Sandbox.create(Spec(policy=allowed), settings=settings) as sandbox:
        done = await sandbox.exec(shell_request(script))
    assert done.text.count("reached") == 4, done
    assert "blocked by egress.default: no rule names other.test" in done.text
    assert [(record["protocol"], record["host"], record["allowed"]) for record in egress_of(settings)] == [
        ("http", "localhost", True),
        ("connect", "localhost", True),
        ("socks5", "localhost", True),
        ("http", "other.test", False),
        ("http", "127.0.0.1", False),
        ("http", "localhost", True),
    ]


async def test_the_way_out_is_there_again_after_a_reset_and_in_a_fork(settings: Settings, port: int) -> None:
    allowed = policy(f'[egress]\nallow = [{{ host = "localhost:{port}", private = true }}]')
    script = f"unset no_proxy NO_PROXY; curl -sS http://localhost:{port}/; curl -sS http://other.test:{port}/"
    async with Sandbox.create(Spec(policy=allowed), settings=settings) as sandbox:
        (fork,) = await sandbox.fork()
        for _ in range(3):
            with anyio.fail_after(PATIENCE):
                await sandbox.reset()
            for each in (sandbox, fork):
                done = await each.exec(shell_request(script))
                assert "reached" in done.text, done
                assert "blocked by egress.default" in done.text


async def test_a_reset_that_cannot_be_prepared_leaves_the_way_out_as_it_was(
    settings: Settings, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise Unsupported("no room", hint="none", capability="snapshot")

    allowed = policy(f'[egress]\nallow = [{{ host = "localhost:{port}", private = true }}]')
    ask = shell_request(f"unset no_proxy NO_PROXY; curl -sS http://localhost:{port}/")
    async with Sandbox.create(Spec(policy=allowed), settings=settings) as sandbox:
        with monkeypatch.context() as patched:
            patched.setattr(lifecycle, "prepare_workspace", fail)
            with pytest.raises(Unsupported, match="no room"):
                await sandbox.reset()
        assert (await sandbox.exec(ask)).text.startswith("reached GET /\n")


async def test_a_sandbox_whose_way_out_cannot_be_opened_is_deleted_again(settings: Settings) -> None:
    def fail(*_: object) -> Gate:
        raise Unsupported("no gate", hint="none", capability="egress")

    spec = Spec(policy=policy('[egress]\nallow = ["api.example"]'))
    async with Manager(settings, make_gate=fail) as manager:
        with anyio.fail_after(PATIENCE), pytest.raises(Unsupported, match="no gate"):
            await manager.create(spec)
        assert not manager.held
        assert await manager.statuses() == []


async def test_without_a_rule_there_is_no_way_out_at_all(settings: Settings) -> None:
    async with Sandbox.create(settings=settings) as sandbox:
        done = await sandbox.exec(shell_request("env | grep -i proxy; curl -sS -m 5 http://127.0.0.1:3128/"))
    assert done.exit.status != 0
    assert b"proxy=" not in done.stdout


async def test_a_private_place_that_is_not_named_as_such_is_refused(settings: Settings, port: int) -> None:
    allowed = policy(f'[egress]\nallow = ["localhost:{port}"]')
    async with Sandbox.create(Spec(policy=allowed), settings=settings) as sandbox:
        done = await sandbox.exec(shell_request(f"unset no_proxy NO_PROXY; curl -sS http://localhost:{port}/"))
    assert "blocked by built-in: private addresses: localhost leads to" in done.text


async def test_a_way_out_ends_with_the_time_of_its_sandbox_and_disturbs_no_other(settings: Settings, port: int) -> None:
    allowed = policy(f'[egress]\nallow = [{{ host = "localhost:{port}", private = true }}]')
    short = Limits(sandbox_seconds=1.5, exec_seconds=1)
    ask = shell_request(f"unset no_proxy NO_PROXY; curl -sS http://localhost:{port}/")
    async with Manager(settings) as manager:
        brief = await manager.create(Spec(policy=allowed, limits=short))
        listener = await brief.backend.egress(brief.ref)
        with anyio.fail_after(60):
            while listener.fileno() != -1:
                await anyio.sleep(0.01)
        other = Sandbox(await manager.create(Spec(policy=allowed)))
        await manager.delete(brief.ref.id)
        assert (await other.exec(ask)).text.startswith("reached GET /\n")


async def test_each_sandbox_has_its_own_policy_and_its_way_out_ends_with_it(settings: Settings, port: int) -> None:
    allowed = policy(f'[egress]\nallow = [{{ host = "localhost:{port}", private = true }}]')
    other = policy('[egress]\nallow = ["else.test"]')
    ask = shell_request(f"unset no_proxy NO_PROXY; curl -sS http://localhost:{port}/")
    async with Manager(settings) as manager:
        held = [await manager.create(Spec(policy=rules)) for rules in (allowed, other)]
        first, second = (Sandbox(each) for each in held)
        assert (await first.exec(ask)).text.startswith("reached GET /\n")
        assert "blocked" in (await second.exec(ask)).text
        listener = await held[0].backend.egress(held[0].ref)
        await manager.delete(held[0].ref.id)
        assert listener.fileno() == -1
        assert "blocked" in (await second.exec(ask)).text
