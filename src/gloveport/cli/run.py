"""`gloveport run`: point an agent at a repository and get a patch, a test report, logs and an audit trail."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated

import typer

from gloveport.cli.following import follow
from gloveport.cli.options import JsonOption
from gloveport.cli.spec import takes_spec
from gloveport.compose import run_locally
from gloveport.errors import InvalidRequest, Unauthenticated
from gloveport.model import Spec, Task
from gloveport.sandbox.approvals import ASK_SECONDS
from gloveport.settings import Settings

__all__ = ["command"]

STDIN, STDERR = 0, 2


@takes_spec
def command(
    spec: Spec,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the agent is asked to do.")],
    test: Annotated[str | None, typer.Option(metavar="COMMAND", help="Judges the result; exit 0 is success.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model. [default: the kit's]")] = None,
    max_turns: Annotated[int, typer.Option(metavar="N", help="Turns of the model at most.")] = 50,
    max_cost: Annotated[float | None, typer.Option(metavar="USD", help="US dollars at most.")] = None,
    max_time: Annotated[float, typer.Option(metavar="S", help="Seconds that the whole run may take.")] = 3600.0,
    trust_repository_skills: Annotated[
        bool, typer.Option("--trust-repository-skills", help="Offer the repository's own skills to the agent.")
    ] = False,
    snapshots: Annotated[
        bool, typer.Option("--snapshots", help="Save the sandbox before each tool call that may change something.")
    ] = False,
    ask: Annotated[
        bool | None,
        typer.Option(
            help="Wait for gloveport approvals where the policy asks, or deny at once."
            " [default: whether standard input and error are a terminal]"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Let an agent work on a copy of a repository in a sandbox. The repository itself is never written.

    Afterwards: gloveport show last, gloveport diff last, gloveport apply last.
    """
    if not prompt.strip():
        raise InvalidRequest("an empty prompt", hint="say what the agent is to do")
    settings = Settings.load()
    if settings.api_key is None and settings.auth_token is None:
        raise Unauthenticated("no key for the model", hint="set ANTHROPIC_API_KEY (it never enters the sandbox)")
    task = Task(
        prompt=prompt,
        spec=replace(spec, limits=replace(spec.limits, sandbox_seconds=max_time)),
        test=test,
        model=model or settings.model,
        max_turns=max_turns,
        max_cost=max_cost,
        trust_repository_skills=trust_repository_skills,
        snapshots=snapshots,
    )
    ask_seconds = ASK_SECONDS if (_is_watched() if ask is None else ask) else 0.0
    return follow(
        lambda progress: run_locally(task, settings, progress, ask_seconds=ask_seconds), settings, as_json=as_json
    )


def _is_watched() -> bool:
    """Whether somebody is there who could answer."""
    return os.isatty(STDIN) and os.isatty(STDERR)
