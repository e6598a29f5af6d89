"""The table of commands, and the way from the command line to one of them and to an exit status."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

from gloveport.cli.output import print_error
from gloveport.errors import GloveportError, Internal, LimitExceeded

__all__ = ["COMMANDS", "Row", "main"]


class Row(NamedTuple):
    """One command: where its function is, as `module:function`, and what it is for."""

    where: str
    purpose: str


COMMANDS: Mapping[str, Row] = {
    "run": Row("gloveport.cli.run:command", "Let an agent work on a repository, in a sandbox."),
    "runs": Row("gloveport.cli.runs:command", "List the runs."),
    "show": Row("gloveport.cli.show:command", "Show a run."),
    "apply": Row("gloveport.cli.apply:command", "Apply a run's patch to your files."),
    "replay": Row("gloveport.cli.replay:command", "Carry out recorded tool calls again, and compare."),
    "export": Row("gloveport.cli.export:command", "Write a trajectory in the format of other tools."),
    "score": Row("gloveport.cli.score:command", "Score how a trajectory went, by a rubric."),
    "verify": Row("gloveport.cli.verify:command", "Check that the records of a run or a sandbox were not altered."),
    "create": Row("gloveport.cli.create:command", "Make a sandbox."),
    "snapshot": Row("gloveport.cli.snapshot:command", "Save the files of a sandbox."),
    "snapshots": Row("gloveport.cli.snapshots:command", "List what sandboxes were saved as."),
    "save": Row("gloveport.cli.save:command", "Write a snapshot as one file."),
    "load": Row("gloveport.cli.load:command", "Take in a snapshot from a file."),
    "restore": Row("gloveport.cli.restore:command", "Make a sandbox of a snapshot."),
    "fork": Row("gloveport.cli.fork:command", "Make more sandboxes that begin where one is."),
    "reset": Row("gloveport.cli.reset:command", "Put a sandbox back to its beginning, or to a snapshot."),
    "prune": Row("gloveport.cli.prune:command", "Remove snapshots that nothing stands on."),
    "exec": Row("gloveport.cli.exec:main", "Run a command or a tool in a sandbox."),
    "once": Row("gloveport.cli.once:main", "Run one command under a policy, and leave nothing."),
    "shell": Row("gloveport.cli.shell:command", "Open a shell in a sandbox."),
    "ps": Row("gloveport.cli.ps:command", "List what runs detached in a sandbox."),
    "list": Row("gloveport.cli.list:command", "List the sandboxes."),
    "logs": Row("gloveport.cli.logs:command", "Print what was done in a sandbox."),
    "diff": Row("gloveport.cli.diff:command", "Print what a run, or a sandbox, changed."),
    "approvals": Row("gloveport.cli.approvals:command", "Answer what sandboxes ask; list and take back grants."),
    "mcp": Row("gloveport.mcp.entry:main", "Serve sandboxes to clients of the Model Context Protocol."),
    "rm": Row("gloveport.cli.rm:command", "Delete sandboxes."),
    "plan": Row("gloveport.cli.plan:command", "Print what create would do."),
    "policy": Row("gloveport.cli.policy:command", "Check a policy, or ask which of its rules decides."),
    "eval": Row("gloveport.cli.eval:command", "Let agents try fixed tasks, and say how well they did."),
    "doctor": Row("gloveport.cli.doctor:command", "Examine this host."),
    "runner": Row("gloveport.cli.runner:command", "Show or stop the runner."),
    "version": Row("gloveport.cli.version:command", "Print the version."),
}
"""The commands; each module is imported when it is invoked. To add one: a module, and a line."""

_FAST = frozenset({"exec", "mcp", "once"})
"""Commands that read their own arguments: typer takes longer to import than an exec takes."""
_APPLICATION = "gloveport.cli.application:run"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN_PIPE = 128 + signal.SIGPIPE
_INTERRUPTED = 128 + signal.SIGINT

Face = Callable[[Sequence[str]], int]
"""Takes arguments, does what they say, returns an exit status."""


def main() -> None:
    """Do what this process's arguments say, and exit with the status that `docs/reference/cli.md` lists."""
    words = sys.argv[1:]
    if words and words[0] in _FAST:
        sys.exit(_guarded(COMMANDS[words[0]].where, words[1:]))
    sys.exit(_guarded(_APPLICATION, words))


def _guarded(where: str, words: Sequence[str]) -> int:
    as_json = "--json" in words[: words.index("--") if "--" in words else None]
    try:
        module, _, function = where.partition(":")
        face = cast("Face", getattr(importlib.import_module(module), function))
        status = face(words)
        sys.stdout.flush()
    except GloveportError as error:
        return print_error(error, as_json=as_json)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # whoever read it is gone
        return _BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the last frame of the program
        if isinstance(error, OSError) and error.errno in _FULL:
            _drop_output()
            return print_error(_full(error), as_json=as_json)
        return print_error(_unexpected(error), as_json=as_json)
    return status


def _drop_output() -> None:
    """Keep the interpreter from flushing the rest of the output once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _full(error: OSError) -> LimitExceeded:
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "where the output goes"
    return LimitExceeded(f"{where}: {os.strerror(error.errno or 0)}", hint="make room there, then repeat the command")


def _unexpected(error: Exception) -> Internal:
    if os.environ.get("GLOVEPORT_DEBUG"):
        traceback.print_exception(error)
    return Internal(
        f"unexpected {type(error).__name__}: {error}",
        hint="please report this, with what GLOVEPORT_DEBUG=1 prints when you repeat the command",
    )
