"""`gloveport approvals`: answer what sandboxes ask, list what was granted, and take it back."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import local_time, plain, print_json, print_table
from gloveport.client import Connection, connect, decode
from gloveport.errors import InvalidRequest
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

    What is denied stays denied for that sandbox. Taking a grant back ends the connections that it let through.
    """
    kinds = [
        kind
        for kind, wanted in ((AnswerKind.ONCE, once), (AnswerKind.SANDBOX, sandbox), (AnswerKind.ALWAYS, always))
        if wanted
    ]
    _check(action, name, kinds)
    with connect(Settings.load()) as runner:
        match action:
            case Action.LIST:
                _list(runner, as_json=as_json)
            case Action.GRANTS:
                _list_grants(runner, as_json=as_json)
            case Action.REVOKE:
                _revoke(runner, name, as_json=as_json)
            case Action.ALLOW:
                _answer(runner, name, kinds[0] if kinds else AnswerKind.ONCE, as_json=as_json)
            case Action.DENY:
                _answer(runner, name, AnswerKind.DENY, as_json=as_json)


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


def _list(runner: Connection, *, as_json: bool) -> None:
    found = runner.call("approvals")["approvals"]
    if as_json:
        print_json(found)
        return
    now = time.time()
    print_table(
        ("ID", "SANDBOX", "WHAT", "WAITING", "LEFT", "RULE"),
        [_approval_row(decode(Approval, value), now) for value in found],
    )
    sys.stdout.write(f"{len(found)} question{'' if len(found) == 1 else 's'}\n")


def _approval_row(approval: Approval, now: float) -> tuple[str, ...]:
    left = max(0, round(approval.expires_at - now))
    return (approval.id, approval.sandbox, approval.subject, str(approval.waiting), f"{left} s", approval.rule)


def _list_grants(runner: Connection, *, as_json: bool) -> None:
    found = runner.call("grants")["grants"]
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


def _answer(runner: Connection, name: str, kind: AnswerKind, *, as_json: bool) -> None:
    result = runner.call("approve", id=name, answer=kind)
    if as_json:
        print_json(result)
    elif result["grant"] is None:
        sys.stdout.write("denied\n")
    else:
        grant = decode(Grant, result["grant"])
        sys.stdout.write(f"allowed {plain(str(grant))} until {_until(grant)}: grant {grant.id}\n")


def _revoke(runner: Connection, name: str, *, as_json: bool) -> None:
    result: Mapping[str, Any] = runner.call("revoke", id=name)
    if as_json:
        print_json(result)
        return
    closed = result["closed"]
    sys.stdout.write(f"taken back; {closed} connection{'' if closed == 1 else 's'} ended\n")
