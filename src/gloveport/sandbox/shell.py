"""A persistent shell: one bash that keeps its directory, variables and functions between commands."""

from __future__ import annotations

import re
import secrets
import signal
from dataclasses import dataclass, field, replace

import anyio

from gloveport.backends.base import Process
from gloveport.model import ExecRequest, ExecResult, Exit, OutputStream
from gloveport.policy import check_bounds, encode_text
from gloveport.sandbox.background import lasting
from gloveport.sandbox.finish import end
from gloveport.sandbox.manager import Held

__all__ = ["Shell"]

_GRACE_SECONDS = 2.0
_STATUS = re.compile(rb"(\d{1,3})\n")
_LONGEST_STATUS = 4


@dataclass(slots=True)
class _Stream:
    """Cuts one output stream at the marker that ends a command, and keeps its first `most` bytes."""

    marker: bytes
    most: int
    kept: bytearray = field(default_factory=bytearray)
    dropped: int = 0
    status: int | None = None
    garbled: bool = False
    """Something else than a status follows the marker: the guest plays with its shell."""
    _tail: bytearray = field(default_factory=bytearray)
    """What may be the beginning of the marker."""

    @property
    def ended(self) -> bool:
        return self.garbled or self.status is not None

    def add(self, data: bytes) -> None:
        if self.ended:
            return
        self._tail += data
        at = self._tail.find(self.marker)
        if at < 0:
            self._keep(max(0, len(self._tail) - len(self.marker) + 1))
            return
        self._keep(at)
        rest = self._tail[len(self.marker) :]
        if found := _STATUS.match(rest):
            self.status = int(found[1])
        elif b"\n" in rest or len(rest) >= _LONGEST_STATUS:
            self.garbled = True

    def finish(self) -> None:
        """Nothing more comes: what could have become the marker is output."""
        if not self._tail.startswith(self.marker):
            self._keep(len(self._tail))

    def _keep(self, count: int) -> None:
        fitting = min(count, self.most - len(self.kept))
        self.kept += self._tail[:fitting]
        self.dropped += count - fitting
        del self._tail[:count]


class Shell:
    """Commands run one after another in the same bash. A command reads `/dev/null`.

    A command that runs out of time is interrupted; if bash does not answer after that, or answers nonsense, it is
    killed with all its descendants and replaced, and `restarted` says that directory and variables are lost.
    """

    def __init__(self, held: Held, cwd: str) -> None:
        self.restarted = False
        """Whether the last command cost the shell its state."""
        self._held = held
        self._cwd = cwd
        self._process: Process | None = None
        self._busy = anyio.Lock()

    async def exec(self, command: str, *, timeout: float | None = None, output_bytes: int | None = None) -> ExecResult:
        """Run one command line in the shell; at most `output_bytes` of each stream are kept, the rest is counted.

        `None` is the sandbox's `exec_seconds` and `output_bytes`, as for any exec. Raises `InvalidRequest` for a
        timeout, an amount of output or a command that cannot mean anything.
        """
        check_bounds(timeout, output_bytes)
        limits = self._held.limits
        seconds = limits.exec_seconds if timeout is None else timeout
        most = limits.output_bytes if output_bytes is None else output_bytes
        marker = secrets.token_hex(16).encode()
        script = _script(encode_text(command, "the command"), marker)
        async with self._busy:
            self.restarted = False
            process = self._process or await self._start()
            began = anyio.current_time()
            streams = {name: _Stream(b"\n" + marker, most) for name in OutputStream}
            scope = anyio.CancelScope(deadline=began + seconds)
            try:
                await process.send(script)
                with scope:
                    await _until_marked(process, streams)
            except BaseException:
                await self._replace()
                raise
            timed_out = scope.cancelled_caught
            if timed_out:
                await self._interrupt(process, streams)
            elif not _ended(streams):
                ended = await process.wait()
                self._process, self.restarted = None, True
                return _result(replace(ended, timed_out=False), streams)
            if any(stream.garbled for stream in streams.values()):
                await self._replace()
            status = None if self.restarted else streams[OutputStream.STDOUT].status
            ended = Exit(
                code=status,
                signal=int(signal.SIGKILL) if status is None else None,
                timed_out=timed_out,
                duration=anyio.current_time() - began,
            )
            return _result(ended, streams)

    async def close(self) -> None:
        """End the shell and everything it started; shielded, a few seconds at most."""
        process, self._process = self._process, None
        if process is not None:
            await end(process)

    async def _start(self) -> Process:
        bash = ExecRequest(argv=("/bin/bash", "--norc", "--noprofile"), cwd=self._cwd, stdin=True)
        self._process = await self._held.backend.exec(self._held.ref, lasting(bash, self._held.limits))
        # An interrupt then ends the command in the foreground, and bash goes on.
        await self._process.send(b"trap : INT\n")
        return self._process

    async def _interrupt(self, process: Process, streams: dict[OutputStream, _Stream]) -> None:
        with anyio.move_on_after(_GRACE_SECONDS):
            await process.signal(signal.SIGINT)
            await _until_marked(process, streams)
        if not _ended(streams):
            await self._replace()

    async def _replace(self) -> None:
        await self.close()
        self.restarted = True


def _script(command: bytes, marker: bytes) -> bytes:
    """`command` as a here-document that bash evaluates in itself, then the marker on both streams.

    `builtin`, because a command may define functions named `read`, `eval` or `printf`.
    """
    end = secrets.token_hex(16).encode()
    return (
        b"{ IFS= builtin read -r -d '' GLOVEPORT_COMMAND || :; } <<'" + end + b"'\n" + command + b"\n" + end + b"\n"
        b'builtin eval "$GLOVEPORT_COMMAND" </dev/null; '
        b"{ builtin printf '\\n%s%d\\n' " + marker + b' "$?"; builtin printf '
        b"'\\n%s0\\n' " + marker + b" >&2; }\n"
    )


async def _until_marked(process: Process, streams: dict[OutputStream, _Stream]) -> None:
    async for chunk in process:
        streams[chunk.stream].add(chunk.data)
        if _ended(streams):
            return


def _ended(streams: dict[OutputStream, _Stream]) -> bool:
    """Whether the command is over on both streams, or bash's word on either is nonsense."""
    return all(stream.ended for stream in streams.values()) or any(stream.garbled for stream in streams.values())


def _result(ended: Exit, streams: dict[OutputStream, _Stream]) -> ExecResult:
    out, err = streams[OutputStream.STDOUT], streams[OutputStream.STDERR]
    for stream in (out, err):
        stream.finish()
    return ExecResult(
        exit=replace(ended, dropped_stdout=out.dropped, dropped_stderr=err.dropped),
        stdout=bytes(out.kept),
        stderr=bytes(err.kept),
    )
