"""`gloveport policy`: check a policy, and ask it which rule decides."""

from __future__ import annotations

import sys
from dataclasses import fields
from enum import StrEnum
from typing import Annotated

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import plain, print_json, print_table
from gloveport.cli.policies import find_policy
from gloveport.errors import STATUSES, InvalidRequest
from gloveport.model import Decision, FileRules, Policy, PolicyLayer, Verdict
from gloveport.policy import survey
from gloveport.policy.explain import Question, explain
from gloveport.settings import Settings

__all__ = ["Action", "command"]


class Action(StrEnum):
    """What can be done with a policy."""

    CHECK = "check"
    EXPLAIN = "explain"
    TEST = "test"


def command(
    action: Annotated[Action, typer.Argument(help="Read it whole, say which rule decides, or exit by what it says.")],
    question: Annotated[Question | None, typer.Argument(help="What to explain or test.", show_default=False)] = None,
    subject: Annotated[
        str | None,
        typer.Argument(
            help="name:port, 'GET https://name/path', a path in the guest, a command line, or a tool's name."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="FILE|NAME", help="As of create. Repeatable, highest first.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Check a policy's files, or ask which of its rules decides and why. Nothing is made, resolved or opened.

    gloveport policy check --policy policy.toml
    gloveport policy explain host example.com:443 --policy policy.toml
    gloveport policy test read /etc/shadow
    """
    found = find_policy(policy or (), {})
    if action is Action.CHECK:
        return _print_layers(found, as_json=as_json)
    if question is None or subject is None:
        raise InvalidRequest("nothing to decide about", hint=f"for example: gloveport policy {action} host example.com")
    settings = Settings.load()
    decision = explain(found, question, subject, survey(own=(settings.state, settings.data)))
    _print_decision(decision, as_json=as_json)
    return 0 if action is Action.EXPLAIN or decision.verdict is Verdict.ALLOW else STATUSES["policy_denied"].exit


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
        *(getattr(files, each.name) for each in fields(files)),
    )
    return sum(map(len, (*lists, layer.limits, layer.secrets, layer.environment)))


def _print_decision(decision: Decision, *, as_json: bool) -> None:
    if as_json:
        print_json({"verdict": decision.verdict, "rule": decision.rule, "reason": decision.reason})
        return
    reason = f"\n  why: {plain(decision.reason)}" if decision.reason else ""
    sys.stdout.write(f"{decision.verdict}\n  rule: {plain(decision.rule)}{reason}\n")
