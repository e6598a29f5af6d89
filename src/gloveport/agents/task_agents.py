"""Makes the agents of tasks: one a task, with the model that this installation is set up for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from gloveport.agents.model_budget import ModelBudget
from gloveport.agents.model_prices import load_prices
from gloveport.agents.model_proxy import Credential, ModelProxySpec
from gloveport.agents.model_tape import TapeWriter
from gloveport.agents.service import SESSION_SECONDS, AgentSpec, ClaudeAgent, Playback, open_claude_agent
from gloveport.errors import Unauthenticated
from gloveport.model import Task
from gloveport.sandbox import Manager, Sandbox
from gloveport.settings import Settings
from gloveport.store import Trail

__all__ = ["ClaudeAgents", "upstream_of"]


class ClaudeAgents:
    """Makes agents for tasks: the `make_agent` of a job.

    `directory` keeps their sessions; `tape`, a file to be made, the traffic of the one task that there is then.
    `upstream` is the model's endpoint and credential, those of the manager's settings unless given; `Unauthenticated`
    when there are none.
    """

    def __init__(
        self,
        manager: Manager,
        directory: Path,
        upstream: ModelProxySpec | None = None,
        *,
        tape: Path | None = None,
        playback: Playback | None = None,
    ) -> None:
        self._manager = manager
        self._directory = directory
        self._upstream = upstream or upstream_of(manager.settings)
        self._tape = tape
        self._playback = playback

    def __call__(self, task: Task, sandbox: Sandbox, trail: Trail) -> AbstractAsyncContextManager[ClaudeAgent]:
        """An agent for `task`, for the scope's duration."""
        spec = AgentSpec(
            model=task.model or self._manager.settings.model,
            max_turns=task.max_turns,
            max_cost=task.max_cost,
            trust_repository_skills=task.trust_repository_skills,
            seconds=min(SESSION_SECONDS, task.spec.limits.sandbox_seconds),
        )
        return self._open(spec, sandbox, trail)

    @asynccontextmanager
    async def _open(self, spec: AgentSpec, sandbox: Sandbox, trail: Trail) -> AsyncIterator[ClaudeAgent]:
        tape = TapeWriter(self._tape, self._upstream.credential.secret) if self._tape is not None else None
        try:
            async with open_claude_agent(
                spec,
                sandbox,
                trail,
                manager=self._manager,
                upstream=self._upstream,
                directory=self._directory,
                tape=tape,
                playback=self._playback,
            ) as agent:
                yield agent
        finally:
            if tape is not None:
                tape.close()


def upstream_of(settings: Settings) -> ModelProxySpec:
    """The model's endpoint and credential; `Unauthenticated` when there are none."""
    if settings.api_key is not None:
        credential = Credential.api_key(settings.api_key)
    elif settings.auth_token is not None:
        credential = Credential.auth_token(settings.auth_token)
    else:
        raise Unauthenticated(
            "there is no credential for the model", hint="set ANTHROPIC_API_KEY (or ANTHROPIC_AUTH_TOKEN for a gateway)"
        )
    prices = ModelBudget().prices if settings.prices is None else load_prices(settings.prices)
    return ModelProxySpec(upstream=settings.upstream, credential=credential, budget=ModelBudget(prices=prices))
