"""The run directory: everything one run leaves, in files that need no Gloveport to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gloveport.errors import NotFound
from gloveport.model import EndReason, RunState, RunSummary, Usage, resolve_id
from gloveport.store import cannot_write, make_private, whole_file

__all__ = [
    "SUMMARY_NAME",
    "RunDirectory",
    "find_run",
    "list_runs",
    "make_run_directory",
    "run_directories",
    "run_directory",
    "summary_bytes",
]

SUMMARY_NAME = "run.json"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run's files."""

    path: Path

    @property
    def id(self) -> str:
        """The run's id."""
        return self.path.name

    @property
    def trajectory(self) -> Path:
        """Every event of the run, hash-chained."""
        return self.path / "trajectory.jsonl"

    @property
    def audit(self) -> Path:
        """What was done and decided, hash-chained by itself."""
        return self.path / "audit.jsonl"

    @property
    def patch(self) -> Path:
        """What the run changed, for `git apply`."""
        return self.path / "patch.diff"

    @property
    def report(self) -> Path:
        """The test report (JUnit XML)."""
        return self.path / "junit.xml"

    @property
    def test_log(self) -> Path:
        """What the test command printed."""
        return self.path / "test.log"

    @property
    def tape(self) -> Path:
        """What passed between the agent and its model."""
        return self.path / "model.jsonl"

    @property
    def fetched(self) -> Path:
        """What its guest asked for over HTTP, and was answered."""
        return self.path / "egress.jsonl"

    def save(self, summary: RunSummary) -> None:
        """Write `run.json`, whole or not at all."""
        with whole_file(self.path / SUMMARY_NAME) as file:
            file.write(summary_bytes(summary))

    def summary(self) -> RunSummary:
        """What `run.json` says. A run whose process died is still `running` there."""
        try:
            record = json.loads((self.path / SUMMARY_NAME).read_text("utf-8"))
            return RunSummary(
                **{
                    **record,
                    "state": RunState(record["state"]),
                    "reason": EndReason(record["reason"]) if record["reason"] else None,
                    "usage": Usage(**record["usage"]),
                    "changed": tuple(record["changed"]),
                    "warnings": tuple(record.get("warnings", ())),
                    "protected": tuple(record.get("protected", ())),
                }
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise NotFound(
                f"run {self.id} has no readable run.json",
                hint=f"look at what is left of it in {self.path}",
                id=self.id,
            ) from error


def summary_bytes(summary: RunSummary) -> bytes:
    """`run.json` of a summary."""
    return json.dumps(asdict(summary), indent=2).encode() + b"\n"


def run_directory(data: Path, run: str) -> RunDirectory:
    """Where a run's directory is, or will be."""
    return RunDirectory(data / "runs" / run)


def make_run_directory(data: Path, run: str) -> RunDirectory:
    """Make the directory (0700) of a new run."""
    make_private(data / "runs")
    directory = run_directory(data, run)
    try:
        directory.path.mkdir(mode=0o700)
    except OSError as error:
        raise cannot_write(directory.path, error) from error
    return directory


def find_run(data: Path, prefix: str) -> RunDirectory:
    """The run that a unique prefix names; `last` is the newest."""
    runs = {run.id: run for run in run_directories(data)}
    if prefix == "last" and runs:
        return max(runs.values(), key=lambda run: run.path.stat().st_ctime)
    return runs[resolve_id(prefix, runs, noun="run")]


def list_runs(data: Path) -> list[RunSummary]:
    """Every readable run, oldest first."""
    found = []
    for run in run_directories(data):
        try:
            found.append(run.summary())
        except NotFound:
            continue
    return sorted(found, key=lambda summary: summary.started_at)


def run_directories(data: Path) -> Iterator[RunDirectory]:
    """Every run that has a directory, in no order; also those without a readable `run.json`."""
    root = data / "runs"
    if root.is_dir():
        yield from (RunDirectory(path) for path in root.iterdir() if path.is_dir())
