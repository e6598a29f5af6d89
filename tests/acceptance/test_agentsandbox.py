"""Programs written for AgentSandbox run with only their import changed, and get what its documents promise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gloveport.compat.agentsandbox import Sandbox, SandboxConfig, TaskConfig, Trajectory, replay_trajectory
from gloveport.errors import Conflict, GloveportError, InvalidRequest, Unsupported
from gloveport.settings import Settings

from ..conftest import MakeRepository  # noqa: TID252 - tests are no package of ours
from .test_documents import blocks

pytestmark = pytest.mark.needs("bubblewrap")

PAGE = "docs/reference/agentsandbox.md"
CONFIG = SandboxConfig(cpu_limit=1)


@pytest.fixture
def task(make_repository: MakeRepository) -> TaskConfig:
    path = make_repository({"src/main.py": "print(1)\n", "test_one.py": "import unittest\n"})
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=path, capture_output=True, check=True, text=True)
    return TaskConfig(repo_url=str(path), base_commit=commit.stdout.strip(), test_command="python3 -m unittest")


@pytest.fixture
def sandbox(settings: Settings, task: TaskConfig) -> Iterator[Sandbox]:
    with Sandbox.create(CONFIG, task, settings=settings) as sandbox:
        yield sandbox


def test_the_samples_run_as_they_stand(settings: Settings, task: TaskConfig) -> None:
    first, second, _loop = blocks(PAGE, "python")
    program = f"{first.replace('sandbox.close()', second)}\nsandbox.close()\n"
    program = program.replace("https://example.org/user/repo", task.repo_url).replace("abc123", task.base_commit)
    env = {"PATH": "/usr/bin:/bin", "GLOVEPORT_STATE": str(settings.state), "GLOVEPORT_DATA": str(settings.data)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert "Exit code: " in done.stdout
    assert "success: True\ndivergence: -1" in done.stdout
    assert list((settings.state / "sandboxes").iterdir()) == []


def test_a_program_that_forgets_to_close_ends_all_the_same(settings: Settings) -> None:
    program = "from gloveport.compat.agentsandbox import Sandbox; s = Sandbox.create(); print(s.is_running)"
    env = {"PATH": "/usr/bin:/bin", "GLOVEPORT_STATE": str(settings.state), "GLOVEPORT_DATA": str(settings.data)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=env)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_a_warning_is_no_failure_and_a_failure_is_a_result(sandbox: Sandbox) -> None:
    warned = sandbox.execute_tool("shell", {"command": "echo out; echo careful >&2"})
    assert (warned.success, warned.output, warned.error) == (True, "out\n", "careful\n")
    for name, params in (("shell", {"comand": "x"}), ("nothing", {}), ("file_read", {"path": "none"})):
        failed = sandbox.execute_tool(name, params)
        assert not failed.success
        assert failed.error


def test_a_reset_is_the_state_after_creation_and_a_snapshot_can_be_restored(sandbox: Sandbox) -> None:
    sandbox.execute_tool("file_write", {"path": "src/main.py", "content": "edited"})
    snapshot = sandbox.snapshot()
    sandbox.reset()
    assert sandbox.execute_tool("file_read", {"path": "src/main.py"}).output == "print(1)\n"
    sandbox.restore(snapshot)
    assert sandbox.execute_tool("file_read", {"path": "src/main.py"}).output == "edited"


def test_setup_is_part_of_the_beginning_and_its_failure_an_error(settings: Settings, task: TaskConfig) -> None:
    task.setup_commands = ["echo ready > ready"]
    with Sandbox.create(CONFIG, task, settings=settings) as sandbox:
        sandbox.execute_tool("shell", {"command": "rm ready"})
        sandbox.reset()
        assert sandbox.execute_tool("file_read", {"path": "ready"}).output == "ready\n"
    task.setup_commands = ["echo no >&2; false"]
    with pytest.raises(Conflict, match="ended with 1: no"):
        Sandbox.create(CONFIG, task, settings=settings)
    assert list((settings.state / "sandboxes").iterdir()) == []


def test_a_timeout_is_kept(settings: Settings) -> None:
    with Sandbox.create(SandboxConfig(timeout=1), settings=settings) as sandbox:
        ended = sandbox.execute_tool("shell", {"command": "sleep 1000"})
        assert (ended.success, ended.exit_code) == (False, 124)


def test_the_tests_of_a_task_are_one_call(sandbox: Sandbox) -> None:
    assert "Ran 0 tests" in (sandbox.run_tests().error or "")


def test_a_closed_sandbox_says_so(sandbox: Sandbox) -> None:
    assert sandbox.is_running
    sandbox.close()
    sandbox.close()
    assert not sandbox.is_running
    assert "closed" in (sandbox.execute_tool("shell", {"command": "true"}).error or "")
    with pytest.raises(Conflict):
        sandbox.snapshot()


@pytest.mark.parametrize(
    ("config", "task", "error"),
    [
        (SandboxConfig(image="node:20"), TaskConfig(), Unsupported),
        (SandboxConfig(work_dir="/work"), TaskConfig(), Unsupported),
        (SandboxConfig(memory_limit="much"), TaskConfig(), InvalidRequest),
        (CONFIG, TaskConfig(base_commit="abc"), InvalidRequest),
        (CONFIG, TaskConfig(repo_url="/nowhere; touch /tmp/inj", base_commit="abc"), GloveportError),
    ],
)
def test_what_cannot_be_had_is_refused(
    settings: Settings, config: SandboxConfig, task: TaskConfig, error: type[GloveportError]
) -> None:
    with pytest.raises(error):
        Sandbox.create(config, task, settings=settings)
    assert not Path("/tmp/inj").exists()


def test_a_replay_goes_on_and_names_the_first_step_that_came_out_otherwise(sandbox: Sandbox) -> None:
    steps = [
        {"tool_name": "shell", "params": {"command": "false"}},
        {"tool_name": "shell", "params": {"command": "echo one"}, "expected_output": "two"},
        {"tool_name": "shell", "params": {"command": "echo three"}, "expected_output": "three", "note": "kept"},
    ]
    trajectory = Trajectory.from_dict({"steps": steps, "metadata": {"agent": "a"}, "other": 1})
    result = replay_trajectory(sandbox, trajectory)
    assert (result.success, result.divergence_step, result.total_steps, result.completed_steps) == (False, 1, 3, 3)
    said = trajectory.to_dict()
    assert said["other"] == 1
    assert said["steps"][2]["note"] == "kept"
    assert Trajectory.from_dict(said) == trajectory


def test_what_is_missing_of_a_task_is_said() -> None:
    assert TaskConfig().validate() == ["repo_url is empty", "base_commit is empty"]
    assert TaskConfig(repo_url="x", base_commit="y").validate() == []
