"""`gloveport diff`: what changed in a workspace, as a patch."""

from __future__ import annotations

from typing import Annotated

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import note, print_json, write_document
from gloveport.client import connect
from gloveport.errors import NotFound
from gloveport.jobs import RunDirectory, find_run
from gloveport.settings import Settings

__all__ = ["command"]


def command(
    name: Annotated[str, typer.Argument(metavar="RUN|ID", help="A run (`last` is the newest), or a sandbox.")],
    ignored: Annotated[bool, typer.Option("--ignored", help="Include what .gitignore leaves out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the patch of a run, or the one that turns a sandbox's first state into its present one."""
    settings = Settings.load()
    run = _run(settings, name)
    patch = bytearray()
    if run is not None:
        patch += run.patch.read_bytes()
        facts: dict[str, object] = {"run": run.id, "warnings": list(run.summary().warnings)}
    else:
        with connect(settings) as runner:
            facts = runner.call("diff", id=name, ignored=ignored, sink=patch.extend)
    if as_json:
        print_json({**facts, "patch": patch.decode("utf-8", "surrogateescape")})
        return
    write_document(bytes(patch))
    warnings = facts.get("warnings", [])
    for warning in warnings if isinstance(warnings, list) else []:
        note(warning)


def _run(settings: Settings, name: str) -> RunDirectory | None:
    try:
        found = find_run(settings.data, name)
    except NotFound:
        return None
    if not found.patch.is_file():
        raise NotFound(f"run {found.id} has no patch", hint=f"see how it ended: gloveport show {found.id}")
    return found
