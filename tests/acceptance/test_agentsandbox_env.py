"""`SandboxEnv` begins anew in the right repository, ends where agent or steps end, and raises for no step."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from gloveport.compat.agentsandbox import SandboxConfig, SandboxEnv, TaskConfig
from gloveport.errors import GloveportError, InvalidRequest
from gloveport.settings import Settings

from ..conftest import MakeRepository  # noqa: TID252 - tests are no package of ours
from .test_documents import block

pytestmark = pytest.mark.needs("bubblewrap")

CONFIG = SandboxConfig(cpu_limit=1)


@pytest.fixture
def task(make_repository: MakeRepository) -> TaskConfig:
    return TaskConfig(repo_url=str(make_repository({"name": "first"})))


@pytest.fixture
def env(settings: Settings, task: TaskConfig) -> Iterator[SandboxEnv]:
    with SandboxEnv(CONFIG, task, max_steps=3, settings=settings) as env:
        yield env
    assert list((settings.state / "sandboxes").iterdir()) == []


def run(command: str) -> dict[str, object]:
    return {"tool": "shell", "params": {"command": command}}


def test_a_reset_of_the_same_task_is_its_first_state_in_the_same_sandbox(env: SandboxEnv) -> None:
    first = env.reset(seed=7)
    assert (first.done, first.info["seed"], first.info["max_steps"]) == (False, 7, 3)
    assert env.step(run("echo spoilt > name; cat name")).observation == "spoilt\n"
    again = env.reset()
    assert again.info["sandbox_id"] == first.info["sandbox_id"]
    assert env.history == []
    assert env.step(run("cat name")).observation == "first"


def test_a_reset_with_another_task_really_switches_the_repository(
    env: SandboxEnv, settings: Settings, make_repository: MakeRepository
) -> None:
    first = env.reset()
    other = SimpleNamespace(repo=str(make_repository({"name": "second"})), base_commit="", test_command="cat name")
    switched = env.reset(task=other)
    assert switched.info["sandbox_id"] != first.info["sandbox_id"]
    assert [each.name for each in (settings.state / "sandboxes").iterdir()] == [switched.info["sandbox_id"]]
    assert env.step(run("cat name")).observation == "second"
    assert env.sandbox is not None
    assert env.sandbox.run_tests().output == "second"
    assert env.reset().info["sandbox_id"] == switched.info["sandbox_id"], "the task is the last one that was given"


def test_a_task_that_was_changed_after_its_sandbox_was_made_is_another(
    env: SandboxEnv, task: TaskConfig, make_repository: MakeRepository
) -> None:
    env.reset()
    task.repo_url = str(make_repository({"name": "changed"}))
    env.reset()
    assert env.step(run("cat name")).observation == "changed"


def test_a_task_that_cannot_be_had_leaves_no_sandbox_to_act_in_by_mistake(env: SandboxEnv, task: TaskConfig) -> None:
    env.reset()
    with pytest.raises(GloveportError):
        env.reset(task=TaskConfig(repo_url="/nowhere"))
    assert env.sandbox is None
    assert env.step(run("true")).info["error"]
    env.reset(task=task)
    assert env.step(run("cat name")).observation == "first"


def test_a_sandbox_that_is_gone_is_made_anew(env: SandboxEnv) -> None:
    env.reset()
    assert env.sandbox is not None
    env.sandbox.close()
    assert env.step(run("true")).info["error"]
    env.reset()
    assert env.step(run("cat name")).observation == "first"


@pytest.mark.parametrize("tool", ["submit", "finish"])
def test_who_submits_is_done_and_nothing_is_carried_out_afterwards(env: SandboxEnv, tool: str) -> None:
    env.reset()
    assert tool in env.available_tools
    last = env.step({"tool": tool})
    assert (last.terminated, last.truncated, last.done) == (True, False, True)
    assert (last.info["exit_code"], last.info["error"], last.info["tool"]) == (0, None, tool)
    late = env.step(run("echo late > late"))
    assert (late.done, late.observation, len(env.history)) == (True, "", 1)
    assert env.sandbox is not None
    assert not env.sandbox.execute_tool("file_read", {"path": "late"}).success


def test_after_the_last_step_it_is_truncated(env: SandboxEnv) -> None:
    env.reset()
    steps = [env.step(run(f"echo {number}")) for number in range(4)]
    assert [(step.observation, step.truncated) for step in steps] == [
        ("0\n", False),
        ("1\n", False),
        ("2\n", True),
        ("", True),
    ]
    assert not any(step.terminated for step in steps)
    assert [one["output"] for one in env.history] == ["0\n", "1\n", "2\n"]
    assert not env.reset().done


def test_what_goes_wrong_in_a_step_is_told_and_is_no_end(settings: Settings) -> None:
    with SandboxEnv(CONFIG, settings=settings) as env:
        assert env.step(run("true")).terminated, "there is nothing to act in before reset"
        env.reset()
        for action, code in (
            (run("echo no >&2; exit 3"), 3),
            ({"tool": "sudo", "params": {}}, 2),
            ({"tool": "shell", "params": {"comand": "x"}}, 2),
            ({"tool": "shell", "params": "true"}, 2),
            ({"params": {}}, 2),
            ("true", 2),
        ):
            step = env.step(action)  # type: ignore[arg-type]
            assert (step.info["exit_code"], step.done, bool(step.info["error"])) == (code, False, True), action
        env.history[0]["params"]["command"] = "altered"
        assert env.history[0] == {
            "step": 1,
            "tool": "shell",
            "params": {"command": "echo no >&2; exit 3"},
            "output": "",
            "exit_code": 3,
        }
    env.close()
    assert env.step(run("true")).terminated
    with pytest.raises(InvalidRequest, match="max_steps"):
        SandboxEnv(max_steps=0)


def test_the_loop_of_the_page_runs_as_written(
    settings: Settings, task: TaskConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLOVEPORT_STATE", str(settings.state))
    monkeypatch.setenv("GLOVEPORT_DATA", str(settings.data))
    program = block("docs/reference/agentsandbox.md", "python", "SandboxEnv")
    exec(program.replace("https://example.org/user/repo", task.repo_url), {})
    assert capsys.readouterr().out == "1 False\n2 True\n"
