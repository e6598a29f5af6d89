"""`gloveport verify`: whether the records of a run or a sandbox are as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import print_json
from gloveport.client import connect
from gloveport.errors import GloveportError, InvalidRequest, NotFound
from gloveport.jobs import RunDirectory, find_run, run_directories
from gloveport.model import EventKind, resolve_id
from gloveport.settings import Settings
from gloveport.store import verify_trail

__all__ = ["command"]

_RUN_ENDS = (EventKind.RUN_ENDED,)
_SANDBOX_ENDS = (EventKind.SANDBOX_DELETED, EventKind.SANDBOX_FAILED)


def command(
    name: Annotated[str, typer.Argument(metavar="RUN|ID", help="A run (`last` is the newest), or a sandbox.")],
    as_json: JsonOption = False,
) -> None:
    """Check the hash chains of a run's two trails, or of a sandbox's: a broken one is named with its first bad record.

    The trail of a sandbox that is still there has no end yet; any other one that has none was cut off.
    """
    settings = Settings.load()
    found = _find(settings, name)
    if isinstance(found, RunDirectory):
        what, counts, ended = {"run": found.id}, _verify_run(found), True
    else:
        count, ended = _verify_sandbox(settings, found)
        what, counts = {"sandbox": found.stem}, {found.name: count}
    if as_json:
        print_json({**what, "records": counts, "ended": ended})
        return
    for file, count in counts.items():
        typer.echo(f"{file}: {count} records, unbroken{'' if ended else ', not ended: the sandbox is still there'}")


def _find(settings: Settings, name: str) -> RunDirectory | Path:
    """The run, or the trail of the sandbox, that a unique prefix names."""
    if name == "last":
        return find_run(settings.data, name)
    runs = {run.id: run for run in run_directories(settings.data)}
    trails = {path.stem: path for path in (settings.data / "audit").glob("*.jsonl")}
    try:
        found = resolve_id(name, runs.keys() | trails.keys(), noun="run or sandbox")
    except NotFound as error:
        raise NotFound(
            error.message, hint="see what there is with: gloveport runs, or gloveport list", id=name
        ) from error
    return runs.get(found) or trails[found]


def _verify_run(run: RunDirectory) -> dict[str, int]:
    return {path.name: verify_trail(path, ends=_RUN_ENDS) for path in (run.trajectory, run.audit)}


def _verify_sandbox(settings: Settings, trail: Path) -> tuple[int, bool]:
    try:
        return verify_trail(trail, ends=_SANDBOX_ENDS), True
    except InvalidRequest:
        if not _lives(settings, trail.stem):
            raise
    return verify_trail(trail), False


def _lives(settings: Settings, sandbox: str) -> bool:
    try:
        with connect(settings) as runner:
            statuses = runner.call("list")["sandboxes"]
    except GloveportError:
        return False
    return any(status["ref"]["id"] == sandbox for status in statuses)
