"""`gloveport eval`: let agents try fixed tasks, and say how well they did."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.console import Console

from gloveport.cli.eval_table import Progress, open_console, print_comparison, print_evaluation
from gloveport.cli.interruption import ended_by
from gloveport.cli.options import JsonOption
from gloveport.cli.texts import parse_env
from gloveport.compose_evaluation import carry_on, replay_request, request_for, write_page
from gloveport.errors import STATUSES, InvalidRequest, Unauthenticated
from gloveport.evaluate import Book, Result, Verdict, find_book, load_suite, open_book
from gloveport.evaluate.compare import Change, compare
from gloveport.model import new_id
from gloveport.sandbox.approvals import ASK_SECONDS
from gloveport.settings import Settings

__all__ = ["command"]

_INCOMPLETE = STATUSES["backend_unavailable"].exit
_LEVELS = ("R2", "R3")
_USAGE = "one of: eval SUITE, eval resume E, eval replay E, eval show E, eval diff A B"


def command(
    words: Annotated[
        list[str],
        typer.Argument(metavar="SUITE | resume E | replay E | show E | diff A B", help="A suite, or an evaluation."),
    ],
    attempts: Annotated[int, typer.Option(min=1, metavar="N", help="Attempts at each task.")] = 1,
    task: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this task. Repeatable.")] = None,
    at_a_time: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Attempts at a time. [default: one a CPU]")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model. [default: the kit's]")] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Let the tasks' scripts play the model; 1 unless each is judged right.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to keep it. [default: the data directory]")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="With resume: make attempts anew whose infrastructure failed.")
    ] = False,
    level: Annotated[
        str, typer.Option(metavar="LEVEL", help="With replay: R2, the tool calls again; R3, the agent itself.")
    ] = "R2",
    significant: Annotated[
        float | None, typer.Option(metavar="P", help="With diff: only what the sign test says is worse, at this level.")
    ] = None,
    read_only: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Show this host path too, read-only. Repeatable.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable of every process. Repeatable.")
    ] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Wait for gloveport approvals where a policy asks.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Let agents try the tasks of a suite, judge them by checks they cannot see, and print a table.

    gloveport eval examples/suite --self-test
    gloveport eval my-suite --attempts 3
    gloveport eval resume last
    gloveport eval replay last
    gloveport eval diff calm-heron-5b21c0 last
    """
    settings = Settings.load()
    shown = _Shown(open_console(), as_json)
    place = output or settings.data / "evaluations" / new_id()
    match words:
        case ["diff", before, after]:
            return _diff([find_book(settings.data, name) for name in (before, after)], significant, shown)
        case ["show", name]:
            book = find_book(settings.data, name)
            results = book.results()
            write_page(book, results)
            return shown.evaluation(book, results)
        case ["resume", name]:
            book = find_book(settings.data, name)
        case ["replay", name]:
            if level.upper() not in _LEVELS:
                raise InvalidRequest(f"no level {level!r}", hint=f"one of: {', '.join(_LEVELS)}")
            book = open_book(place, replay_request(find_book(settings.data, name), level.upper()))
        case [suite]:
            asked = request_for(
                load_suite(Path(suite), tuple(task or ())),
                attempts=attempts,
                scripted=self_test,
                model=model,
                read_only=[str(path.absolute()) for path in read_only or ()],
                env=parse_env(env or ()),
            )
            _check_key(settings, scripted=self_test)
            book = open_book(place, asked)
        case _:
            raise InvalidRequest(f"not understood: eval {' '.join(words)}", hint=_USAGE)
    request = book.request()
    _check_key(settings, scripted=request.scripted or request.replay is not None)
    at_once = at_a_time or os.cpu_count() or 1
    progress = Progress(book, as_json=as_json)
    results = anyio.run(_carry_on, book, settings, at_once, again, ASK_SECONDS if ask else 0.0, progress)
    return shown.evaluation(book, results)


@dataclass(frozen=True, slots=True)
class _Shown:
    console: Console
    as_json: bool

    def evaluation(self, book: Book, results: Sequence[Result]) -> int:
        print_evaluation(book, results, self.console, as_json=self.as_json)
        if any(result.as_expected is False for result in results):
            return 1
        of_platform = [each for each in results if each.verdict is Verdict.INFRASTRUCTURE and each.as_expected is None]
        return _INCOMPLETE if of_platform else 0


def _diff(books: Sequence[Book], significant: float | None, shown: _Shown) -> int:
    found = compare(*books)
    print_comparison(found, shown.console, as_json=shown.as_json)
    if found.regressed if significant is None else found.regressed_significantly(significant):
        return 1
    return _INCOMPLETE if found.count(Change.UNKNOWN) else 0


def _check_key(settings: Settings, *, scripted: bool) -> None:
    if not scripted and settings.api_key is None and settings.auth_token is None:
        raise Unauthenticated(
            "no key for the model",
            hint="set ANTHROPIC_API_KEY, or let scripts play it: gloveport eval SUITE --self-test",
        )


async def _carry_on(
    book: Book, settings: Settings, at_a_time: int, again: bool, ask_seconds: float, progress: Progress
) -> list[Result]:
    async with ended_by(signal.SIGTERM):
        return await carry_on(book, settings, at_a_time=at_a_time, again=again, ask_seconds=ask_seconds, watch=progress)
    raise KeyboardInterrupt
