"""Trails as commands name them: by a unique prefix of a run, or of a sandbox that may be gone."""

from __future__ import annotations

from pathlib import Path

from gloveport.errors import NotFound
from gloveport.jobs import RunDirectory, find_run, run_directories
from gloveport.model import resolve_id
from gloveport.settings import Settings

__all__ = ["find_trail"]


def find_trail(settings: Settings, name: str) -> RunDirectory | Path:
    """The run (`last` is the newest), or the trail of the sandbox, that a unique prefix names.

    Raises `NotFound`, or `Conflict` for a prefix of several.
    """
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
