"""`SandboxEnv`: a sandbox with the `reset`, `step` and `close` of programs that train agents."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from gloveport.compat.agentsandbox.config import SandboxConfig, TaskConfig
from gloveport.compat.agentsandbox.sandbox import Sandbox
from gloveport.errors import STATUSES, InvalidRequest
from gloveport.settings import Settings
from gloveport.tools.standard import TOOLS, ToolResult

__all__ = ["SandboxEnv", "TimeStep"]

_ENDING = ("submit", "finish")
"""Tools that end a try: nothing is carried out for them."""
_SHAPE = 'an action is {"tool": NAME, "params": {…}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeStep:
    """What one step gave."""

    observation: str = ""
    """The tool's output."""
    reward: float = 0.0
    """Nothing is judged here."""
    terminated: bool = False
    """The agent said that it is finished, or there is nothing to act in."""
    truncated: bool = False
    """No step is left."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """`exit_code`, `error`, `step` and `tool`; of `reset`, `sandbox_id`, `container_id`, `max_steps` and `seed`."""

    @property
    def done(self) -> bool:
        """Whether it is over, in either way."""
        return self.terminated or self.truncated


class SandboxEnv:
    """One sandbox at a time, made by the first `reset`. Close it by `close` or `with`."""

    domain = "coding"

    def __init__(
        self,
        config: SandboxConfig | None = None,
        task_config: TaskConfig | None = None,
        max_steps: int = 30,
        *,
        settings: Settings | None = None,
    ) -> None:
        if max_steps < 1:
            raise InvalidRequest(f"max_steps is {max_steps}", hint="at least 1")
        self._config = config or SandboxConfig()
        self._task = task_config or TaskConfig()
        self._max_steps = max_steps
        self._settings = settings
        self._sandbox: Sandbox | None = None
        self._made_of: tuple[SandboxConfig, TaskConfig] | None = None
        self._last = TimeStep(terminated=True)
        self._history: list[dict[str, Any]] = []

    def reset(self, *, task: Any | None = None, seed: int | None = None) -> TimeStep:
        """Begin anew: in the first state of the same sandbox, or in a new one where the task is another.

        `task` is a `TaskConfig`, or whatever has `repo` and what else a `TaskConfig` has. Nothing here is chosen by
        chance, so `seed` is only told back. Raises what `Sandbox.create` raises; then there is no sandbox.
        """
        if task is not None:
            self._task = _task_config(task)
        asked = (self._config, self._task)
        if self._sandbox is not None and asked == self._made_of and self._sandbox.is_running:
            self._sandbox.reset()
        else:
            self.close()
            self._made_of = copy.deepcopy(asked)
            self._sandbox = Sandbox.create(*asked, settings=self._settings)
        self._history = []
        made = {"sandbox_id": self._sandbox.sandbox_id, "container_id": self._sandbox.container_id}
        self._last = TimeStep(info={**made, "max_steps": self._max_steps, "seed": seed})
        return self._last

    def step(self, action: Mapping[str, Any]) -> TimeStep:
        """Call a tool: `{"tool": NAME, "params": {…}}`. `submit` and `finish` end the try.

        Whatever goes wrong is in `info`. Before `reset` and after the end nothing is carried out.
        """
        if self._sandbox is None or self._last.done:
            over = {"exit_code": STATUSES["conflict"].exit, "error": "it is over: call reset()"}
            return TimeStep(terminated=not self._last.truncated, truncated=self._last.truncated, info=over)
        tool, params, result = _carry_out(self._sandbox, action)
        number = len(self._history) + 1
        told = {"step": number, "tool": tool}
        self._history.append({**told, "params": params, "output": result.output, "exit_code": result.exit_code})
        terminated = tool in _ENDING
        self._last = TimeStep(
            observation=result.output,
            terminated=terminated,
            truncated=not terminated and number >= self._max_steps,
            info={**told, "exit_code": result.exit_code, "error": result.error},
        )
        return self._last

    def close(self) -> None:
        """Kill everything and free everything. Idempotent; `reset` makes a new sandbox."""
        sandbox, self._sandbox = self._sandbox, None
        self._last = TimeStep(terminated=True)
        if sandbox is not None:
            sandbox.close()

    @property
    def sandbox(self) -> Sandbox | None:
        """The sandbox, for `run_tests` and the rest; `None` before `reset` and after `close`."""
        return self._sandbox

    @property
    def available_tools(self) -> list[str]:
        """What `step` takes."""
        return [*TOOLS, *_ENDING]

    @property
    def history(self) -> list[dict[str, Any]]:
        """The steps since `reset`: `step` (from 1), `tool`, `params`, `output` and `exit_code`."""
        return copy.deepcopy(self._history)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _carry_out(sandbox: Sandbox, action: object) -> tuple[str, dict[str, Any], ToolResult]:
    """The tool, its parameters and what came of it."""
    given = action if isinstance(action, Mapping) else {}
    tool, params = given.get("tool"), given.get("params") or {}
    if not isinstance(tool, str) or not isinstance(params, Mapping):
        return str(tool or ""), {}, ToolResult(error=_SHAPE, exit_code=STATUSES["invalid_request"].exit)
    own = copy.deepcopy(dict(params))
    return tool, own, ToolResult() if tool in _ENDING else sandbox.execute_tool(tool, own)


def _task_config(task: Any) -> TaskConfig:
    if isinstance(task, TaskConfig):
        return task
    plain = TaskConfig()
    said = {name: getattr(task, name, None) or default for name, default in vars(plain).items()}
    return TaskConfig(**{**said, "repo_url": getattr(task, "repo", None) or said["repo_url"]})
