"""What was refused, asked for as a person does: by level and time, of a sandbox and of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gloveport.jobs import make_run_directory
from gloveport.model import EventKind
from gloveport.store import Trail, make_private

from ..conftest import Cli  # noqa: TID252 - tests are no package of ours

REFUSED: list[tuple[EventKind, Mapping[str, Any]]] = [
    (EventKind.DECISION, {"argv": ["rm", "-rf", "/"], "verdict": "deny", "rule": "exec.deny: rm **", "reason": "no"}),
    (EventKind.EXEC_STARTED, {"argv": ["ls"]}),
    (EventKind.EGRESS, {"host": "x.example", "port": 443, "allowed": False, "rule": "egress.default", "reason": "why"}),
    (EventKind.DECISION, {"read": "a\x1b[2J\nb", "verdict": "deny", "rule": "r\x1b[2J", "reason": "line\nline"}),
]


def write(path: Path) -> None:
    trail = Trail(path)
    for kind, data in REFUSED:
        trail.append(kind, data)
    trail.close()


@pytest.fixture
def trail(cli: Cli) -> Path:
    path = make_private(make_private(cli.settings.data) / "audit") / "brave-otter-3fa91c.jsonl"
    write(path)
    return path


def records(cli: Cli, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cli.ok("logs", *words, "--refused", "--json").splitlines()]


def test_refusals_are_printed_by_level_with_rule_and_reason(cli: Cli, trail: Path) -> None:
    found = records(cli, "brave")
    assert [(each["sequence"], each["level"], each["rule"]) for each in found] == [
        (0, "critical", "exec.deny: rm **"), (2, "medium", "egress.default"), (3, "low", "r\x1b[2J"),
    ]  # fmt: skip
    assert found[0]["data"]["argv"] == ["rm", "-rf", "/"]
    assert [each["sequence"] for each in records(cli, "brave", "--level", "medium")] == [0, 2]
    said = cli.ok("logs", "brave", "--refused")
    assert "\x1b" not in said
    lines = said.splitlines()
    assert len(lines) == 7
    assert "critical" in lines[0]
    assert lines[1] == "  exec.deny: rm **: no"
    assert lines[5] == r"  r\x1b[2J: line\x0aline"
    assert lines[6] == "3 refusals: 1 critical, 1 medium, 1 low"
    assert cli.ok("logs", trail.stem, "--refused", "--level", "critical").splitlines()[-1] == "1 refusal: 1 critical"


def test_refusals_are_narrowed_by_time(cli: Cli, trail: Path) -> None:
    found = records(cli, "brave")
    assert [each["sequence"] for each in records(cli, "brave", "--since", found[1]["time"])] == [2, 3]
    assert [each["sequence"] for each in records(cli, "brave", "--until", found[1]["time"])] == [0]
    assert len(records(cli, "brave", "--since", "7d")) == 3
    assert records(cli, "brave", "--until", "7d") == []
    assert records(cli, "brave", "--since", "2999-01-01") == []
    assert cli.ok("logs", "brave", "--refused", "--until", "2001-02-03T04:05").splitlines() == ["0 refusals"]


def test_a_run_is_asked_like_a_sandbox(cli: Cli) -> None:
    write(make_run_directory(make_private(cli.settings.data), "calm-heron-5b21c0").audit)
    assert [each["level"] for each in records(cli, "last")] == ["critical", "medium", "low"]
    assert len(cli.ok("logs", "calm", "--json").splitlines()) == len(REFUSED)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--refused", "--since", "yesterday"), "for example 2026-03-01"),
        (("--refused", "--until", "2026-02-30"), "for example 2026-03-01"),
        (("--refused", "--since", "999999999d"), "for example 2026-03-01"),
        (("--refused", "--since", "1h", "--until", "2h"), "give --until a later time"),
        (("--level", "high"), "add --refused"),
        (("--since", "1h"), "add --refused"),
        (("--refused", "--process", "1"), "leave --process or --refused out"),
    ],
    ids=" ".join,
)
def test_a_question_that_means_nothing_gets_the_next_step(cli: Cli, trail: Path, words: Any, hint: str) -> None:
    done = cli("logs", trail.stem, *words)
    assert done.returncode == 2
    assert f"next: {hint}" in done.stderr.decode()


def test_a_level_that_is_none_and_a_name_that_is_none_are_refused_with_what_there_is(cli: Cli, trail: Path) -> None:
    done = cli("logs", trail.stem, "--refused", "--level", "terrible")
    assert done.returncode == 2
    assert b"critical" in done.stderr
    assert cli("logs", "nobody", "--refused").returncode == 4


@pytest.mark.needs("bubblewrap")
def test_what_a_sandbox_was_refused_is_found_after_it_is_gone(cli: Cli, place: Path) -> None:
    (place / "p.toml").write_text('[exec]\ndeny = [{ command = "rm **", reason = "keep it" }]\n')
    name = cli.create("--empty", "--policy", str(place / "p.toml"))
    assert cli("exec", name, "--", "rm", "-rf", "/").returncode == 78
    cli.ok("exec", name, "--", "true")
    cli.ok("rm", name)
    (found,) = records(cli, name)
    assert (found["level"], found["reason"]) == ("critical", "keep it")
    assert found["rule"].startswith("exec.deny: rm **, project (")
