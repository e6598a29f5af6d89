"""What is run inside a sandbox and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from gloveport.model.spec import WORKSPACE

__all__ = ["MOST_ARGUMENTS", "Chunk", "ExecRequest", "ExecResult", "Exit", "OutputStream", "TerminalSize"]

MOST_ARGUMENTS = 4_096
"""Arguments of one exec; and its variables, the sandbox's own included."""


class OutputStream(StrEnum):
    """Which output a chunk belongs to. A terminal has only `stdout`."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Rows and columns of a terminal, 1 to 65,535 each."""

    rows: int = 24
    columns: int = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest:
    """One command: `argv` as it is, no shell."""

    argv: tuple[str, ...]
    """Program and arguments. Bytes that are not UTF-8 are spelt with surrogate escapes (`os.fsdecode`)."""
    cwd: str = WORKSPACE
    """Absolute directory in the guest."""
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Variables beside the sandbox's own; these win."""
    stdin: bool = False
    """Whether standard input is open for `Process.send`; `/dev/null` otherwise."""
    terminal: TerminalSize | None = None
    """A pseudo-terminal of this size instead of pipes; implies `stdin`."""
    timeout: float | None = None
    """Wall time in seconds; `None` is the sandbox's `exec_seconds`."""
    output_bytes: int | None = None
    """Bytes kept of each stream; `None` is the sandbox's `output_bytes`."""
    shown_as: str | None = None
    """How summaries show the command, where `argv` wraps it; empty hides it there. The trail always has `argv`."""
    builtin: bool = False
    """`argv` names one of guestd's own functions, such as `stat` (`docs/reference/guestd-protocol.md`)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some bytes of a process's output, in order."""

    stream: OutputStream
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended. Exactly one of `code` and `signal` is set."""

    code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    """The platform killed it because its wall time ran out."""
    oom: bool = False
    """It was killed because the sandbox passed its memory limit.

    Where a control group keeps the limit, the kernel counts its kills but does not name the killed. So there it is
    true when that count rose while the command ran and it died by SIGKILL, or ended with 137 as a shell does whose last
    command was killed, and neither its time, the disk limit nor a signal from the host explains that. A kill that
    the command hides behind another status, as `make` does, is not reported; and of commands that ran at the same
    time, one that killed itself when another was out of memory is reported too.
    """
    disk_full: bool = False
    """It was killed because the sandbox passed its disk limit."""
    dropped_stdout: int = 0
    """Bytes of standard output beyond the kept ones."""
    dropped_stderr: int = 0
    duration: float = 0.0
    """Seconds from the start to the end, on the host's clock."""

    @property
    def truncated(self) -> bool:
        """Whether some output was dropped."""
        return self.dropped_stdout > 0 or self.dropped_stderr > 0

    @property
    def status(self) -> int:
        """As a shell would say it: the code, or 128 + the signal."""
        if self.code is not None:
            return self.code
        return 128 + (self.signal or 0)

    @property
    def ok(self) -> bool:
        """Exit code 0, with nothing cut short by a limit of time, memory or disk."""
        return self.code == 0 and not (self.timed_out or self.oom or self.disk_full)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """A finished command with the output that was kept."""

    exit: Exit
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether the command succeeded (`Exit.ok`)."""
        return self.exit.ok

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 appear as U+FFFD."""
        return self.stdout.decode("utf-8", "replace")
