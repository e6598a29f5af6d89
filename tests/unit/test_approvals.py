"""The desk: who waits, who passes, what a person's answer means, and how long a grant holds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.abc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.client import encode
from gloveport.errors import GloveportError, InvalidRequest, LimitExceeded, NotFound
from gloveport.model import AnswerKind, Decision, Grant, QuestionKind, Verdict
from gloveport.policy.egress.hosts import canonical_host
from gloveport.policy.egress.rules import EgressRequest, widen
from gloveport.sandbox.approvals import GRANT_SECONDS, MOST_QUESTIONS, MOST_WAITING, Desk, Window
from gloveport.sandbox.grants import MOST_KEPT, Clock, KeptGrants
from gloveport.store import Trail, read_trail

pytestmark = pytest.mark.anyio
SECONDS = 60
ONCE, SANDBOX, ALWAYS, DENY = AnswerKind.ONCE, AnswerKind.SANDBOX, AnswerKind.ALWAYS, AnswerKind.DENY
ASKED = Decision(verdict=Verdict.ASK, rule="egress.ask: a.example", reason="who knows")


@dataclass
class Time:
    """Two clocks that tests set."""

    wall: float = 1_000_000.0
    steady: float = 500.0

    def clock(self) -> Clock:
        return Clock(wall=lambda: self.wall, steady=lambda: self.steady)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def request(host: str = "a.example", port: int = 443) -> EgressRequest:
    return EgressRequest(host=canonical_host(host), port=port)


@dataclass
class Guest:
    """A sandbox's window, with connections that wait at it."""

    window: Window
    tasks: anyio.abc.TaskGroup
    trail: Trail
    answers: list[tuple[str, Decision, Grant | None]] = field(default_factory=list)

    async def connect(self, host: str = "a.example", port: int = 443) -> None:
        """One more connection, which waits when this returns, unless it has its answer."""

        async def ask() -> None:
            self.answers.append((host, *await self.window.admit(ASKED, request(host, port))))

        self.tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()

    @property
    def verdicts(self) -> list[str]:
        return [str(decision.verdict) for _, decision, _ in self.answers]

    def events(self) -> list[str]:
        return [str(event.kind) for event in read_trail(self.trail.path)]


@dataclass
class Place:
    """One installation."""

    path: Path
    time: Time = field(default_factory=Time)
    desk: Desk = field(init=False)

    def __post_init__(self) -> None:
        self.desk = self.make_desk(SECONDS)

    def make_desk(self, seconds: float) -> Desk:
        clock = self.time.clock()
        return Desk(KeptGrants(self.path / "grants.json", clock), seconds=seconds, clock=clock)

    @asynccontextmanager
    async def guest(self, name: str = "s", desk: Desk | None = None) -> AsyncIterator[Guest]:
        trail = Trail(self.path / f"{name}.jsonl")
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                yield Guest((desk or self.desk).open(name, trail), tasks, trail)
                tasks.cancel_scope.cancel()

    def answer(self, kind: AnswerKind) -> Grant | None:
        """Answer the only question."""
        (question,) = self.desk.pending()
        return self.desk.answer(question.id, kind, "ann (uid 7)")


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return Place(tmp_path)


@given(st.sampled_from(Verdict), st.sampled_from([("a.example", 443), ("a.example", 80), ("b.example", 443)]))
def test_a_grant_widens_only_what_is_asked_about_at_its_own_place(verdict: Verdict, place: tuple[str, int]) -> None:
    grant = Grant(
        id="g", scope=ALWAYS, host="a.example", port=443, sandbox="s", granted_at=0.0, granted_by="ann", until=1.0
    )
    before = Decision(verdict=verdict, rule="r")
    after = widen(before, grant, request(*place))
    if verdict is Verdict.ASK and place == ("a.example", 443):
        assert (after.verdict, after.rule) == (Verdict.ALLOW, "r")
    else:
        assert after == before


@pytest.mark.parametrize("verdict", [Verdict.ALLOW, Verdict.DENY])
async def test_what_the_policy_decides_itself_is_never_a_question(here: Place, verdict: Verdict) -> None:
    async with here.guest() as guest:
        decision = Decision(verdict=verdict, rule="r")
        assert await guest.window.admit(decision, request()) == (decision, None)
        assert here.desk.pending() == []


async def test_connections_to_one_place_are_one_question_and_others_are_others(here: Place) -> None:
    async with here.guest() as guest:
        for host, port in [("a.example", 443), ("A.EXAMPLE.", 443), ("a.example", 443), ("a.example", 80)]:
            await guest.connect(host, port)
        found = here.desk.pending()
        assert [(each.host, each.port, each.waiting) for each in found] == [("a.example", 443, 3), ("a.example", 80, 1)]
        assert [(each.sandbox, each.rule, each.reason) for each in found] == [("s", ASKED.rule, "who knows")] * 2
        assert found[0].expires_at - found[0].asked_at == SECONDS


async def test_once_lets_exactly_one_connection_through_the_one_that_came_last(here: Place) -> None:
    async with here.guest() as guest:
        for _ in range(3):
            await guest.connect()
        grant = here.answer(ONCE)
        await anyio.wait_all_tasks_blocked()
        assert [found for _, _, found in guest.answers] == [grant]
        assert here.desk.pending()[0].waiting == 2
        await guest.connect()
        assert here.desk.pending()[0].waiting == 3
        assert here.desk.grants() == [grant]
        assert grant is not None
        guest.window.ended(grant.id)
        assert here.desk.grants() == []


async def test_a_grant_for_once_ends_with_a_connection_that_was_given_up_before_it_heard(here: Place) -> None:
    async with here.guest() as guest:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(guest.window.admit, ASKED, request())
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                here.answer(ONCE)
        assert here.desk.grants() == []


async def test_a_grant_for_the_sandbox_holds_there_for_all_that_wait_and_come_and_nowhere_else(here: Place) -> None:
    async with here.guest() as guest, here.guest("t") as other:
        await guest.connect()
        await guest.connect()
        await other.connect()
        mine = next(each for each in here.desk.pending() if each.sandbox == "s")
        here.desk.answer(mine.id, SANDBOX, "ann")
        await guest.connect()
        await guest.connect(port=80)
        assert guest.verdicts == ["allow"] * 3
        assert other.verdicts == []
        here.desk.close("s")
        assert here.desk.grants() == []
        assert guest.events()[-1] == "grant.expired"


async def test_a_grant_for_always_answers_every_sandbox_that_asks_and_later_ones_of_other_processes(
    here: Place,
) -> None:
    async with here.guest() as guest, here.guest("t") as other:
        await guest.connect()
        await other.connect()
        here.desk.answer(here.desk.pending()[0].id, ALWAYS, "ann")
        await anyio.wait_all_tasks_blocked()
        assert guest.verdicts == other.verdicts == ["allow"]
        assert other.events() == ["approval.asked", "approval.answered"]
    async with here.guest("u", here.make_desk(SECONDS)) as later:
        await later.connect()
        assert later.verdicts == ["allow"]
        assert later.events() == []


async def test_what_was_denied_stays_denied_and_is_not_asked_again(here: Place) -> None:
    async with here.guest() as guest, here.guest("t") as other:
        await guest.connect()
        await guest.connect()
        here.answer(DENY)
        await guest.connect()
        assert guest.verdicts == ["deny"] * 3
        assert {decision.reason for _, decision, _ in guest.answers} == {
            "who knows; ann (uid 7) denied it for this sandbox"
        }
        assert here.desk.pending() == []
        await other.connect()
        assert len(here.desk.pending()) == 1


async def test_no_answer_in_time_is_a_denial_and_the_next_connection_asks_anew(here: Place) -> None:
    desk = here.make_desk(0.01)
    async with here.guest("s", desk) as guest:
        for _ in range(2):
            decision, grant = await guest.window.admit(ASKED, request())
            assert (decision.verdict, grant, desk.pending()) == (Verdict.DENY, None, [])
            assert decision.reason == "who knows; nobody allowed it within 0.01 s (gloveport approvals)"
        assert guest.events() == ["approval.asked", "approval.expired"] * 2


async def test_more_questions_or_connections_than_a_person_can_answer_are_denied(here: Place) -> None:
    async with here.guest() as guest, here.guest("t") as other:
        for number in range(MOST_QUESTIONS):
            await guest.connect(f"{number}.example")
        await guest.connect("more.example")
        assert [host for host, _, _ in guest.answers] == ["more.example"]
        assert "64 other questions" in guest.answers[0][1].reason
        for _ in range(MOST_WAITING - MOST_QUESTIONS):
            await guest.connect("0.example")
        assert len(guest.answers) == 1
        await guest.connect("0.example")
        assert "128 others of this sandbox" in guest.answers[1][1].reason
        await other.connect()  # a neighbour is not disturbed
        assert other.answers == []


async def test_every_question_answer_and_end_is_in_the_trail_with_who_and_what(here: Place) -> None:
    async with here.guest() as guest:
        await guest.connect()
        grant = here.answer(SANDBOX)
        assert grant is not None
        here.desk.revoke(grant.id, "bob")
        await guest.connect()
        here.answer(DENY)
        await guest.connect("b.example")
        here.desk.close("s")
        events = list(read_trail(guest.trail.path))
    assert [str(event.kind) for event in events] == [
        *("approval.asked", "approval.answered", "grant.made", "grant.revoked"),
        *("approval.asked", "approval.answered", "approval.asked", "approval.expired"),
    ]
    assert {event.data["sandbox"] for event in events} == {"s"}
    assert [events[index].data.get("by") for index in (1, 3, 5)] == ["ann (uid 7)", "bob", "ann (uid 7)"]
    assert events[2].data == {
        "sandbox": "s",
        "grant": grant.id,
        "scope": "sandbox",
        "host": "a.example",
        "port": 443,
        "granted_at": here.time.wall,
        "granted_by": "ann (uid 7)",
        "until": None,
    }
    assert events[7].data["reason"] == "the sandbox ended"


async def test_an_answer_that_cannot_be_recorded_widens_nothing_and_a_denial_holds_all_the_same(here: Place) -> None:
    async with here.guest() as guest:
        await guest.connect()
        guest.trail.close()
        for kind in (ONCE, SANDBOX, ALWAYS):
            with pytest.raises(GloveportError):
                here.answer(kind)
        assert here.desk.grants() == []
        with pytest.raises(GloveportError):
            here.answer(DENY)
        await anyio.wait_all_tasks_blocked()
        assert guest.verdicts == ["deny"]


async def test_a_grant_that_cannot_be_kept_widens_nothing(here: Place) -> None:
    (here.path / "grants.json").mkdir()
    async with here.guest() as guest:
        await guest.connect()
        with pytest.raises(GloveportError):
            here.answer(ALWAYS)
        assert guest.answers == []
        assert guest.events()[-2:] == ["grant.made", "grant.expired"]


async def test_a_grant_taken_back_before_its_connection_heard_of_it_lets_nothing_through(here: Place) -> None:
    for kind in (ONCE, SANDBOX, ALWAYS):
        async with here.guest(kind) as guest:
            await guest.connect()
            grant = here.answer(kind)
            assert grant is not None
            here.desk.revoke(grant.id, "ann")
            await anyio.wait_all_tasks_blocked()
            assert guest.verdicts == ["deny"]
            assert guest.answers[0][1].reason.endswith("the grant was taken back")


async def test_taking_a_grant_back_ends_its_connections_and_the_next_one_asks(here: Place) -> None:
    ended: list[str] = []

    def end(name: str) -> int:
        ended.append(name)
        return 2

    async with here.guest() as guest:
        guest.window.end_connections = end
        for kind in (SANDBOX, ALWAYS):
            await guest.connect()
            grant = here.answer(kind)
            assert grant is not None
            assert here.desk.revoke(grant.id, "ann") == (grant, 2)
            assert ended.pop() == grant.id
        await guest.connect()
        assert len(here.desk.pending()) == 1


async def test_an_unknown_id_or_part_of_one_names_nothing(here: Place) -> None:
    async with here.guest() as guest:
        await guest.connect()
        (question,) = here.desk.pending()
        for name in ("", question.id[:-1], "x"):
            with pytest.raises(NotFound) as found:
                here.desk.answer(name, ONCE, "ann")
            assert "gloveport approvals" in found.value.hint
        grant = here.answer(SANDBOX)
        assert grant is not None
        for name in ("", grant.id[:-1], question.id):
            with pytest.raises(NotFound) as found:
                here.desk.revoke(name, "ann")
            assert "gloveport approvals grants" in found.value.hint
        with pytest.raises(NotFound):
            here.desk.answer(question.id, ONCE, "ann")  # it has its answer


def kept(here: Place, **changes: object) -> Grant:
    now = here.time.wall
    grant = Grant(
        id="g1",
        scope=ALWAYS,
        host="a.example",
        port=443,
        sandbox="s",
        granted_at=now,
        granted_by="ann",
        until=now + 100,
    )
    return replace(grant, **changes)  # type: ignore[arg-type]


def store(here: Place) -> KeptGrants:
    """As another process of the installation sees them."""
    return KeptGrants(here.path / "grants.json", here.time.clock())


def test_kept_grants_are_in_a_file_of_this_users_own_and_every_process_sees_changes(here: Place) -> None:
    first, second = store(here), store(here)
    first.add(kept(here))
    assert (here.path / "grants.json").stat().st_mode & 0o777 == 0o600
    assert second.find((QuestionKind.EGRESS, "a.example:443")) == kept(here)
    assert second.find((QuestionKind.EGRESS, "a.example:80")) is None
    second.add(kept(here, id="g2", port=80))
    assert len(first.live()) == 2
    assert second.remove("g1") == kept(here)
    assert first.find((QuestionKind.EGRESS, "a.example:443")) is None
    assert not first.holds(kept(here))
    assert first.remove("g1") is None


def jump_back(time: Time) -> None:
    time.pass_by(101)
    time.wall -= 1_000_000


def sleep(time: Time) -> None:
    time.steady += 101


@pytest.mark.parametrize("move", [lambda time: time.pass_by(101), jump_back, sleep], ids=["time", "jump", "sleep"])
def test_no_setting_of_the_clock_makes_a_grant_last_longer_within_a_process(
    here: Place, move: Callable[[Time], None]
) -> None:
    grants = store(here)
    grants.add(kept(here))
    here.time.pass_by(99)
    assert grants.holds(kept(here, granted_at=here.time.wall - 99, until=here.time.wall + 1))
    here.time.pass_by(-99)
    move(here.time)
    assert grants.live() == []
    grants.add(kept(here, id="g2", port=80))  # reads the file anew
    assert [grant.id for grant in grants.live()] == ["g2"]


def test_a_clock_set_back_between_two_processes_of_one_boot_makes_no_grant_last_longer(here: Place) -> None:
    store(here).add(kept(here))
    here.time.pass_by(90)
    here.time.wall -= 80  # it would look as if ninety seconds were left
    second = store(here)
    assert len(second.live()) == 1
    second.add(kept(here, id="g2", port=80, granted_at=here.time.wall, until=here.time.wall + 100))  # writes it anew
    here.time.steady += 11
    assert [grant.id for grant in store(here).live()] == ["g2"]


@pytest.mark.parametrize("end", ["soon", None, [1], {"a": 1}])
def test_an_end_that_is_no_number_is_a_file_that_cannot_be_read(here: Place, end: object) -> None:
    store(here).add(kept(here))
    file = here.path / "grants.json"
    file.write_text(json.dumps([{**json.loads(file.read_text())[0], "steady_until": end}]))
    with pytest.raises(InvalidRequest):
        store(here).live()


@pytest.mark.parametrize(("later", "live"), [(99, True), (101, False), (-1, False)])
def test_a_grant_is_expired_when_it_is_read_after_its_time_or_before_it_was_made(
    here: Place, later: float, live: bool
) -> None:
    store(here).add(kept(here))
    here.time.wall += later
    here.time.steady = 0.0  # another boot
    assert bool(store(here).live()) is live


async def test_an_expired_grant_leaves_the_file_and_is_told_once(here: Place) -> None:
    async with here.guest() as guest:
        await guest.connect()
        here.answer(ALWAYS)
        here.time.pass_by(GRANT_SECONDS + 1)
        await guest.connect()
        assert len(here.desk.pending()) == 1
        assert json.loads((here.path / "grants.json").read_text()) == []
        assert guest.events()[-2:] == ["grant.expired", "approval.asked"]


BROKEN = ["{", "{}", "[1]", '[{"id": "g"}]', "[" * 100_000]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_file_that_cannot_be_read_holds_no_grants_and_is_never_replaced(here: Place, text: str) -> None:
    file = here.path / "grants.json"
    file.write_text(text)
    grants = store(here)
    assert grants.find((QuestionKind.EGRESS, "a.example:443")) is None
    assert grants.take_expired() == []
    with pytest.raises(InvalidRequest) as found:
        grants.live()
    assert str(file) in found.value.message
    with pytest.raises(InvalidRequest):
        grants.add(kept(here))
    assert file.read_text() == text


@pytest.mark.parametrize("changes", [{"until": None}, {"scope": "sandbox"}])
def test_what_was_written_by_hand_and_never_expires_does_not_count(here: Place, changes: dict[str, object]) -> None:
    grants = store(here)
    grants.add(kept(here))
    file = here.path / "grants.json"
    file.write_text(json.dumps([{**json.loads(file.read_text())[0], "id": "g2", **changes}]))
    assert grants.live() == []


def test_there_are_no_more_kept_grants_than_can_be_reviewed(here: Place) -> None:
    grants = store(here)
    values = [{**encode(kept(here)), "id": str(port), "port": port} for port in range(1, MOST_KEPT + 1)]
    (here.path / "grants.json").write_text(json.dumps(values))
    with pytest.raises(LimitExceeded):
        grants.add(kept(here, id="more", port=65_535))
    grants.add(kept(here, id="again", port=1))  # takes the place of one
    assert len(grants.live()) == MOST_KEPT
