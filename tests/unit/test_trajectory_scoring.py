"""A rubric is read strictly, each of its checks finds what it is for, and the score is their weighted mean."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.errors import InvalidRequest, NotFound
from gloveport.trajectory import Outcome, Step, Trajectory, Turn
from gloveport.trajectory.scoring import Score, parse_rubric, read_rubric, score_trajectory

CREATED = "File created successfully at: /workspace/new.py (file state is current)"


def step(
    tool: str, *, status: int | None = 0, changed: str = "", text: str = "", refused: str = "", **params: Any
) -> Step:
    """A call; without a status, of which it is not recorded how it ended."""
    told = None if status is None else status != 0
    outcome = Outcome(text=text, is_error=told, status=status, changed={changed: "0" * 64} if changed else {})
    return Step(tool=tool, params=params, outcome=outcome, refused=refused)


def shell(command: str, **how: Any) -> Step:
    return step("shell", command=command, **how)


def read(path: str, **how: Any) -> Step:
    return step("Read", file_path=path, **how)


def edit(path: str, **how: Any) -> Step:
    return step("Edit", file_path=path, **how)


def scored(steps: list[Step], *criteria: dict[str, Any]) -> Score:
    named = [{"name": f"criterion {number}", **each} for number, each in enumerate(criteria)]
    return score_trajectory(Trajectory(turns=(Turn(steps=tuple(steps)),)), parse_rubric({"criteria": named}))


def found(steps: list[Step], **check: Any) -> tuple[float, tuple[int, ...]]:
    (one,) = scored(steps, check).criteria
    return one.score, one.steps


TESTED = {"matches": r"\bpytest\b", "after": "last-edit"}


@pytest.mark.parametrize(
    ("steps", "score", "where"),
    [
        ([edit("a.py"), shell("pytest -q")], 1, (1,)),
        ([shell("pytest -q")], 1, (0,)),
        ([edit("a.py"), shell("pytestify")], 0, ()),
        ([shell("pytest -q"), edit("a.py")], 0, (0, 1)),
        ([shell("pytest -q"), edit("a.py", status=1)], 1, (0,)),
        ([edit("a.py"), shell("pytest -q", status=1)], 0, (1,)),
        ([edit("a.py"), shell("pytest -q", status=None)], 0, (1,)),
        ([edit("a.py"), shell("pytest -q", refused="no")], 0, ()),
        ([edit("a.py"), step("Bash", command="pytest", run_in_background=True)], 0, (1,)),
        ([shell("pytest"), shell("sed -i s/a/b/ a.py", changed="a.py")], 0, (0, 1)),
        ([shell("pytest"), shell("ruff check", changed=".ruff_cache/0")], 1, (0,)),
        ([edit("a.py"), shell("pytest", changed="junit.xml")], 1, (1,)),
        ([shell("pytest"), shell("sed -i s/a/b/ a.py && pytest", changed="a.py", status=1)], 0, (1,)),
        ([shell("pytest", status=1), shell("sed -i s/a/b/ a.py && pytest", changed="a.py")], 1, (1,)),
        ([shell("pytest"), step("str_replace_editor", command="str_replace", path="/a.py")], 0, (0, 1)),
        ([shell("pytest"), step("str_replace_editor", command="view", path="/a.py")], 1, (0,)),
    ],
)
def test_a_command_must_have_succeeded_after_the_last_edit(
    steps: list[Step], score: float, where: tuple[int, ...]
) -> None:
    assert found(steps, command=TESTED) == (score, where)


def test_a_command_may_have_failed_or_run_at_any_time_where_the_rubric_says_so() -> None:
    steps = [shell("make", status=2), step("git", subcommand="log", args="--oneline -5"), edit("a.py")]
    assert found(steps, command={"matches": "^make$", "succeeded": False}) == (1, (0,))
    assert found(steps, command={"matches": "^make$"}) == (0, (0,))
    assert found(steps, command={"matches": "git log .*-5"}) == (1, (1,))
    editor = step("str_replace_editor", command="view", path="/a.py")
    assert found([editor], command={"matches": "view"}) == (0, ()), "a word of its own is no command line"


@pytest.mark.parametrize(
    ("steps", "score", "where"),
    [
        ([read("/workspace/a.py"), edit("a.py")], 1, ()),
        ([edit("a.py"), read("a.py"), edit("a.py")], 0, (0,)),
        ([read("a.py"), edit("a.py"), edit("b.py"), edit("b.py")], 0.5, (2,)),
        ([shell("sed -n 1,9p src/../a.py"), edit("a.py")], 1, ()),
        ([shell("cd src; cat a.py"), edit("/workspace/src/a.py")], 1, ()),
        ([shell("cat ./src//a.py"), edit("/workspace/src/a.py")], 1, ()),
        ([shell("cat /workspace/src/a.py"), edit("src/a.py")], 1, ()),
        ([shell("cat lib/a.py"), edit("/workspace/src/a.py")], 0, (1,)),
        ([step("Grep", pattern="x", path="a.py"), edit("a.py")], 1, ()),
        ([read("a.py", refused="no"), edit("a.py")], 0, (1,)),
        ([edit("a.py", status=1), edit("a.py")], 0, (1,)),
        ([step("Write", file_path="new.py", text=CREATED), edit("new.py")], 1, ()),
        ([step("file_write", path="a.py", content="")], 0, (0,)),
        ([read("a.py", status=1), step("file_write", path="a.py", content="")], 1, ()),
        ([shell("true")], 1, ()),
    ],
)
def test_files_are_looked_at_before_they_are_edited(steps: list[Step], score: float, where: tuple[int, ...]) -> None:
    assert found(steps, reads_before_edit=True) == (score, where)


def test_tools_that_were_and_were_not_used() -> None:
    steps = [step("Grep", pattern="x"), shell("true"), step("Grep", pattern="y")]
    assert found(steps, tool_used=["search", "Grep"]) == (1, (0, 2))
    assert found(steps, tool_used=["search"]) == (0, ())
    assert found(steps, tool_unused=["shell"]) == (0, (1,))
    assert found(steps, tool_unused=["Bash", "WebFetch"]) == (1, ())


def test_steps_errors_refusals_and_repeats_have_a_limit() -> None:
    same = [shell("true")] * 3
    assert found(same, max_steps=3) == (1, ())
    assert found(same, max_steps=2) == (0, (2,))
    assert found([shell("ls"), *same, shell("ls")], max_repeats=3) == (1, ())
    assert found([shell("ls"), *same, shell("ls")], max_repeats=2) == (0, (1, 2, 3))
    assert found([shell("ls"), shell("ls -l"), read("ls")], max_repeats=1) == (1, ())
    refused = [shell("curl x", refused="no"), shell("ls")]
    assert found(refused, max_refused=1) == (1, (0,))
    assert found(refused, max_refused=0) == (0, (0,))
    ends = [shell("false", status=1), *same, shell("sleep", status=None)]
    assert found(ends, max_errors=0.25) == (1, (0,))
    assert found(ends, max_errors=0.24) == (0, (0,))


def test_what_the_record_does_not_say_is_credited_to_nobody() -> None:
    silent = [Step(tool="shell", params={"command": "pytest"}, outcome=Outcome(text="1 passed"))]
    assert found(silent, max_errors=1) == (0, ())
    assert found(silent, command={"matches": "pytest"}) == (0, (0,))
    assert found(silent, command={"matches": "pytest", "succeeded": False}) == (1, (0,))


def test_the_score_is_the_weighted_mean_and_says_what_was_found() -> None:
    result = scored([shell("true")], {"max_steps": 0, "weight": 1}, {"max_steps": 1, "weight": 3.0}, {"max_refused": 0})
    assert (result.score, result.total_steps) == (0.8, 1)
    first, second, third = result.criteria
    assert (first.check, first.score, first.why) == ("max_steps", 0, "1 step, 0 at most")
    assert (second.weight, second.score, third.weight, third.score) == (3, 1, 1, 1)
    assert json.loads(json.dumps(result.to_json()))["criteria"][0]["steps"] == [0]
    assert scored([], {"max_errors": 0, "weight": 0.1}, {"reads_before_edit": True, "weight": 0.7}).score == 1


GOOD = '[[criteria]]\nname = "short"\nweight = 2\nmax_steps = 9\n'
COMMAND = '[[criteria]]\nname = "tested"\n[criteria.command]\nmatches = "pytest"\n'


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (GOOD.replace("max_steps", "max_step"), 4, "unknown key 'criteria.0.max_step'; did you mean 'max_steps'?"),
        (GOOD.replace("weight", "wieght"), 3, "did you mean 'weight'?"),
        (GOOD.replace("weight = 2", "weight = 0"), 3, "greater than 0"),
        (GOOD.replace("weight = 2", "weight = inf"), 3, "criteria.0.weight"),
        (GOOD.replace("9", '"9"'), 4, "criteria.0.max_steps"),
        (GOOD.replace("9", "true"), 4, "criteria.0.max_steps"),
        (GOOD + "max_errors = 0.5\n", 1, "say one of: tool_used, "),
        (GOOD.replace("max_steps = 9", ""), 1, "say one of: tool_used, "),
        (GOOD.replace("max_steps = 9", "max_errors = 2"), 4, "criteria.0.max_errors"),
        (GOOD.replace("max_steps = 9", "tool_used = []"), 4, "criteria.0.tool_used"),
        (GOOD.replace("max_steps = 9", "reads_before_edit = false"), 4, "criteria.0.reads_before_edit"),
        (GOOD + GOOD, 6, "'short' stands twice"),
        (COMMAND.replace("pytest", "(pytest"), 4, "no regular expression: unclosed group"),
        (COMMAND.replace("pytest", "(?=a)"), 4, "look-around"),
        (COMMAND.replace("pytest", "(a{1000}){1000}"), 4, "size limit"),
        (COMMAND.replace("pytest", "x" * 1001), 4, "at most 1000 characters"),
        (COMMAND + 'after = "last_edit"\n', 5, "did you mean 'last-edit'?"),
        (COMMAND + 'after = "noon"\n', 5, "none of: start, last-edit"),
        (COMMAND + 'mathces = "x"\n', 5, "did you mean 'matches'?"),
        (GOOD + COMMAND.replace("pytest", "("), 8, "criteria.1.command.matches"),
        ("criteria = []", 1, "criteria"),
        ("", 1, "criteria"),
        ("[[[", 1, "not TOML"),
    ],
)
def test_a_mistake_in_a_rubric_is_named_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = tmp_path / "rubric.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=r"rubric\.toml") as raised:
        read_rubric(path)
    assert [(one["line"], said in one["what"]) for one in raised.value.context["mistakes"]] == [(line, True)], raised
    assert "rubric" in raised.value.hint


def test_a_mistake_in_a_rubric_that_is_no_file_has_no_line() -> None:
    with pytest.raises(
        InvalidRequest, match=r"\Arubric: unknown key 'criteria\.0\.max_step'; did you mean 'max_steps'"
    ):
        parse_rubric({"criteria": [{"name": "short", "max_step": 1}]})


def test_a_rubric_is_toml_or_json_and_a_regular_file(tmp_path: Path) -> None:
    toml, as_json, yaml, pipe = (tmp_path / f"rubric{end}" for end in (".toml", ".json", ".yaml", ".pipe.toml"))
    toml.write_text(GOOD)
    as_json.write_text('{"criteria": [{"name": "short", "weight": 2, "max_steps": 9}]}')
    yaml.write_text("criteria: []")
    os.mkfifo(pipe)
    assert read_rubric(toml) == read_rubric(as_json)
    for path, said in ((yaml, "TOML (.toml) or JSON"), (pipe, "not a regular file")):
        with pytest.raises(InvalidRequest) as raised:
            read_rubric(path)
        assert said in raised.value.message + raised.value.hint
    with pytest.raises(NotFound, match=r"the rubric .*none\.toml"):
        read_rubric(tmp_path / "none.toml")
    as_json.write_text('{"criteria": [], "criteria": []}')
    with pytest.raises(InvalidRequest, match="stands twice"):
        read_rubric(as_json)
    toml.write_text("#" * (1024 * 1024 + 1))
    with pytest.raises(InvalidRequest, match="larger than"):
        read_rubric(toml)


def test_no_command_line_keeps_a_regular_expression_busy() -> None:
    """An engine that goes back tries 2 to the power of 50,000 ways to fail."""
    hostile = [shell("a" * 50_000 + "!"), shell("\udc80 pytest \udfff")]
    assert found(hostile, command={"matches": "^(a+)+$"}) == (0, ())
    assert found(hostile, command={"matches": "pytest"}) == (1, (1,))


def test_of_many_steps_the_first_hundred_are_named() -> None:
    (one,) = scored([shell("x", refused="no")] * 250, {"max_refused": 0}).criteria
    assert (one.steps, one.steps_total) == (tuple(range(100)), 250)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
TOOLS = st.sampled_from(["Bash", "shell", "git", "Read", "Edit", "Write", "file_write", "str_replace_editor", "x"])
KEYS = st.sampled_from(["command", "path", "file_path", "subcommand", "args", "run_in_background"])
STEPS = st.builds(
    Step,
    tool=TOOLS,
    params=st.dictionaries(KEYS, ANYTHING | st.sampled_from(["create", "pytest", "a.py"]), max_size=3),
    refused=st.sampled_from(["", "no"]),
    outcome=st.none()
    | st.builds(
        Outcome,
        text=st.none() | st.just(CREATED),
        is_error=st.none() | st.booleans(),
        status=st.none() | st.integers(0, 2),
        changed=st.dictionaries(st.sampled_from(["a.py", ".coverage"]), st.just(""), max_size=1),
    ),
)


@given(steps=st.lists(STEPS, max_size=6))
def test_whatever_was_recorded_it_has_a_score(steps: list[Step]) -> None:
    checks = [
        {"tool_used": ["Bash"]},
        {"tool_unused": ["git"]},
        {"command": TESTED},
        {"max_steps": 3},
        {"max_errors": 0.5},
        {"max_refused": 0},
        {"max_repeats": 1},
        {"reads_before_edit": True},
    ]
    result = scored(steps, *checks)
    assert 0 <= result.score <= 1
    for one in result.criteria:
        assert 0 <= one.score <= 1
        assert set(one.steps) <= set(range(len(steps)))
    assert scored(steps, *checks) == result
