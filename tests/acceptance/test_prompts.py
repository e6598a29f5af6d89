"""Counting approvals with the real Claude Code, a real sandbox and a real desk; and when a count means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from benchmarks.prompts.arms import Answering, Outcome
from benchmarks.prompts.count import Comparison, compare_arms, flaws, report, total
from benchmarks.prompts.script import Task, bash, edit, grep, read
from benchmarks.prompts.tasks import TASKS

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap", "agent", "git")]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600
SMALL = Task(
    name="small",
    prompt="A few calls.",
    calls=(
        read("README.md"),
        grep("def "),
        bash("git status"),
        edit("README.md", "# shop", "# Shop"),
        bash("curl -sS https://docs.example/one", "docs.example"),
        bash("curl -sS https://docs.example/two", "docs.example"),
        bash("rm -f docs/usage.md"),
    ),
)
ASKING = {3: "Edit", 4: "Bash", 5: "Bash", 6: "Bash"}
"""The calls that Claude Code's regular permissions ask about: what writes or connects, and nothing that reads."""


async def test_each_arm_counts_what_its_person_is_asked_and_nothing_twice() -> None:
    with anyio.fail_after(PATIENCE):
        found = await compare_arms([SMALL])
    assert flaws(found) == []
    each_time, for_good = found
    assert [each_time.answering, for_good.answering] == list(Answering)
    assert each_time.regular.approvals == tuple(f"toolu_script_0_{number}_0" for number in ASKING)
    assert each_time.regular.about == tuple(ASKING.values())
    assert each_time.boundary.about == ("docs.example", "docs.example")
    assert for_good.boundary.about == ("docs.example",)
    assert set(for_good.regular.approvals) <= set(each_time.regular.approvals)
    for each in found:
        assert each.regular.calls == each.boundary.calls == len(SMALL.calls)
        assert each.regular.failed == each.boundary.failed == ("Bash", "Bash")  # nobody answers at docs.example
    assert total(found, Answering.EACH_TIME).reduction == 50


def test_one_command_prints_the_figure_beside_the_claim(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "benchmarks.prompts", "--json", str(tmp_path / "counts.json"))
    tasks = ("--task", "search and explain", "--task", "add tests")
    done = subprocess.run([*command, *tasks], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    *_, each_time, for_good, claim = done.stdout.splitlines()
    record = json.loads((tmp_path / "counts.json").read_text())
    for line, counted in zip((each_time, for_good), record["totals"], strict=True):
        assert (counted["tasks"], counted["calls"]) == (2, 51)
        assert 0 <= counted["boundary"] < counted["regular"] <= counted["calls"]
        assert f"{counted['regular']} approvals" in line
        assert f"{counted['reduction_percent']:.0f} % fewer" in line
    assert claim.startswith("claimed by the vendor")
    assert claim.endswith("84 % fewer")
    for row in record["tasks"]:
        assert row["regular"]["cli"] == row["boundary"]["cli"]
        for arm in ("regular", "boundary"):
            assert row[arm]["approvals"] == sum(row[arm]["about"].values())


def test_the_set_of_tasks_is_as_large_as_promised_and_names_only_hosts_that_do_not_exist() -> None:
    assert len({task.name for task in TASKS}) == len(TASKS) >= 10
    assert sum(len(task.calls) for task in TASKS) >= 300
    assert all(host.endswith(".example") for task in TASKS for host in task.hosts)


REGULAR = Outcome(task="small", cli="c/1", calls=7, approvals=("a", "b", "c", "d"), about=tuple(ASKING.values()))
BOUNDARY = Outcome(task="small", cli="c/1", calls=7, approvals=("g", "h"), about=("docs.example", "docs.example"))
SOUND = Comparison(task=SMALL, answering=Answering.EACH_TIME, regular=REGULAR, boundary=BOUNDARY)


@pytest.mark.parametrize(
    ("unsound", "flaw"),
    [
        (replace(SOUND, regular=replace(REGULAR, calls=6)), "regular: 6 of 7 calls came back"),
        (replace(SOUND, regular=replace(REGULAR, approvals=("a", "a"))), "regular: an approval was counted twice"),
        (replace(SOUND, boundary=replace(BOUNDARY, approvals=("g", "g"))), "boundary: an approval was counted twice"),
        (replace(SOUND, boundary=replace(BOUNDARY, approvals=("g", ""))), "boundary: an approval was counted twice"),
        (replace(SOUND, boundary=replace(BOUNDARY, failed=("Bash", "Edit"))), "boundary: calls of Edit failed"),
        (replace(SOUND, boundary=replace(BOUNDARY, about=("docs.example",))), "asked too seldom"),
        (replace(SOUND, boundary=replace(BOUNDARY, approvals=(), about=())), "asked too seldom"),
        (replace(SOUND, boundary=replace(BOUNDARY, about=("other.example",) * 2)), "unexpectedly about docs.example"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_counts_that_would_mean_nothing_are_named(unsound: Comparison, flaw: str) -> None:
    assert flaws([SOUND]) == []
    assert any(flaw in line for line in flaws([unsound]))


def test_the_report_has_the_sums_and_the_share() -> None:
    for_good = replace(SOUND, answering=Answering.FOR_GOOD, boundary=replace(BOUNDARY, approvals=("g",)))
    text = report([SOUND, for_good])
    assert (
        "answered each time: 4 approvals under Claude Code's regular permissions, 2 under Gloveport: 50 % fewer" in text
    )
    assert (
        "answered not again: 4 approvals under Claude Code's regular permissions, 1 under Gloveport: 75 % fewer" in text
    )
