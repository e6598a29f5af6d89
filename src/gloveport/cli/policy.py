"""`gloveport policy`: check a policy, ask it which rule decides, or make one of other programs' settings."""

from __future__ import annotations

import sys
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import plain, print_json, print_table
from gloveport.cli.policies import find_policy
from gloveport.cli.policy_import import Target, import_policy
from gloveport.errors import STATUSES, InvalidRequest
from gloveport.model import Decision, FileRules, Policy, PolicyLayer, Verdict
from gloveport.policy import survey
from gloveport.policy.explain import Question, explain
from gloveport.policy.importing.settings import SettingsOf
from gloveport.settings import Settings

__all__ = ["Action", "command"]


class Action(StrEnum):
    """What can be done with a policy."""

    CHECK = "check"
    EXPLAIN = "explain"
    TEST = "test"
    IMPORT = "import"


def command(
    action: Annotated[
        Action, typer.Argument(help="Read it whole, say which rule decides, exit by what it says, or make one.")
    ],
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="[host|read|write|command|tool|FILE]", help="What to explain or test; the settings to import."
        ),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Argument(
            help="name:port, 'GET https://name/path', a path in the guest, a command line, or a tool's name."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="FILE|NAME", help="As of create. Repeatable, highest first.")
    ] = None,
    whose: Annotated[
        SettingsOf | None, typer.Option("--from", help="With import: whose settings FILE holds. [default: auto]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With import: where to write. [default: stdout]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --output: also over a file.")] = False,
    directory: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With import: what `.` means in FILE. [default: the current directory]"),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Check a policy's files, ask which of its rules decides and why, or make one. Nothing is resolved or opened.

    gloveport policy check --policy policy.toml
    gloveport policy explain host example.com:443 --policy policy.toml
    gloveport policy test read /etc/shadow
    gloveport policy import .claude/settings.json --output policy.toml
    """
    asked = {"--from": whose, "--output": output, "--overwrite": overwrite or None, "--directory": directory}
    if action is Action.IMPORT:
        if question is None or subject is not None or policy:
            raise InvalidRequest(
                "import takes one file of settings", hint="gloveport policy import FILE [--output policy.toml]"
            )
        target = Target(output=output, overwrite=overwrite, directory=directory or Path.cwd())
        return import_policy(Path(question), whose or SettingsOf.AUTO, target, as_json=as_json)
    for option, value in asked.items():
        if value is not None:
            raise InvalidRequest(f"{action} takes no {option}", hint="that is for: gloveport policy import FILE")
    found = find_policy(policy or (), {})
    if action is Action.CHECK:
        return _print_layers(found, as_json=as_json)
    settings = Settings.load()
    kind, text = _question(action, question, subject)
    decision = explain(found, kind, text, survey(own=(settings.state, settings.data)))
    _print_decision(decision, as_json=as_json)
    return 0 if action is Action.EXPLAIN or decision.verdict is Verdict.ALLOW else STATUSES["policy_denied"].exit


def _question(action: Action, question: str | None, subject: str | None) -> tuple[Question, str]:
    hint = f"for example: gloveport policy {action} host example.com"
    if question is None or subject is None:
        raise InvalidRequest("nothing to decide about", hint=hint)
    try:
        return Question(question), subject
    except ValueError as error:
        kinds = ", ".join(Question)
        raise InvalidRequest(f"a policy decides about {kinds}, not about {question!r}", hint=hint) from error


def _print_layers(policy: Policy, *, as_json: bool) -> int:
    layers = [{"layer": str(layer.origin), "rules": _count(layer)} for layer in policy.layers]
    if as_json:
        print_json({"layers": layers})
    elif layers:
        print_table(("LAYER", "RULES"), [(str(row["layer"]), str(row["rules"])) for row in layers])
    else:
        sys.stdout.write("no layers: the built-in walls, and nothing out\n")
    return 0


def _count(layer: PolicyLayer) -> int:
    """Lines that say something, wherever they stand."""
    files = layer.files or FileRules()
    lists = (
        layer.egress or (),
        layer.exec or (),
        layer.tools or (),
        *(getattr(files, each.name) or () for each in fields(files)),
    )
    return sum(map(len, (*lists, layer.limits, layer.secrets, layer.environment)))


def _print_decision(decision: Decision, *, as_json: bool) -> None:
    if as_json:
        print_json({"verdict": decision.verdict, "rule": decision.rule, "reason": decision.reason})
        return
    reason = f"\n  why: {plain(decision.reason)}" if decision.reason else ""
    sys.stdout.write(f"{decision.verdict}\n  rule: {plain(decision.rule)}{reason}\n")
