"""Where every operation on a sandbox is decided and recorded: a backend that wraps a backend."""

from __future__ import annotations

import copy
import hashlib
import itertools
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gloveport.backends.base import Backend, ChangeSet, Process
from gloveport.errors import GloveportError, PolicyDenied
from gloveport.model import (
    Asked,
    Base,
    Chunk,
    Decision,
    EventKind,
    ExecRequest,
    Exit,
    Limits,
    OutputStream,
    Plan,
    Policy,
    Probe,
    QuestionKind,
    Ref,
    SandboxStatus,
    TerminalSize,
    Verdict,
)
from gloveport.model.plan import digest_plan
from gloveport.policy import decide_exec, decide_path, enforce
from gloveport.policy.commands.index import ExecIndex
from gloveport.policy.commands.lists import unanswered
from gloveport.policy.decide import check_environment
from gloveport.policy.security import SecurityManager, ToolRequest, asked_tool
from gloveport.sandbox.approvals import Window
from gloveport.sandbox.calls import OpenCalls
from gloveport.sandbox.workspace_digest import Difference, WorkspaceDigest
from gloveport.store import Draft, Trail

__all__ = ["RECORDED_OUTPUT", "Recorder"]

RECORDED_OUTPUT = 4096
"""Bytes of each output stream that the trail keeps; the whole stream is there as a digest and a length."""
_RECORDED_CHANGES = 1000
"""Changed paths that the trail lists; all of them are there as a digest and a number."""


class Recorder:
    """Wraps the backend of one sandbox. Whatever door a call comes through, it passes here once.

    An exec is announced in the trail before it starts and its end is recorded after; so are files that are written,
    once they are. What was read or listed is recorded when it was; a refused operation leaves its decision.
    """

    def __init__(self, backend: Backend, trail: Trail) -> None:
        self.name = backend.name
        self.trail = trail
        self._backend = backend
        self._limits = Limits()
        self._env: Mapping[str, str] = {}
        self._env_bytes = 0
        self._execs = itertools.count(1)
        self._call: Mapping[str, str] = {}
        self.open_calls = OpenCalls()
        self.save: Callable[[], Awaitable[str]] | None = None
        """Saves the sandbox before each tool call that may change something; the snapshot's id."""
        self._workspace = WorkspaceDigest()
        self._policy = Policy()
        self._index = ExecIndex(self._policy)
        self._window: Window | None = None
        self._security = self._guard("")

    def ask_at(self, window: Window) -> None:
        """Let what the policy asks about wait there. Until then, and without, it is denied."""
        self._window = window

    def during(self, call: str) -> Recorder:
        """The same recorder for what one tool call does: every record of it names the call, if that has an id."""
        view = copy.copy(self)
        view._call = {"call": call} if call else {}  # noqa: SLF001 - one of this class
        return view

    async def look(self, ref: Ref) -> Difference:
        """How the workspace differs from its first state. Nothing is recorded here; raises as the digest does."""
        return await self._workspace.look(self._backend, ref)

    def probe(self) -> Probe:
        """The wrapped backend's."""
        return self._backend.probe()

    async def create(self, plan: Plan) -> Ref:
        """Create, with the whole plan in the trail."""
        self._limits = plan.limits
        self._env = plan.env
        self._env_bytes = check_environment(plan.env)
        self._policy = plan.policy
        self._index = ExecIndex(plan.policy)
        self._security = self._guard(plan.sandbox)
        body = plan.to_json()
        self.trail.append(
            EventKind.SANDBOX_CREATED,
            {"sandbox": plan.sandbox, "backend": self.name, "plan": body, "digest": digest_plan(body)},
        )
        try:
            return await self._backend.create(plan)
        except BaseException as error:
            self.trail.append(EventKind.SANDBOX_FAILED, {"sandbox": plan.sandbox, **_failure(error)})
            raise

    async def status(self, ref: Ref) -> SandboxStatus:
        """The wrapped backend's; looking is not recorded."""
        return await self._backend.status(ref)

    async def refs(self) -> Sequence[Ref]:
        """The wrapped backend's."""
        return await self._backend.refs()

    async def exec(self, ref: Ref, request: ExecRequest) -> Process:
        """Decide, if need be with a person, announce, start."""
        number = next(self._execs)
        facts = {"sandbox": ref.id, "exec": number, "argv": list(request.argv), "cwd": request.cwd, **self._call}
        if request.builtin or request.shown_as is not None:
            facts["shown_as"] = request.shown_as or ""
        decision = decide_exec(
            request, self._limits, self._env, self._policy, env_bytes=self._env_bytes, index=self._index
        )
        if decision.verdict is Verdict.ASK:
            decision = await self._ask_exec(decision, facts)
        self._decide(decision, facts)
        self.trail.append(EventKind.EXEC_STARTED, facts)
        try:
            process = await self._backend.exec(ref, request)
        except BaseException as error:
            self.trail.append(
                EventKind.EXEC_ENDED, {"sandbox": ref.id, "exec": number, **self._call, **_failure(error)}
            )
            raise
        return _RecordedProcess(process, self.trail, {"sandbox": ref.id, "exec": number, **self._call})

    async def read(self, ref: Ref, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Decide, read, record the size and digest."""
        self._decide(decide_path(path, write=False), {"sandbox": ref.id, "read": path, **self._call})
        data = await self._backend.read(ref, path, offset=offset, length=length)
        self.trail.append(
            EventKind.FILE_READ,
            {"sandbox": ref.id, "path": path, "bytes": len(data), "sha256": _digest(data), **self._call},
        )
        return data

    async def write(self, ref: Ref, path: str, data: bytes, *, mode: int | None = None) -> None:
        """Decide, write, record the size and digest."""
        facts = {"sandbox": ref.id, "path": path, "bytes": len(data), "sha256": _digest(data), **self._call}
        self._decide(
            decide_path(path, write=True, policy=self._policy), {"sandbox": ref.id, "write": path, **self._call}
        )
        try:
            await self._backend.write(ref, path, data, mode=mode)
        except BaseException as error:
            self.trail.append(EventKind.FILE_WRITTEN, facts | _failure(error))
            raise
        self.trail.append(EventKind.FILE_WRITTEN, facts)

    async def delete(self, ref: Ref) -> None:
        """Delete, and say so."""
        await self._backend.delete(ref)
        self.trail.append(EventKind.SANDBOX_DELETED, {"sandbox": ref.id})

    async def egress(self, ref: Ref) -> socket.socket:
        """The wrapped backend's: every connection on it is recorded by the proxy."""
        return await self._backend.egress(ref)

    async def sweep(self) -> None:
        """The wrapped backend's; it touches no sandbox that anybody holds."""
        await self._backend.sweep()

    async def pause(self, ref: Ref) -> None:
        """The wrapped backend's."""
        await self._backend.pause(ref)

    async def resume(self, ref: Ref) -> None:
        """The wrapped backend's."""
        await self._backend.resume(ref)

    async def changes(self, ref: Ref) -> ChangeSet:
        """List what changed, and record the beginning of the list, its length and a digest of every path in it."""
        found = await self._backend.changes(ref)
        listed = [{"path": change.path, "kind": change.kind} for change in found.changes[:_RECORDED_CHANGES]]
        paths = b"".join(os.fsencode(change.path) + b"\0" for change in found.changes)
        self.trail.append(
            EventKind.CHANGES,
            {"sandbox": ref.id, "changes": listed, "total": len(found.changes), "sha256": _digest(paths)},
        )
        return found

    async def snapshot(self, ref: Ref, draft: Draft) -> Base:
        """The wrapped backend's; whoever gives it its name records it."""
        return await self._backend.snapshot(ref, draft)

    async def reset(self, ref: Ref, plan: Plan) -> None:
        """Reset, with what the sandbox stands on from here on in the trail."""
        facts = {"sandbox": ref.id, "plan": plan.to_json(), "digest": plan.digest()}
        try:
            await self._backend.reset(ref, plan)
        except BaseException as error:
            self.trail.append(EventKind.SANDBOX_RESET, facts | _failure(error))
            raise
        self._workspace = WorkspaceDigest()
        self.trail.append(EventKind.SANDBOX_RESET, facts)

    async def check_tool(self, request: ToolRequest) -> None:
        """Raise `PolicyDenied`, with the refusal in the trail, for a tool call that the policy does not let through.

        It waits where the policy asks. What a command line runs is decided once: where it starts, by `exec`.
        """
        request = replace(request, call=self._call.get("call", ""))
        decision = self._security.decide(request)
        if decision.verdict is Verdict.ASK:
            decision, grant = await self._ask(decision, asked_tool(request))
            if grant:
                facts = {"verdict": "allow", "rule": decision.rule, "reason": decision.reason, "grant": grant}
                where = {"sandbox": self._sandbox, "tool": request.tool, **self._call}
                self.trail.append(EventKind.DECISION, {**where, **facts})
        enforce(self._security.settle(request, decision).decision, request.tool)

    async def _ask_exec(self, decision: Decision, facts: dict[str, Any]) -> Decision:
        asked = Asked(kind=QuestionKind.EXEC, name=decision.subject)
        decision, grant = await self._ask(decision, asked)
        if grant:
            facts["grant"] = grant
        return decision

    async def _ask(self, decision: Decision, asked: Asked) -> tuple[Decision, str]:
        """The answer, and the id of the grant that it is; one that holds once is used up by it."""
        if self._window is None:
            return unanswered(decision), ""
        decision, grant = await self._window.ask(decision, asked)
        if grant is None:
            return decision, ""
        self._window.ended(grant.id)
        return decision, grant.id

    def _guard(self, sandbox: str) -> SecurityManager:
        self._sandbox = sandbox
        return SecurityManager(
            self._policy,
            commands=False,
            audit=lambda facts: self.trail.append(EventKind.DECISION, {"sandbox": sandbox, **facts}),
        )

    def _decide(self, decision: Decision, facts: Mapping[str, Any]) -> None:
        decision = unanswered(decision)
        try:
            enforce(decision, "refused")
        except PolicyDenied:
            self.trail.append(
                EventKind.DECISION,
                {**facts, "verdict": decision.verdict, "rule": decision.rule, "reason": decision.reason},
            )
            raise


class _RecordedProcess:
    """Passes a process through, and records how it ended and what it said."""

    def __init__(self, process: Process, trail: Trail, facts: dict[str, Any]) -> None:
        self._process = process
        self._trail = trail
        self._facts = facts
        self._seen: dict[OutputStream, _Seen] = {}
        self._recorded = False

    @property
    def pid(self) -> int:
        return self._process.pid

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        async for chunk in self._process:
            seen = self._seen.get(chunk.stream)
            if seen is None:
                seen = self._seen[chunk.stream] = _Seen()
            seen.add(chunk.data)
            yield chunk

    async def send(self, data: bytes) -> None:
        await self._process.send(data)

    async def close_stdin(self) -> None:
        await self._process.close_stdin()

    async def signal(self, signum: int, *, tree: bool = True) -> None:
        await self._process.signal(signum, tree=tree)

    async def resize(self, size: TerminalSize) -> None:
        await self._process.resize(size)

    async def wait(self) -> Exit:
        try:
            ended = await self._process.wait()
        except BaseException as error:
            self._record(_failure(error))
            raise
        self._record(
            {
                "code": ended.code,
                "signal": ended.signal,
                "duration": round(ended.duration, 6),
                "timed_out": ended.timed_out,
                "oom": ended.oom,
                "disk_full": ended.disk_full,
                "truncated": ended.truncated,
                "dropped": {"stdout": ended.dropped_stdout, "stderr": ended.dropped_stderr},
            }
        )
        return ended

    def _record(self, how: Mapping[str, Any]) -> None:
        if self._recorded:
            return
        self._recorded = True
        output = {str(stream): seen.summary() for stream, seen in self._seen.items()}
        self._trail.append(EventKind.EXEC_ENDED, {**self._facts, **how, "output": output})


class _Seen:
    """The digest, the size and the beginning of one output stream."""

    __slots__ = ("_hash", "_head", "size")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._head = b""
        self.size = 0

    def add(self, data: bytes) -> None:
        self._hash.update(data)
        if self.size < RECORDED_OUTPUT:
            self._head += data[: RECORDED_OUTPUT - self.size]
        self.size += len(data)

    def summary(self) -> dict[str, Any]:
        return {
            "bytes": self.size,
            "sha256": self._hash.hexdigest(),
            "head": self._head.decode("utf-8", "replace"),
            "truncated": self.size > RECORDED_OUTPUT,
        }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _failure(error: BaseException) -> dict[str, Any]:
    if isinstance(error, GloveportError):
        return {"error": error.code, "message": error.message}
    return {"error": "cancelled" if not isinstance(error, Exception) else "internal", "message": str(error)}
