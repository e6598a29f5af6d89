"""`gloveport run` as a person uses it: real command line, SDK, CLI and sandbox, a scripted model."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from gloveport.testing import Text, ToolUse

from .conftest import KEY, in_thread

pytestmark = [pytest.mark.anyio, pytest.mark.needs("agent")]

WRITE = (Text("I write."), ToolUse("Bash", {"command": "echo hello > made.txt", "description": "Make a file"}))
DONE = (Text("1. Summary: made a file."),)


async def test_a_run_is_shown_listed_diffed_verified_and_applied(scripted, repository: Path) -> None:
    command = await scripted(WRITE, DONE)
    said = await in_thread(command.ok, "run", "--repo", str(repository), "--test", "test -s made.txt", "Make made.txt")
    assert "succeeded" in said
    assert "exit 0" in said
    assert "\x1b" not in said, "plain lines when not a terminal"
    assert not (repository / "made.txt").exists()
    assert "made.txt" in await in_thread(command.ok, "show", "last")
    assert "+hello" in await in_thread(command.ok, "diff", "last")
    assert "Make made.txt" in await in_thread(command.ok, "runs")
    assert "unbroken" in await in_thread(command.ok, "verify", "last")
    await in_thread(command.ok, "apply", "last")
    assert (repository / "made.txt").read_text() == "hello\n"
    again = await in_thread(command, "apply", "last")
    assert again.returncode == 5
    assert b"next:" in again.stderr


async def test_json_is_one_event_a_line_and_the_summary_last(scripted, repository: Path) -> None:
    command = await scripted(WRITE, DONE)
    said = await in_thread(command.ok, "run", "--json", "--repo", str(repository), "Make made.txt")
    *events, summary = [json.loads(line) for line in said.splitlines()]
    assert [event["sequence"] for event in events] == list(range(len(events)))
    assert summary["state"] == "succeeded"
    assert KEY not in said


async def test_a_failed_test_command_is_exit_1(scripted, repository: Path) -> None:
    command = await scripted(DONE)
    done = await in_thread(command, "run", "--repo", str(repository), "--test", "exit 3", "Do nothing")
    assert done.returncode == 1
    assert b"failed" in done.stdout


async def test_too_many_turns_are_exit_6(scripted, repository: Path) -> None:
    command = await scripted(*[WRITE] * 9)
    done = await in_thread(command, "run", "--repo", str(repository), "--max-turns", "2", "Go on and on")
    assert done.returncode == 6, done


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_stopping_a_run_keeps_its_patch_and_leaves_no_process(
    scripted, repository: Path, signum: signal.Signals
) -> None:
    command = await scripted(
        WRITE, (ToolUse("Bash", {"command": "touch started; sleep 76543", "description": "Wait"}),), DONE
    )
    process = command.start("run", "--repo", str(repository), "Wait for ever")

    def until_it_waits() -> None:
        while b"sleep 76543" not in process.stdout.readline():
            assert process.poll() is None

    with anyio.fail_after(120):
        await anyio.to_thread.run_sync(until_it_waits, abandon_on_cancel=True)
        process.send_signal(signum)
        _, stderr = await anyio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)
    assert process.returncode == 130, stderr
    assert b"Traceback" not in stderr
    shown = json.loads(await in_thread(command.ok, "show", "last", "--json"))
    assert (shown["state"], shown["reason"]) == ("cancelled", "operator")
    assert "made.txt" in shown["changed"]
    left = subprocess.run(["pgrep", "-f", "sleep 76543"], capture_output=True)
    assert left.returncode == 1, left.stdout


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["run", "--repo", "{repo}", " "], 2, "empty prompt"),
        (["run", "--repo", "{repo}/none", "x"], 69, "none"),
        (["run", "--repo", "{repo}", "--commit", "0123456789", "x"], 69, "0123456789"),
        (["show", "nonsense"], 4, "gloveport runs"),
        (["apply", "nonsense"], 4, "gloveport runs"),
    ],
)
async def test_bad_input_says_what_to_do(scripted, repository: Path, words: list[str], status: int, said: str) -> None:
    command = await scripted(DONE)
    done = await in_thread(command, *[word.format(repo=repository) for word in words])
    assert done.returncode == status, done
    assert said.encode() in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr


async def test_without_a_key_no_run_starts(cli, repository: Path) -> None:
    done = await in_thread(cli, "run", "--repo", str(repository), "x")
    assert done.returncode == 77
    assert b"ANTHROPIC_API_KEY" in done.stderr
