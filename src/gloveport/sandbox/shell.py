"""A persistent shell: one bash that keeps its directory, variables and functions between commands."""

from __future__ import annotations

import secrets
import signal
from dataclasses import dataclass, field, replace

import anyio

from gloveport.backends.base import Backend, Process
from gloveport.model import ExecRequest, ExecResult, Exit, OutputStream, Ref

__all__ = ["Shell"]

_GRACE_SECONDS = 2.0
_FOREVER = 2**62
_LONGEST_STATUS = 4


@dataclass(slots=True)
class _Stream:
    """Cuts one output stream at the marker that ends a command."""

    marker: bytes
    data: bytearray = field(default_factory=bytearray)
    status: int | None = None

    def add(self, data: bytes) -> None:
        self.data += data
        at = self.data.find(self.marker, max(0, len(self.data) - len(data) - len(self.marker) - _LONGEST_STATUS))
        if at < 0:
            return
        end = self.data.find(b"\n", at + len(self.marker))
        if end >= 0:
            self.status = int(self.data[at + len(self.marker) : end])
            del self.data[at:]


class Shell:
    """Commands run one after another in the same bash. A command reads `/dev/null`.

    A command that runs out of time is interrupted; if bash does not answer after that, it is killed with all its
    descendants and replaced, and `restarted` says that directory and variables are lost.
    """

    def __init__(self, backend: Backend, ref: Ref, cwd: str) -> None:
        self.restarted = False
        """Whether the last command cost the shell its state."""
        self._backend = backend
        self._ref = ref
        self._cwd = cwd
        self._process: Process | None = None
        self._busy = anyio.Lock()

    async def exec(self, command: str, *, timeout: float | None = None, output_bytes: int = 10 * 2**20) -> ExecResult:
        """Run one command line in the shell; at most `output_bytes` of each stream are returned."""
        async with self._busy:
            self.restarted = False
            process = self._process or await self._start()
            marker = secrets.token_hex(16).encode()
            began = anyio.current_time()
            streams = {name: _Stream(b"\n" + marker) for name in OutputStream}
            await process.send(_script(command, marker))
            scope = anyio.CancelScope(deadline=anyio.current_time() + timeout if timeout else float("inf"))
            try:
                with scope:
                    await _until_marked(process, streams)
            except BaseException:
                await self._replace()
                raise
            timed_out = scope.cancelled_caught
            if timed_out:
                await self._interrupt(process, streams)
            status = streams[OutputStream.STDOUT].status
            if status is None and not timed_out:
                ended = await process.wait()
                self._process, self.restarted = None, True
                return _result(replace(ended, timed_out=False), streams, output_bytes)
            ended = Exit(
                code=status,
                signal=int(signal.SIGKILL) if status is None else None,
                timed_out=timed_out,
                duration=anyio.current_time() - began,
            )
            return _result(ended, streams, output_bytes)

    async def close(self) -> None:
        """End the shell and everything it started in the foreground."""
        if self._process is not None:
            await self._process.signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None

    async def _start(self) -> Process:
        self._process = await self._backend.exec(
            self._ref,
            ExecRequest(
                argv=("/bin/bash", "--norc", "--noprofile"),
                cwd=self._cwd,
                stdin=True,
                timeout=None,
                output_bytes=_FOREVER,
            ),
        )
        # An interrupt then ends the command in the foreground, and bash goes on.
        await self._process.send(b"trap : INT\n")
        return self._process

    async def _interrupt(self, process: Process, streams: dict[OutputStream, _Stream]) -> None:
        with anyio.move_on_after(_GRACE_SECONDS):
            await process.signal(signal.SIGINT)
            await _until_marked(process, streams)
        if streams[OutputStream.STDOUT].status is None:
            await self._replace()

    async def _replace(self) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()
        self.restarted = True


def _script(command: str, marker: bytes) -> bytes:
    """`command` as a here-document that bash evaluates in itself, then the marker on both streams."""
    end = secrets.token_hex(16).encode()
    return (
        b"{ IFS= read -r -d '' GLOVEPORT_COMMAND || :; } <<'"
        + end
        + b"'\n"
        + command.encode("utf-8", "surrogateescape")
        + b"\n"
        + end
        + b"\n"
        b'eval "$GLOVEPORT_COMMAND" </dev/null; '
        b"{ printf '\\n%s%d\\n' " + marker + b' "$?"; printf ' + b"'\\n%s0\\n' " + marker + b" >&2; }\n"
    )


async def _until_marked(process: Process, streams: dict[OutputStream, _Stream]) -> None:
    async for chunk in process:
        streams[chunk.stream].add(chunk.data)
        if all(stream.status is not None for stream in streams.values()):
            return


def _result(ended: Exit, streams: dict[OutputStream, _Stream], most: int) -> ExecResult:
    kept = {name: bytes(stream.data[:most]) for name, stream in streams.items()}
    dropped = {name: max(0, len(stream.data) - most) for name, stream in streams.items()}
    return ExecResult(
        exit=replace(ended, dropped_stdout=dropped[OutputStream.STDOUT], dropped_stderr=dropped[OutputStream.STDERR]),
        stdout=kept[OutputStream.STDOUT],
        stderr=kept[OutputStream.STDERR],
    )
