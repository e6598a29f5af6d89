"""`gloveport apply`: a run's patch, applied to a tree of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio
import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import note, print_json
from gloveport.cli.show import RunArgument
from gloveport.errors import InvalidRequest, NotFound
from gloveport.jobs import find_run
from gloveport.policy.files.protected import Protection
from gloveport.sandbox.apply import apply_patch
from gloveport.settings import Settings

__all__ = ["command"]


def command(
    run: RunArgument,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="The tree. [default: the run's repository]")] = None,
    allow_protected: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Apply this protected path too, as the refusal names it. Repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a run's patch fits, then apply it: all of it or nothing.

    Files that this host acts on by itself (start-up files of shells, hooks, settings of editors and agents) are refused
    until each is named with --allow-protected: look at them first, with gloveport diff.
    """
    directory = find_run(Settings.load().data, run)
    summary = directory.summary()
    if to is None and (not summary.repo or not Path(summary.repo).is_dir()):
        raise InvalidRequest(
            f"run {summary.id} worked on {summary.repo or 'an empty workspace'}, which is no directory here",
            hint="name the tree to change with --to DIR",
        )
    if not directory.patch.is_file():
        raise NotFound(f"run {summary.id} has no patch", hint=f"see how it ended: gloveport show {summary.id}")
    tree = to if to is not None else Path(summary.repo)
    patch = directory.patch.read_bytes()
    protection = Protection(patterns=summary.protected, allowed=frozenset(allow_protected or ()))
    anyio.run(apply_patch, patch, tree.absolute(), protection)
    if as_json:
        print_json({"run": summary.id, "tree": str(tree), "changed": list(summary.changed)})
    elif not patch:
        note("the patch is empty: nothing to apply")
    else:
        note(f"applied to {tree}: {', '.join(summary.changed)}")
