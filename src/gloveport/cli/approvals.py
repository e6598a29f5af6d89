"""`gloveport approvals`: answer what sandboxes ask, list what was granted, and take it back."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import local_time, note, plain, print_json, print_table
from gloveport.client import DeskPlace, connect, decode, find_desks
from gloveport.errors import BackendUnavailable, Conflict, GloveportError, InvalidRequest, NotFound, TimedOut
from gloveport.model import AnswerKind, Approval, Grant, QuestionKind
from gloveport.settings import Settings

__all__ = ["Action", "command"]


class Action(StrEnum):
    """What can be done with questions and grants."""

    LIST = "list"
    ALLOW = "allow"
    DENY = "deny"
    GRANTS = "grants"
    REVOKE = "revoke"


_NAMED = frozenset({Action.ALLOW, Action.DENY, Action.REVOKE})


def command(
    action: Annotated[
        Action, typer.Argument(help="List the questions, answer one, list the grants, or take one back.")
    ] = Action.LIST,
    name: Annotated[str, typer.Argument(metavar="ID", help="The whole id of a question, or of a grant.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Allow it once (the default).")] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Allow until the sandbox ends.")] = False,
    always: Annotated[
        bool, typer.Option("--always", help="Allow in every sandbox whose policy asks, for 30 days.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer sandboxes whose policy asks before a connection, an exec or a tool call; no answer in time is a no.

    Those of the runner, and those of every `gloveport run` that asks.

    What is denied stays denied for that sandbox. Taking a grant back ends the connections that it let through.
    """
    kinds = [
        kind
        for kind, wanted in ((AnswerKind.ONCE, once), (AnswerKind.SANDBOX, sandbox), (AnswerKind.ALWAYS, always))
        if wanted
    ]
    _check(action, name, kinds)
    settings = Settings.load()
    match action:
        case Action.LIST:
            _list(settings, as_json=as_json)
        case Action.GRANTS:
            _list_grants(settings, as_json=as_json)
        case Action.REVOKE:
            _revoke(settings, name, as_json=as_json)
        case Action.ALLOW:
            _answer(settings, name, kinds[0] if kinds else AnswerKind.ONCE, as_json=as_json)
        case Action.DENY:
            _answer(settings, name, AnswerKind.DENY, as_json=as_json)


def _check(action: Action, name: str, kinds: Sequence[AnswerKind]) -> None:
    if action in _NAMED and not name:
        what = "grant" if action is Action.REVOKE else "question"
        listing = "gloveport approvals grants" if action is Action.REVOKE else "gloveport approvals"
        raise InvalidRequest(f"{action} needs the id of a {what}", hint=f"see what there is with: {listing}")
    if action not in _NAMED and name:
        raise InvalidRequest(f"{action} takes no id", hint=f"for example: gloveport approvals allow {name}")
    if kinds and action is not Action.ALLOW:
        raise InvalidRequest(f"{action} takes no --{kinds[0]}", hint="that is for: gloveport approvals allow ID")
    if len(kinds) > 1:
        given = ", ".join(f"--{kind}" for kind in kinds)
        raise InvalidRequest(f"more than one answer: {given}", hint="give one of them")


def _ask_all(settings: Settings, verb: str, **fields: Any) -> list[tuple[DeskPlace, dict[str, Any]]]:
    """What each desk answers. One that cannot is told about, and is an error only where none answers."""
    answers: list[tuple[DeskPlace, dict[str, Any]]] = []
    unknown: list[GloveportError] = []
    failures: list[GloveportError] = []
    for place in find_desks(settings):
        try:
            found = place.call(verb, **fields)
        except NotFound as error:
            unknown.append(error)
        except (BackendUnavailable, TimedOut) as error:
            failures.append(error)
            note(f"{place}: {error.message}")
        else:
            if found is not None:
                answers.append((place, found))
    if not answers and (errors := unknown + failures):
        raise errors[0]
    return answers


def _ask_somebody(settings: Settings, verb: str, **fields: Any) -> list[dict[str, Any]]:
    """As `_ask_all`; where there is no desk at all, a runner is started: some grants outlive every desk."""
    answers = [found for _, found in _ask_all(settings, verb, **fields)]
    if not answers:
        with connect(settings) as runner:
            answers = [runner.call(verb, **fields)]
    return answers


def _list(settings: Settings, *, as_json: bool) -> None:
    answers = _ask_all(settings, "approvals")
    found = [(place.run, value) for place, answer in answers for value in answer["approvals"]]
    found.sort(key=lambda one: float(one[1]["asked_at"]))
    if as_json:
        print_json([{**value, "run": run or None} for run, value in found])
        return
    now = time.time()
    print_table(
        ("ID", "SANDBOX", "WHAT", "RUN", "WAITING", "LEFT", "RULE"),
        [_approval_row(decode(Approval, value), run, now) for run, value in found],
    )
    sys.stdout.write(f"{len(found)} question{'' if len(found) == 1 else 's'}\n")


def _approval_row(approval: Approval, run: str, now: float) -> tuple[str, ...]:
    left = f"{max(0, round(approval.expires_at - now))} s"
    waiting = str(approval.waiting)
    return (approval.id, approval.sandbox, approval.subject, run or "-", waiting, left, approval.rule)


def _list_grants(settings: Settings, *, as_json: bool) -> None:
    # Those that are kept are at every desk.
    once_each = {value["id"]: value for answer in _ask_somebody(settings, "grants") for value in answer["grants"]}
    found = sorted(once_each.values(), key=lambda value: float(value["granted_at"]))
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "SCOPE", "WHAT", "SANDBOX", "GRANTED", "BY", "UNTIL"),
        [_grant_row(decode(Grant, value)) for value in found],
    )
    sys.stdout.write(f"{len(found)} grant{'' if len(found) == 1 else 's'}\n")


def _grant_row(grant: Grant) -> tuple[str, ...]:
    sandbox = "(all)" if grant.scope is AnswerKind.ALWAYS else grant.sandbox
    return (
        grant.id,
        str(grant.scope),
        str(grant),
        sandbox,
        local_time(grant.granted_at),
        grant.granted_by,
        _until(grant),
    )


def _until(grant: Grant) -> str:
    if grant.until is not None:
        return local_time(grant.until)
    if grant.scope is AnswerKind.SANDBOX:
        return "its sandbox ends"
    return "its connection ends" if grant.kind is QuestionKind.EGRESS else "it has started"


def _answer(settings: Settings, name: str, kind: AnswerKind, *, as_json: bool) -> None:
    result = _find_question(settings, name).call("approve", id=name, answer=kind)
    if result is None:
        raise _no_question(name)
    if as_json:
        print_json(result)
    elif result["grant"] is None:
        sys.stdout.write("denied\n")
    else:
        grant = decode(Grant, result["grant"])
        sys.stdout.write(f"allowed {plain(str(grant))} until {_until(grant)}: grant {grant.id}\n")


def _find_question(settings: Settings, name: str) -> DeskPlace:
    answers = _ask_all(settings, "approvals")
    places = [place for place, answer in answers if any(value["id"] == name for value in answer["approvals"])]
    if len(places) > 1:
        raise Conflict(
            f"question {name!r} waits at more than one place: {', '.join(map(str, places))}",
            hint="answer none: without an answer in time both are denied, and what asks again has another id",
            id=name,
        )
    if not places:
        raise _no_question(name)
    return places[0]


def _no_question(name: str) -> NotFound:
    return NotFound(
        f"no question {name!r} waits for an answer",
        hint="give the whole id; see what waits with: gloveport approvals",
        id=name,
    )


def _revoke(settings: Settings, name: str, *, as_json: bool) -> None:
    # At every desk: each ends the connections of its own sandboxes.
    results = _ask_somebody(settings, "revoke", id=name)
    closed = sum(result["closed"] for result in results)
    if as_json:
        print_json({"grant": results[0]["grant"], "closed": closed})
        return
    sys.stdout.write(f"taken back; {closed} connection{'' if closed == 1 else 's'} ended\n")
