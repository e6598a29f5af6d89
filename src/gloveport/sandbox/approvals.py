"""The desk: where what a policy asks about waits for a person, and where the answers are kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import anyio

from gloveport.errors import GloveportError, NotFound
from gloveport.model import AnswerKind, Approval, Asked, Decision, EventKind, Grant, QuestionKind, Verdict, new_id
from gloveport.policy.commands.exec_rules import LONGEST_ASKED
from gloveport.policy.egress.rules import EgressRequest, widen
from gloveport.sandbox.grants import Clock, KeptGrants
from gloveport.sandbox.questions import Question, Waiter, forgiven, grant_facts, question_facts, show_question
from gloveport.store import Trail

__all__ = ["ASK_SECONDS", "GRANT_SECONDS", "MOST_QUESTIONS", "MOST_WAITING", "Desk", "Window"]

ASK_SECONDS = 120.0
"""How long a question waits: time to notice and to read it, and well below the ten minutes of an exec, so that what
the guest's program hears in the end is the denial and its reason."""
GRANT_SECONDS = 30 * 24 * 3600.0
"""How long `always` is: a month later somebody should be asked whether it is still needed."""
MOST_QUESTIONS = 64
"""Pending of one sandbox: a person reads no more, and a hijacked agent could ask about names without end."""
MOST_WAITING = 128
"""Of one sandbox, at once: half of the connections that its way out takes, so that others pass meanwhile."""

_log = logging.getLogger(__name__)


class Window:
    """One sandbox at the desk: what it asks, and what it was told."""

    def __init__(self, desk: Desk, sandbox: str, trail: Trail) -> None:
        self.sandbox = sandbox
        self.end_connections: Callable[[str], int] = _none_open
        """Ends what a grant, by its id, let through; how many."""
        self.questions: dict[Asked, Question] = {}
        self.granted: dict[tuple[QuestionKind, str], Grant] = {}
        """Of scope `sandbox`."""
        self.once: dict[str, Grant] = {}
        """By id, while what they let through lasts, or until it has started."""
        self.refused: dict[Asked, str] = {}
        """And who refused it."""
        self._desk = desk
        self._trail = trail

    async def admit(self, decision: Decision, request: EgressRequest) -> tuple[Decision, Grant | None]:
        """As `ask`, for a connection."""
        host, port = request.host.name, request.port
        asked = Asked(kind=QuestionKind.EGRESS, name=f"{host}:{port}", host=host, port=port)
        found, grant = await self.ask(decision, asked)
        return (found, None) if grant is None else (widen(decision, grant, request), grant)

    async def ask(self, decision: Decision, asked: Asked) -> tuple[Decision, Grant | None]:
        """What grants, or a person, make of a decision; waits for the person. All but a grant in time is a denial.

        Only what the policy asks about is ever widened: what it allows or denies comes back as it is.
        """
        if decision.verdict is not Verdict.ASK:
            return decision, None
        found = self.granted.get(asked.key) or self._desk.kept_for(asked) or await self._ask(asked, decision)
        if isinstance(found, Grant):
            reason = f"{found.granted_by} allowed it ({found.scope})"
            return Decision(verdict=Verdict.ALLOW, rule=decision.rule, reason=reason), found
        reason = "; ".join(part for part in (decision.reason, found) if part)
        return Decision(verdict=Verdict.DENY, rule=decision.rule, reason=reason), None

    def ended(self, grant: str) -> None:
        """Hear that a connection is over, or an exec has started: what let it through once lets nothing through now."""
        self.once.pop(grant, None)

    def record(self, kind: EventKind, facts: Mapping[str, Any]) -> None:
        """Into the sandbox's trail."""
        self._trail.append(kind, {"sandbox": self.sandbox, **facts})

    def allow(self, question: Question, grant: Grant) -> None:
        """Let what waits go on by a grant: all of it, or with `once` the one that came last.

        That one is the likeliest to be there still. The others go on waiting.
        """
        if grant.scope is AnswerKind.ONCE:
            self.once[grant.id] = grant
            question.waiters.pop().tell(grant=grant)
            if question.waiters:
                return
        elif grant.scope is AnswerKind.SANDBOX:
            self.granted[grant.key] = grant
        self._answer(question, grant=grant)

    def refuse(self, question: Question, who: str) -> None:
        """Refuse all that wait, and what comes later."""
        self.refused[question.asked] = who
        self._answer(question, refusal=f"{who} denied it for this sandbox")

    def close(self) -> None:
        """The sandbox ends: its questions and grants do too."""
        for question in list(self.questions.values()):
            self._drop(question, "the sandbox ended")
            while question.waiters:
                question.waiters.pop().tell(refusal="the sandbox ended")
        for grant in self.granted.values():
            with forgiven("the end of a grant"):
                self.record(EventKind.GRANT_EXPIRED, {**grant_facts(grant), "reason": "the sandbox ended"})
        self.granted.clear()

    async def _ask(self, asked: Asked, decision: Decision) -> Grant | str:
        """A grant, or why there is none."""
        if len(asked.shown) > LONGEST_ASKED:
            return f"{len(asked.shown)} characters are more than a person is asked to read"
        if asked in self.refused:
            return f"{self.refused[asked]} denied it for this sandbox"
        if asked not in self.questions and len(self.questions) >= MOST_QUESTIONS:
            return f"{MOST_QUESTIONS} other questions of this sandbox wait for an answer (gloveport approvals)"
        if sum(len(question.waiters) for question in self.questions.values()) >= MOST_WAITING:
            return f"{MOST_WAITING} others of this sandbox wait for an answer (gloveport approvals)"
        question = self.questions.get(asked) or self._pose(asked, decision)
        waiter = Waiter()
        question.waiters.append(waiter)
        try:
            with anyio.move_on_after(question.deadline - anyio.current_time()):
                await waiter.told.wait()
        except BaseException:
            if waiter.grant is not None:
                self.ended(waiter.grant.id)
            raise
        finally:
            self._leave(question, waiter)
        if waiter.grant is None:
            return waiter.refusal or f"nobody allowed it within {self._desk.seconds:g} s (gloveport approvals)"
        return waiter.grant if self._desk.holds(waiter.grant) else "the grant was taken back"

    def _pose(self, asked: Asked, decision: Decision) -> Question:
        now, seconds = self._desk.clock.wall(), self._desk.seconds
        question = Question(
            id=new_id(),
            asked=asked,
            decision=decision,
            asked_at=now,
            expires_at=now + seconds,
            deadline=anyio.current_time() + seconds,
        )
        self.record(
            EventKind.APPROVAL_ASKED,
            {**question_facts(question), "rule": decision.rule, "reason": decision.reason, "seconds": seconds},
        )
        self.questions[asked] = question
        return question

    def _answer(self, question: Question, *, grant: Grant | None = None, refusal: str = "") -> None:
        self.questions.pop(question.asked, None)
        while question.waiters:
            question.waiters.pop().tell(grant=grant, refusal=refusal)

    def _leave(self, question: Question, waiter: Waiter) -> None:
        if waiter in question.waiters:
            question.waiters.remove(waiter)
        if not question.waiters:
            late = anyio.current_time() >= question.deadline
            self._drop(question, f"no answer within {self._desk.seconds:g} s" if late else "nobody waits any more")

    def _drop(self, question: Question, reason: str) -> None:
        if self.questions.get(question.asked) is question:
            del self.questions[question.asked]
            with forgiven("the end of a question"):
                self.record(EventKind.APPROVAL_EXPIRED, {**question_facts(question), "reason": reason})


class Desk:
    """All pending questions of one manager's sandboxes, and all grants that hold there."""

    def __init__(self, kept: KeptGrants, *, seconds: float = ASK_SECONDS, clock: Clock | None = None) -> None:
        self.seconds = seconds
        """How long a question waits."""
        self.clock = clock or Clock()
        self._kept = kept
        self._windows: dict[str, Window] = {}

    def open(self, sandbox: str, trail: Trail) -> Window:
        """A window for a sandbox's way out; its events go to `trail`."""
        window = self._windows[sandbox] = Window(self, sandbox, trail)
        return window

    def close(self, sandbox: str) -> None:
        """End what a sandbox asks and holds; idempotent. Its trail must still be open."""
        window = self._windows.pop(sandbox, None)
        if window is not None:
            window.close()

    def pending(self) -> list[Approval]:
        """The questions that wait for a person, oldest first."""
        found = [show_question(window.sandbox, question) for window, question in self._questions()]
        return sorted(found, key=lambda approval: approval.asked_at)

    def grants(self) -> list[Grant]:
        """Everything that holds, oldest first. Raises `InvalidRequest` where the kept ones cannot be read."""
        self._expire()
        found = self._kept.live()
        for window in self._windows.values():
            found += [*window.granted.values(), *window.once.values()]
        return sorted(found, key=lambda grant: grant.granted_at)

    def answer(self, name: str, kind: AnswerKind, who: str) -> Grant | None:
        """Answer the question of this id; the grant that comes of it, if any.

        Ids are taken whole: a guest can pose a question at any moment, and a few letters might name that one.
        Raises `NotFound`; and what keeps an answer from being recorded, which then has no effect unless it denies.
        """
        window, question = self._question(name)
        if kind is AnswerKind.DENY:
            window.refuse(question, who)
            window.record(EventKind.APPROVAL_ANSWERED, {**question_facts(question), "answer": kind, "by": who})
            return None
        grant = self._make(window, question, kind, who)
        answered = [(window, question)]
        if kind is not AnswerKind.ONCE:
            same = (each for each in self._questions() if each[1].asked.key == grant.key)
            answered = [each for each in same if kind is AnswerKind.ALWAYS or each[0] is window]
        for there, asked in answered:
            facts = {"answer": kind, "by": who, "grant": grant.id}
            there.record(EventKind.APPROVAL_ANSWERED, {**question_facts(asked), **facts})
        window.record(EventKind.GRANT_MADE, grant_facts(grant))
        if kind is AnswerKind.ALWAYS:
            self._keep(window, grant)
        for there, asked in answered:
            there.allow(asked, grant)
        return grant

    def revoke(self, name: str, who: str) -> tuple[Grant, int]:
        """Take a grant back and end every connection that it let through; the grant, and how many those were.

        It takes effect before it is recorded. One for `always` that another process has taken back already is taken
        back here too: its connections here may be open still. Raises `NotFound`.
        """
        grant, windows = self._take(name)
        closed = sum(window.end_connections(grant.id) for window in windows)
        for window in windows:
            window.record(EventKind.GRANT_REVOKED, {**grant_facts(grant), "by": who, "closed": closed})
        return grant, closed

    def kept_for(self, asked: Asked) -> Grant | None:
        """The grant of scope `always` that covers it."""
        self._expire()
        return self._kept.find(asked.key)

    def holds(self, grant: Grant) -> bool:
        """Whether a grant has neither ended nor been taken back."""
        window = self._windows.get(grant.sandbox)
        if grant.scope is AnswerKind.ALWAYS:
            return self._kept.holds(grant)
        return window is not None and grant in (*window.granted.values(), *window.once.values())

    def _questions(self) -> Iterator[tuple[Window, Question]]:
        for window in self._windows.values():
            for question in window.questions.values():
                yield window, question

    def _question(self, name: str) -> tuple[Window, Question]:
        for window, question in self._questions():
            if question.id == name:
                return window, question
        raise NotFound(
            f"no question {name!r} waits for an answer",
            hint="give the whole id; see what waits with: gloveport approvals",
            id=name,
        )

    def _make(self, window: Window, question: Question, kind: AnswerKind, who: str) -> Grant:
        now = self.clock.wall()
        asked = question.asked
        return Grant(
            id=new_id(),
            scope=kind,
            kind=asked.kind,
            name="" if asked.kind is QuestionKind.EGRESS else asked.name,
            host=asked.host,
            port=asked.port,
            sandbox=window.sandbox,
            granted_at=now,
            granted_by=who,
            until=now + GRANT_SECONDS if kind is AnswerKind.ALWAYS else None,
        )

    def _keep(self, window: Window, grant: Grant) -> None:
        try:
            self._kept.add(grant)
        except GloveportError as error:
            with forgiven("a grant that was not kept"):
                window.record(EventKind.GRANT_EXPIRED, {**grant_facts(grant), "reason": error.message})
            raise

    def _take(self, name: str) -> tuple[Grant, list[Window]]:
        """The grant, which no longer holds, and the windows it held at."""
        for window in self._windows.values():
            for grant in (*window.granted.values(), *window.once.values()):
                if grant.id == name:
                    window.once.pop(name, None)
                    if window.granted.get(grant.key) is grant:
                        del window.granted[grant.key]
                    return grant, [window]
        kept = self._kept.remove(name) or self._kept.take_gone(name)
        if kept is not None:
            _log.info("grant %s to %s was taken back", kept.id, kept)
            return kept, list(self._windows.values())
        raise NotFound(
            f"no grant {name!r}",
            hint="give the whole id; see what holds with: gloveport approvals grants",
            id=name,
        )

    def _expire(self) -> None:
        for grant in self._kept.take_expired():
            _log.info("grant %s to %s expired", grant.id, grant)
            for window in self._windows.values():
                with forgiven("the end of a grant"):
                    window.record(EventKind.GRANT_EXPIRED, {**grant_facts(grant), "reason": "its time is over"})


def _none_open(_grant: str) -> int:
    return 0
