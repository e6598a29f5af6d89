"""The composition root of evaluations: who makes attempts, and who judges them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import anyio.to_thread

from gloveport.compose_evaluation.attempts import Attempts, Watch
from gloveport.compose_evaluation.replays import Replays
from gloveport.errors import NotFound
from gloveport.evaluate.book import Book, Request
from gloveport.evaluate.evaluation import CarryOut, evaluate
from gloveport.evaluate.page import make_page
from gloveport.evaluate.result import Result
from gloveport.evaluate.suite import Suite, load_suite
from gloveport.evaluate.table import make_table
from gloveport.listen.desk import open_desk
from gloveport.sandbox import Manager
from gloveport.settings import Settings

__all__ = ["Attempts", "Replays", "Watch", "carry_on", "replay_request", "request_for", "write_page"]

_NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


def request_for(
    suite: Suite,
    *,
    attempts: int = 1,
    scripted: bool = False,
    model: str | None = None,
    read_only: Sequence[str] = (),
    env: Mapping[str, str] = _NO_VARIABLES,
) -> Request:
    """What an evaluation of `suite` is to find out. Raises `NotFound` where scripts are wanted and there are none."""
    if scripted and not any(task.document.scripts for task in suite.tasks):
        raise NotFound(f"no task of {suite.path} has a script", hint="write [scripts.NAME] in its task.toml")
    return Request(
        suite=str(suite.path),
        tasks={task.name: task.digest for task in suite.tasks},
        attempts=attempts,
        scripted=scripted,
        model=model,
        version=version("gloveport"),
        read_only=tuple(read_only),
        env=dict(env),
    )


def replay_request(recorded: Book, level: str = "R2") -> Request:
    """What replaying an evaluation is to find out: whether its attempts still come out as they did."""
    return replace(recorded.request(), replay=str(recorded.path), level=level, version=version("gloveport"))


async def carry_on(
    book: Book,
    settings: Settings,
    *,
    at_a_time: int = 1,
    again: bool = False,
    ask_seconds: float = 0.0,
    watch: Watch | None = None,
) -> list[Result]:
    """Make the attempts that `book` lacks, and its report; all its results.

    What a task's policy asks about waits `ask_seconds` for `gloveport approvals`; with 0 it is denied at once.
    """
    request = book.request()
    suite = load_suite(Path(request.suite), tuple(request.tasks))
    heard = watch or Watch()
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(Manager(settings, ask_seconds=ask_seconds))
        if ask_seconds > 0:
            await stack.enter_async_context(open_desk(manager.approvals, book.id, settings))
        results = await evaluate(
            book,
            suite,
            await _carry_out(manager, request, heard),
            cache=settings.data / "repositories" / "suites",
            at_a_time=at_a_time,
            again=again,
            heard=heard.result,
        )
    write_page(book, results)
    return results


def write_page(book: Book, results: Sequence[Result]) -> None:
    """The report of an evaluation, beside its results."""
    request = book.request()
    models = sorted({result.model for result in results if result.model})
    facts = {
        "suite": request.suite,
        "Gloveport": request.version,
        "attempts at each": str(request.attempts),
        "replays": request.replay or "-",
        "model": "scripts" if request.scripted else ", ".join(models) or request.model or "?",
    }
    book.write(book.page.name, make_page(f"Evaluation {book.id}", facts, make_table(results), results))


async def _carry_out(manager: Manager, request: Request, watch: Watch) -> CarryOut:
    attempts = Attempts(manager, request, watch)
    if request.replay is None:
        return attempts.carry_out
    results = await anyio.to_thread.run_sync(Book(Path(request.replay)).results)
    return Replays(attempts, {(result.case, result.number): result for result in results}, request.level).carry_out
