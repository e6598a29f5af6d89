"""The vocabulary itself: ids, exits, errors."""

from __future__ import annotations

import pytest

from gloveport import errors
from gloveport.errors import STATUSES, Conflict, GloveportError, InvalidRequest, NotFound, error_from_body
from gloveport.model import Exit, new_id, new_trace, resolve_id

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GloveportError)]


def test_ids_are_readable_and_differ() -> None:
    ids = {new_id() for _ in range(500)}
    assert len(ids) > 490
    assert all(len(i.split("-")) == 3 and i.islower() for i in ids)
    assert len(new_trace()) == 32


def test_a_unique_prefix_names_an_id() -> None:
    ids = ["brave-otter-01", "brave-owl-02", "calm-cat-03"]
    assert resolve_id("calm", ids, noun="sandbox") == "calm-cat-03"
    assert resolve_id("brave-otter-01", [*ids, "brave-otter-012"], noun="sandbox") == "brave-otter-01"


def test_ambiguous_empty_and_unknown_prefixes_say_so() -> None:
    ids = ["brave-otter-01", "brave-owl-02"]
    with pytest.raises(Conflict) as ambiguous:
        resolve_id("brave", ids, noun="sandbox")
    assert ambiguous.value.context["candidates"] == ids
    with pytest.raises(InvalidRequest):
        resolve_id("", ids, noun="sandbox")
    with pytest.raises(NotFound) as unknown:
        resolve_id("x", ids, noun="run")
    assert "gloveport runs" in unknown.value.hint


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_and_survives_the_wire(kind: type[GloveportError]) -> None:
    error = kind("what", hint="do this", path="/x", message="kept")
    assert error.status == STATUSES[kind.code]
    again = error_from_body(error.body())
    assert type(again).code == kind.code
    assert again.body() == error.body()


def test_an_error_from_a_hostile_peer_is_still_an_error() -> None:
    assert error_from_body({}).code == "internal"
    assert error_from_body({"code": "no_such", "context": "nonsense", "message": 3}).message == "3"


@pytest.mark.parametrize(
    ("ended", "status", "ok"),
    [
        (Exit(code=0), 0, True),
        (Exit(code=3), 3, False),
        (Exit(signal=9), 137, False),
        (Exit(code=0, timed_out=True), 0, False),
        (Exit(code=0, dropped_stdout=1), 0, True),
    ],
)
def test_an_exit_as_a_shell_would_say_it(ended: Exit, status: int, ok: bool) -> None:
    assert (ended.status, ended.ok) == (status, ok)
