"""`gloveport score`: a sandbox's own tool calls, and files of other tools, by a rubric."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..conftest import Cli  # noqa: TID252 - tests are no package of ours

RUBRIC = """
[[criteria]]
name = "tested"
command = { matches = "^test", after = "last-edit" }
[[criteria]]
name = "short"
weight = 3
max_steps = 1
"""


@pytest.fixture
def rubric(tmp_path: Path) -> str:
    path = tmp_path / "rubric.toml"
    path.write_text(RUBRIC)
    return str(path)


@pytest.fixture
def trajectory(tmp_path: Path) -> str:
    """As knowlyr's recorder writes it."""
    calls = [
        {"tool_call": {"name": "shell", "parameters": {"command": command}}, "tool_result": {"exit_code": code}}
        for command, code in (("make", 2), ("test -d .", 0))
    ]
    path = tmp_path / "recorded.json"
    path.write_text(json.dumps({"steps": calls}))
    return str(path)


@pytest.mark.needs("bubblewrap")
def test_the_tool_calls_of_a_sandbox_are_scored_also_after_it_is_gone(cli: Cli, rubric: str) -> None:
    sandbox = cli.create()

    def call(tool: str, **params: str) -> None:
        cli.ok("exec", sandbox, "--tool", tool, "--params", json.dumps(params))

    call("file_write", path="a.txt", content="one")
    call("shell", command="test -s a.txt")
    live = json.loads(cli.ok("score", sandbox, "--rubric", rubric, "--json"))
    assert (live["score"], live["total_steps"]) == (0.25, 2)
    assert [(one["name"], one["check"], one["score"], one["steps"]) for one in live["criteria"]] == [
        ("tested", "command", 1.0, [1]),
        ("short", "max_steps", 0.0, [1]),
    ]
    call("shell", command="echo two > a.txt")
    after = json.loads(cli.ok("score", sandbox, "--rubric", rubric, "--json"))
    assert [one["score"] for one in after["criteria"]] == [0.0, 0.0], "the file was changed by a command after the test"
    assert after["criteria"][0]["steps"] == [1, 2]
    cli.ok("rm", sandbox)
    assert json.loads(cli.ok("score", sandbox, "--rubric", rubric, "--json")) == after


@pytest.mark.needs("bubblewrap")
def test_of_a_broken_recording_what_is_sound_is_scored_if_asked(cli: Cli, rubric: str, tmp_path: Path) -> None:
    sandbox = cli.create()
    for command in ("test -d .", "echo one"):
        cli.ok("exec", sandbox, "--tool", "shell", "--params", json.dumps({"command": command}))
    path = tmp_path / "events.jsonl"
    cli.ok("export", sandbox, "-f", "events", "-o", str(path))
    path.write_bytes(path.read_bytes().replace(b"echo one", b"echo two"))
    refused = cli("score", str(path), "--rubric", rubric)
    assert (refused.returncode, b"does not match its seal" in refused.stderr) == (2, True)
    partial = cli("score", str(path), "--rubric", rubric, "--partial", "--json")
    assert (partial.returncode, b"incomplete" in partial.stderr) == (0, True)
    told = json.loads(partial.stdout)
    assert (told["score"], told["total_steps"], "seal" in told["incomplete"]) == (1.0, 1, True)


def test_a_score_below_what_is_wanted_is_the_exit_status_if_asked(cli: Cli, rubric: str, trajectory: str) -> None:
    table = cli.ok("score", trajectory, "--rubric", rubric)
    assert table.splitlines()[-1] == "score 0.25"
    assert cli.ok("score", trajectory, "--rubric", rubric, "--at-least", "0.25") == table
    below = cli("score", trajectory, "--rubric", rubric, "--at-least", "0.26")
    assert (below.returncode, below.stdout.decode()) == (1, table)


def test_what_cannot_be_scored_is_refused_with_what_to_do(
    cli: Cli, rubric: str, trajectory: str, tmp_path: Path
) -> None:
    misspelt = tmp_path / "misspelt.toml"
    misspelt.write_text(RUBRIC.replace("max_steps", "max_stesp"))
    yaml = tmp_path / "rubric.yaml"
    yaml.write_text("criteria: []")
    for words, status, said in (
        ((trajectory,), 2, "--rubric"),
        ((trajectory, "--rubric", str(yaml)), 2, "TOML"),
        ((trajectory, "--rubric", str(misspelt)), 2, f"{misspelt}:8: unknown key 'criteria.1.max_stesp'; did you mean"),
        ((trajectory, "--rubric", str(tmp_path / "none.toml")), 4, "none.toml"),
        ((trajectory, "--rubric", rubric, "--at-least", "2"), 2, "0 to 1"),
        ((rubric, "--rubric", rubric), 2, "line 2"),
        (("./none.json", "--rubric", rubric), 4, "none.json"),
        (("nobody", "--rubric", rubric), 4, "nobody"),
    ):
        done = cli("score", *words)
        assert (done.returncode, said in done.stderr.decode()) == (status, True), (words, done)
    error = json.loads(cli("score", trajectory, "--rubric", str(misspelt), "--json").stdout)["error"]
    assert error["context"]["mistakes"][0]["line"] == 8
