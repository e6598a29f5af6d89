"""`gloveport show`: one run, condensed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gloveport.cli.options import JsonOption
from gloveport.cli.output import local_time, plain, print_json
from gloveport.jobs import RunDirectory, find_run
from gloveport.settings import Settings
from gloveport.store import read_trail
from gloveport.trajectory import CommandRun, digest_events

__all__ = ["RunArgument", "command", "print_summary"]

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run: its id, the first letters of it, or `last`.")]

_WIDTH = 100
_WARNINGS = 20


def command(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show one run: how it ended, what it cost, the commands with their results, the changed files."""
    directory = find_run(Settings.load().data, run)
    if as_json:
        digest = digest_events(read_trail(directory.trajectory))
        print_json(asdict(directory.summary()) | {"directory": str(directory.path), "digest": asdict(digest)})
        return
    print_summary(directory, Console(highlight=False))


def print_summary(directory: RunDirectory, console: Console) -> None:
    """What a person wants to know of a run, on one screen."""
    summary = directory.summary()
    digest = digest_events(read_trail(directory.trajectory))
    style = "green" if summary.state == "succeeded" else "red"
    console.print(Text.assemble(("Run      ", "bold"), summary.id, "  ", (str(summary.state), style)))
    tokens = summary.usage.input_tokens + summary.usage.output_tokens
    consumed = (
        f"{summary.model or '?'}: {digest.turns} turns, {digest.tool_calls} tool calls ({digest.refused} refused), "
        f"{tokens} tokens, ${summary.usage.cost:.4f}{'' if summary.usage.priced else ' and models of unknown price'}"
    )
    facts = [
        ("Reason", f"{summary.reason}: {summary.message}" if summary.reason else ""),
        ("Asked", summary.prompt),
        ("On", f"{summary.repo}{f' @ {summary.commit}' if summary.commit else ''}"),
        ("Started", f"{local_time(summary.started_at)}, took {summary.duration:.1f} s"),
        ("Model", consumed),
        ("Tests", "" if summary.test is None else f"{summary.test} → exit {summary.test_status}"),
        ("Changed", ", ".join(summary.changed) or "nothing"),
    ]
    for name, text in facts:
        if text:
            console.print(Text.assemble((f"{name:<9}", "bold"), plain(text)), soft_wrap=True)
    _print_warnings(summary.warnings, console)
    if digest.commands:
        console.print(Text("Commands", "bold"))
        for number, done in enumerate(digest.commands, 1):
            console.print(_command_line(number, done), soft_wrap=True)
    if summary.answer:
        console.print(Text("Answer", "bold"))
        console.print(plain(summary.answer), markup=False, soft_wrap=True)
    console.print(Text.assemble(("Files    ", "bold"), str(directory.path)), soft_wrap=True)
    console.print(Text(f"         gloveport diff {summary.id} | gloveport apply {summary.id}", "dim"), soft_wrap=True)


def _print_warnings(warnings: Sequence[str], console: Console) -> None:
    """Each on a line of its own, whatever the names in it hold."""
    for number, warning in enumerate(warnings[:_WARNINGS]):
        text = " ".join(plain(warning).split())
        console.print(Text.assemble((f"{'' if number else 'Look at':<9}", "bold yellow"), text), soft_wrap=True)
    if len(warnings) > _WARNINGS:
        console.print(f"{'':<9}and {len(warnings) - _WARNINGS} more: --json has all", soft_wrap=True)


def _command_line(number: int, done: CommandRun) -> Text:
    text = " ".join(plain(done.text).split())
    shown = text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
    status = "?" if done.status is None else str(done.status)
    remark = f" ({plain(done.remark)})" if done.remark else ""
    style = "green" if done.status == 0 else "yellow"
    return Text.assemble(
        (f"  {number:>2} ", "dim"), (f"exit {status:<4}", style), f"{done.duration:6.1f} s  {shown}{remark}"
    )
