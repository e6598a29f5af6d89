"""A question that waits at the desk: who waits for its answer, and how it and its grant are shown and recorded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from gloveport.client.codec import encode
from gloveport.errors import GloveportError
from gloveport.model import Approval, Asked, Decision, Grant, QuestionKind

__all__ = ["Question", "Waiter", "forgiven", "grant_facts", "question_facts", "show_question"]

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Waiter:
    """One connection, exec or tool call that waits."""

    told: anyio.Event = field(default_factory=anyio.Event)
    grant: Grant | None = None
    refusal: str = ""

    def tell(self, *, grant: Grant | None = None, refusal: str = "") -> None:
        """End the wait."""
        self.grant, self.refusal = grant, refusal
        self.told.set()


@dataclass(slots=True, eq=False)
class Question:
    """One pending approval."""

    id: str
    asked: Asked
    decision: Decision
    asked_at: float
    expires_at: float
    deadline: float
    """On the event loop's clock."""
    waiters: list[Waiter] = field(default_factory=list)


def grant_facts(grant: Grant) -> dict[str, Any]:
    """A grant, for a trail that knows its own sandbox."""
    facts = encode(grant)
    other = {"kind", "name"} if grant.kind is QuestionKind.EGRESS else {"host", "port"}
    return {"grant": facts.pop("id")} | {
        name: value for name, value in facts.items() if name not in other | {"sandbox"}
    }


def question_facts(question: Question) -> dict[str, Any]:
    """Which question, and about what."""
    asked = question.asked
    if asked.kind is QuestionKind.EGRESS:
        return {"approval": question.id, "host": asked.host, "port": asked.port}
    return {"approval": question.id, "subject": str(asked)}


def show_question(sandbox: str, question: Question) -> Approval:
    """A question as a person sees it."""
    asked = question.asked
    return Approval(
        id=question.id,
        sandbox=sandbox,
        kind=asked.kind,
        host=asked.host,
        port=asked.port,
        subject=str(asked),
        rule=question.decision.rule,
        reason=question.decision.reason,
        asked_at=question.asked_at,
        expires_at=question.expires_at,
        waiting=len(question.waiters),
    )


@contextmanager
def forgiven(what: str) -> Iterator[None]:
    """What ends, ends also where that cannot be recorded."""
    try:
        yield
    except GloveportError as error:
        _log.warning("%s is not in the trail: %s", what, error)
