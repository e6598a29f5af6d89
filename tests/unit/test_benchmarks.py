"""The parts of the benchmarks that decide: what a row says, when a bound is missed, and what the exit status is."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from benchmarks import __main__ as program
from benchmarks import knowlyr
from benchmarks.measure import Effort, Result, add, compare, interleave, misses, percentile, size, table, unmeasured
from benchmarks.walls import without

pytestmark = pytest.mark.anyio

KEPT = Result(name="fast", value=1.19, bound=1.2)
MISSED = Result(name="slow", value=1.21, bound=1.2)


def giving(*answers: list[Result]) -> Callable[[Effort], Awaitable[list[Result]]]:
    """A group whose measurements are these, one after the other."""
    left = list(answers)

    async def group(_effort: Effort) -> list[Result]:
        return left.pop(0)

    return group


def test_a_ratio_is_of_the_medians_and_its_spread_is_of_the_rounds() -> None:
    row = compare("ours", [0.002, 0.004, 0.100], [0.001, 0.002, 0.010], against="theirs", bound=3.0)
    assert (row.value, row.subject_ms, row.baseline_ms, row.rounds) == (2.0, 4.0, 2.0, 3)
    assert (row.low, row.high) == (2.0, 10.0)
    assert not row.missed


def test_of_what_has_to_be_fast_the_speed_is_compared() -> None:
    row = compare("ours", [0.4, 0.5, 1.0], [0.1, 0.1, 0.1], against="theirs", bound=0.2, at_least=True)
    assert (row.value, row.low, row.high) == (0.2, 0.1, 0.25)
    assert not row.missed


def test_what_is_added_is_the_difference_of_the_medians_in_milliseconds() -> None:
    row = add("ours", [0.003, 0.004, 0.1], [0.001, 0.001, 0.001], against="theirs", bound=3.0)
    assert (row.value, row.unit, row.subject_ms, row.baseline_ms) == (3.0, "ms", 4.0, 1.0)
    assert (row.low, row.high) == (2.0, 99.0)


def test_a_wall_is_taken_away_with_what_it_applies_to() -> None:
    argv = ["bwrap", "--seccomp", "7", "--", "guestd", "-f", "3", "-w", "/tmp", "-w", "/workspace"]
    assert without(("--seccomp", "-w"), argv) == ["bwrap", "--", "guestd", "-f", "3"]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(10, 0, -1)]
    assert [percentile(values, share) for share in (0.0, 0.1, 0.5, 0.9, 1.0)] == [1.0, 1.0, 5.0, 9.0, 10.0]


@pytest.mark.parametrize(
    ("row", "missed"),
    [
        (Result(name="at the bound", value=3.0, bound=3.0), False),
        (Result(name="over it", value=3.001, bound=3.0), True),
        (Result(name="bounded but not measured", value=None, bound=3.0), True),
        (Result(name="only informs", value=99.0), False),
        (unmeasured("not here", "not installed"), False),
        (Result(name="at the least", value=0.2, bound=0.2, at_least=True), False),
        (Result(name="below it", value=0.19, bound=0.2, at_least=True), True),
        (Result(name="at least, but not measured", value=None, bound=0.2, at_least=True), True),
        (size("memory", 3 * 2**20, bound=2.0, rounds=1, note=""), True),
    ],
    ids=lambda value: value.name if isinstance(value, Result) else "",
)
def test_a_bound_is_missed_when_it_is_passed_or_was_not_measured(row: Result, missed: bool) -> None:
    assert row.missed is missed
    assert (len(misses([row])) == 1) is missed


def test_every_miss_is_named_with_what_it_was_and_may_be() -> None:
    assert misses([KEPT, MISSED]) == ["slow: 1.21 x, at most 1.20 x"]
    slow = Result(name="thin", value=0.1, bound=0.2, at_least=True)
    assert misses([slow]) == ["thin: 0.10 x, at least 0.20 x"]


def test_the_table_says_of_each_row_whether_its_bound_was_kept_and_why_one_is_empty() -> None:
    lines = table([KEPT, MISSED, unmeasured("docker run", "not installed")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "| kept " in lines[2]
    assert "| MISSED " in lines[3]
    assert lines[4].startswith("| docker run | - ")
    assert "not installed" in lines[4]


async def test_samples_are_interleaved_and_the_warm_up_is_not_counted() -> None:
    taken: list[str] = []

    def sample(name: str) -> Callable[[], Awaitable[float]]:
        async def take() -> float:
            taken.append(name)
            return float(len(taken))

        return take

    seconds = await interleave({"a": sample("a"), "b": sample("b")}, rounds=2, warmup=1)
    assert "".join(taken) == "abbaab"
    assert seconds == {"a": [4.0, 5.0], "b": [3.0, 6.0]}


async def test_what_missed_is_measured_once_more_and_the_second_measurement_counts() -> None:
    groups = {"one": giving([MISSED], [KEPT]), "two": giving([KEPT])}
    assert await program.measure_all(groups, program.QUICK) == [KEPT, KEPT]


async def test_what_misses_twice_has_missed() -> None:
    assert await program.measure_all({"one": giving([MISSED], [MISSED])}, program.QUICK) == [MISSED]


@pytest.mark.parametrize(
    ("arguments", "answers", "status"),
    [
        ([], [[KEPT]], 0),
        ([], [[MISSED], [MISSED]], 1),
        (["--quick"], [[MISSED]], 0),
    ],
    ids=["kept", "missed", "missed in a smoke test"],
)
def test_the_exit_status_says_whether_a_bound_was_missed(
    arguments: list[str],
    answers: list[list[Result]],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(program, "GROUPS", {"one": giving(*answers)})
    written = tmp_path / "results.json"
    assert program.main([*arguments, "--json", str(written)]) == status
    said = capsys.readouterr()
    assert answers[-1][0].name in said.out
    assert ("missed: slow: 1.21 x" in said.err) is (answers[-1] == [MISSED])
    record = json.loads(written.read_text("utf-8"))
    assert [(row["name"], row["missed"]) for row in record["results"]] == [(r.name, r.missed) for r in answers[-1]]
    assert {"date", "kernel", "cpu", "cores", "load", "python", "versions"} <= record["machine"].keys()


class DaemonAway(Exception):
    """What a docker client raises that reaches no daemon, or may not."""


def installed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A knowlyr-sandbox for the import system, and a docker client whose user may not use the daemon."""
    record = directory / "knowlyr_sandbox-0.1.2.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: knowlyr-sandbox\nVersion: 0.1.2\n", "utf-8")
    monkeypatch.syspath_prepend(str(directory))

    def from_env() -> None:
        raise DaemonAway("something long") from PermissionError("may not\nuse it")

    docker = ModuleType("docker")
    docker.__dict__.update(from_env=from_env, errors=SimpleNamespace(DockerException=DaemonAway))
    monkeypatch.setitem(sys.modules, "docker", docker)


@pytest.mark.parametrize("there", [False, True], ids=["not installed", "no daemon"])
async def test_rows_beside_what_is_not_there_say_why_and_miss_nothing(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if there:
        installed(tmp_path, monkeypatch)
    else:
        monkeypatch.setattr(knowlyr, "DISTRIBUTION", "gloveport-nobody-has-this")
    rows = await knowlyr.measure(program.QUICK)
    why = "installed, but no docker daemon can be used: may not use it" if there else "not installed"
    assert [(row.value, row.note) for row in rows] == [(None, why)] * len((*knowlyr.ROWS, knowlyr.MANY))
    assert misses(rows) == []


def test_the_image_holds_the_programs_their_libraries_and_the_repository_as_roots(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content", "utf-8")
    with tarfile.open(fileobj=io.BytesIO(knowlyr.packed(tmp_path))) as tar:
        entries = {entry.name: entry for entry in tar}
    assert {"bin/sh", "repository/file"} <= entries.keys()
    assert any("libc.so" in name or "ld-musl" in name for name in entries)
    assert all(entries[name].isreg() and entries[name].mode & 0o111 for name in entries if name.endswith("bin/git"))
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}
