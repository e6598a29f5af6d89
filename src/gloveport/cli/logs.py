"""`gloveport logs`: what was done in a sandbox, also after it is gone."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from gloveport.cli.options import JsonOption, SandboxArgument
from gloveport.cli.output import print_json, write_document
from gloveport.client import connect, encode
from gloveport.model import Event, resolve_id
from gloveport.settings import Settings
from gloveport.store import read_trail

__all__ = ["command"]


def command(
    sandbox: SandboxArgument,
    process: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="The newest output of this detached process instead.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the events of a sandbox, oldest first, also after it is gone; with --json one record a line."""
    settings = Settings.load()
    if process is not None:
        with connect(settings) as runner:
            runner.call("output", id=sandbox, process=process, sink=write_document)
        return
    audit = settings.data / "audit"
    name = resolve_id(sandbox, (path.stem for path in audit.glob("*.jsonl")), noun="sandbox")
    for event in read_trail(audit / f"{name}.jsonl"):
        if as_json:
            print_json(encode(event))
        else:
            sys.stdout.write(_line(event))


def _line(event: Event) -> str:
    """One event on one line. JSON escapes whatever control characters a guest put there."""
    facts = {name: value for name, value in event.data.items() if name != "sandbox"}
    return f"{event.time}  {event.kind:<16}  {json.dumps(facts)}\n"
