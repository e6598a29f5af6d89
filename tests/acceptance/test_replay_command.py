"""`gloveport replay` as a person uses it: a run of the real agent, with a scripted model, and files of other makers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gloveport.testing import Text, ToolUse

from .conftest import in_thread

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

TURNS = (
    (Text("I look."), ToolUse("Bash", {"command": "date; ls -l", "description": "Look"})),
    (ToolUse("Read", {"file_path": "/workspace/README"}),),
    (ToolUse("Edit", {"file_path": "/workspace/README", "old_string": "a project", "new_string": "a better project"}),),
    (ToolUse("Write", {"file_path": "/workspace/new.py", "content": "print({'a', 'b', 'c'})\n"}),),
    (ToolUse("Bash", {"command": "python3 new.py; exit 3", "description": "Run it"}),),
    (ToolUse("Grep", {"pattern": "better"}),),
    (ToolUse("Glob", {"pattern": "*.py"}),),
    (ToolUse("Bash", {"command": "date > stamp.txt; mktemp > /dev/null", "description": "Note the time"}),),
    (Text("Done."),),
)


def write(path: Path, *steps: tuple[str, dict[str, object], str | None], **metadata: object) -> Path:
    document = {
        "steps": [{"tool_name": tool, "params": params, "expected_output": output} for tool, params, output in steps],
        "metadata": metadata,
    }
    path.write_text(json.dumps(document))
    return path


@pytest.mark.needs("agent")
async def test_a_run_replays_without_divergence_and_a_changed_repository_is_found(scripted, repository: Path) -> None:
    command = await scripted(*TURNS)
    test = "grep -q better README && echo tested"
    await in_thread(command.ok, "run", "--repo", str(repository), "--test", test, "Improve it")
    said = await in_thread(command, "replay", "last")
    assert said.returncode == 0, said
    assert b"8 of 8 steps" in said.stdout
    assert b"no divergence" in said.stdout
    assert b"as it was, not on a commit" in said.stderr
    assert b"nothing in it changed since" in said.stderr

    twice = json.loads(await in_thread(command.ok, "replay", "last", "--times", "2", "--json"))
    assert [one["success"] for one in twice["replays"]] == [True, True]
    assert "8 of 8" in await in_thread(command.ok, "replay", "last", "--from", "4", "--fixed")
    judged = await in_thread(command.ok, "replay", "last", "--level", "R1")
    assert "2 of 2 steps" in judged

    (repository / "README").write_text("another project\n")
    changed = await in_thread(command, "replay", "last", "--json")
    assert changed.returncode == 1, changed
    found = json.loads(changed.stdout)
    assert found["divergences"][0]["step"] == found["divergence_step"] > -1
    assert {one["kind"] for one in found["divergences"]} == {"behaviour"}
    assert any("README" in remark for remark in found["notes"])
    assert (await in_thread(command, "replay", "last", "--level", "R1")).returncode == 1


@pytest.mark.needs("agent")
async def test_a_run_on_a_commit_replays_on_that_commit_whatever_became_of_the_directory(
    scripted, repository: Path
) -> None:
    command = await scripted(*TURNS)
    await in_thread(command.ok, "run", "--repo", str(repository), "--commit", "HEAD", "--snapshots", "Improve it")
    (repository / "README").write_text("another project\n")
    said = await in_thread(command, "replay", "last")
    assert said.returncode == 0, said
    assert b"not on a commit" not in said.stderr
    begun = json.loads(await in_thread(command.ok, "replay", "last", "--from", "4", "--json"))
    assert [step["verdict"] for step in begun["steps"]] == ["skipped"] * 4 + ["same"] * 4
    assert any("begins with snapshot sha256:" in remark for remark in begun["notes"])


@pytest.mark.needs("agent")
async def test_the_agent_itself_replays_with_its_model_played_from_the_tape(scripted, repository: Path) -> None:
    command = await scripted(*TURNS)
    await in_thread(command.ok, "run", "--repo", str(repository), "Improve it")
    offline = replace(command, env={name: value for name, value in command.env.items() if "ANTHROPIC" not in name})
    twice = json.loads(await in_thread(offline.ok, "replay", "last", "--level", "R3", "--times", "2", "--json"))
    for one in twice["replays"]:
        assert (one["success"], one["completed_steps"], one["compared_steps"]) == (True, 8, 8)
        assert "9 of 9 exchanges with the model came from the tape" in one["notes"]
        assert "times" in {rule["name"] for rule in one["normalised"]}

    (repository / "README").write_text("another project\n")
    done = await in_thread(offline, "replay", "last", "--level", "R3", "--json")
    assert done.returncode == 1, done
    first, *_, model = json.loads(done.stdout)["divergences"]
    assert (first["step"], first["tool"]) == (0, "Bash")  # `ls -l` says another size
    assert model["tool"] == "(the agent)"
    assert model["reason"].startswith("exchange 1 with the model is not on the tape: messages[")
    assert "step 0 diverged before it" in model["reason"]

    (tape,) = command.settings.data.glob("runs/*/model.jsonl")
    tape.write_bytes(tape.read_bytes().replace(b"a better project", b"a bitter project"))
    altered = await in_thread(offline, "replay", "last", "--level", "R3")
    assert b"model.jsonl is not as it was" in altered.stderr, altered
    tape.unlink()
    assert b"model.jsonl is gone" in (await in_thread(offline, "replay", "last", "--level", "R3")).stderr


@pytest.mark.needs("agent")
async def test_a_run_is_forked_at_a_step_and_goes_on_with_another_model(scripted, repository: Path) -> None:
    command = await scripted(*TURNS)
    await in_thread(command.ok, "run", "--repo", str(repository), "--test", "grep -q better README", "Improve it")
    edit = {"file_path": "/workspace/README", "old_string": "a project", "new_string": "another, better project"}
    # A scripted model says the turn whose number is that of the answers before it: the first two are never asked for.
    other = await scripted((), (), (ToolUse("Edit", edit),), (Text("Done differently."),))
    said = await in_thread(other.ok, "replay", "last", "--fork", "2", "--model", "claude-haiku-4-5", "--json")
    *events, summary = [json.loads(line) for line in said.splitlines()]
    assert (summary["state"], summary["answer"], summary["test_status"]) == ("succeeded", "Done differently.", 0)
    started = next(event["data"] for event in events if event["kind"] == "run.started")
    assert (started["forked_from"]["step"], started["forked_from"]["exchanges"]) == (2, 2)
    assert "another, better" in await in_thread(other.ok, "diff", "last")
    assert "new.py" not in await in_thread(other.ok, "diff", "last")
    assert "unbroken" in await in_thread(other.ok, "verify", "last")
    again = json.loads(await in_thread(other.ok, "replay", "last", "--level", "R3", "--json"))
    assert (again["success"], again["total_steps"]) == (True, 3)

    (repository / "README").write_text("yet another project\n")
    failed = await in_thread(other, "replay", started["forked_from"]["run"], "--fork", "2", "--json")
    assert failed.returncode == 69, failed
    message = json.loads(failed.stdout.splitlines()[-1])["message"]
    assert "exchange 1 with the model is not on the tape" in message
    assert "after step 0 (Bash) came out otherwise" in message

    keyless = replace(other, env={name: value for name, value in other.env.items() if "API_KEY" not in name})
    refused = await in_thread(keyless, "replay", "last", "--fork", "1")
    assert b"set ANTHROPIC_API_KEY" in refused.stderr, refused
    assert (await in_thread(other, "replay", "last", "--fork", "99")).returncode == 2


async def test_a_file_replays_on_what_it_names_and_what_came_instead_is_accepted(
    cli, repository: Path, place: Path
) -> None:
    file = write(
        place / "trajectory.json",
        ("shell", {"command": "cat README"}, "a project"),
        ("shell", {"command": "echo now"}, "then"),
        ("shell", {"command": "cat none"}, ""),
        repo=str(repository),
    )
    done = await in_thread(cli, "replay", str(file), "--update", str(place / "accepted.json"))
    assert done.returncode == 1, done
    assert b"step 1 (shell): behaviour" in done.stdout
    assert b"-then\n    +now" in done.stdout
    assert "no divergence" in await in_thread(cli.ok, "replay", str(place / "accepted.json"), "--repo", str(repository))
    assert (await in_thread(cli, "replay", str(file), "--from", "2")).returncode == 0
    elsewhere = write(place / "elsewhere.json", ("shell", {"command": "ls"}, ""), repo="https://host.invalid/r.git")
    refused = await in_thread(cli, "replay", str(elsewhere))
    assert refused.returncode == 2, refused
    assert b"name it yourself with --repo" in refused.stderr


async def test_a_sandbox_of_the_runner_is_replayed_in_as_it_is(cli, place: Path) -> None:
    name = await in_thread(cli.create)
    await in_thread(cli.ok, "exec", name, "--", "sh", "-c", "echo made > made.txt")
    file = write(
        place / "t.json",
        ("shell", {"command": "cat made.txt"}, "made\n"),
        ("Read", {"file_path": "made.txt"}, "1\tmade\n2\t"),
    )
    done = await in_thread(cli, "replay", str(file), "--on", name)
    assert done.returncode == 0, done
    assert b"taken as it was" in done.stderr


async def test_it_begins_with_a_snapshot_that_is_named_or_was_taken_before_the_step(cli, place: Path) -> None:
    name = await in_thread(cli.create)
    await in_thread(cli.ok, "exec", name, "--", "sh", "-c", "echo made > made.txt")
    snapshot = json.loads(await in_thread(cli.ok, "snapshot", name, "--json"))["id"]
    edit = {"file_path": "made.txt", "old_string": "made", "new_string": "changed"}
    file = write(
        place / "t.json",
        ("Read", {"file_path": "made.txt"}, "not carried out again"),
        ("Edit", edit, None),
        ("shell", {"command": "cat made.txt"}, "changed"),
    )
    named = await in_thread(cli, "replay", str(file), "--on", snapshot, "--json")
    assert json.loads(named.stdout)["divergence_step"] == 0, named
    document = json.loads(file.read_text())
    document["steps"][1]["gloveport"] = {"snapshot": snapshot}
    file.write_text(json.dumps(document))
    result = json.loads(await in_thread(cli.ok, "replay", str(file), "--from", "1", "--json"))
    assert [step["verdict"] for step in result["steps"]] == ["skipped", "uncompared", "same"]


async def test_the_normalisers_are_listed_and_can_be_left_out(cli, place: Path) -> None:
    listed = json.loads(await in_thread(cli.ok, "replay", "--normalisers", "--json"))
    assert {"times", "pids", "hash order", "ports"} <= {one["name"] for one in listed}
    assert "because" in await in_thread(cli.ok, "replay", "--normalisers")
    file = write(place / "t.json", ("shell", {"command": "echo took 0.$RANDOM s"}, "took 9.99 s"))
    assert "durations" in await in_thread(cli.ok, "replay", str(file))
    strict = await in_thread(cli, "replay", str(file), "--without", "durations")
    assert strict.returncode == 1, strict
    assert b"nondeterministic" in strict.stdout


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["replay"], 2, "nothing to replay"),
        (["replay", "nonsense"], 4, "gloveport runs"),
        (["replay", "{place}/broken.json"], 2, "JSON"),
        (["replay", "{place}/none.json"], 4, "gloveport runs"),
        (["replay", "{place}/t.json", "--from", "7"], 2, "no step 7"),
        (["replay", "{place}/t.json", "--times", "0"], 2, "--times"),
        (["replay", "{place}/t.json", "--without", "luck"], 2, "no normaliser 'luck'"),
        (["replay", "{place}/t.json", "--level", "R1"], 2, "only a run"),
        (["replay", "{place}/t.json", "--level", "R3"], 2, "a file replays at --level R2"),
        (["replay", "{place}/t.json", "--level", "R9"], 2, "one of: R1, R2, R3"),
        (["replay", "last", "--level", "r3", "--from", "1"], 2, "begins at its beginning"),
        (["replay", "{place}/t.json", "--commit", "HEAD"], 2, "--repo"),
        (["replay", "{place}/t.json", "--model", "m"], 2, "--fork"),
        (["replay", "last", "--fork", "1", "--network"], 2, "leave out the other options"),
        (["replay", "{place}/t.json", "--on", "nobody"], 4, "nobody"),
    ],
)
async def test_bad_input_says_what_to_do(cli, place: Path, words: list[str], status: int, said: str) -> None:
    (place / "broken.json").write_text('{"steps": [')
    write(place / "t.json", ("shell", {"command": "echo one"}, "one"))
    done = await in_thread(cli, *[word.format(place=place) for word in words])
    assert done.returncode == status, done
    assert said.encode() in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr
