"""What each verb of the runner's protocol does: one small method a verb, over one manager."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Any

import anyio.abc
import anyio.to_thread

from gloveport import __version__
from gloveport.client.codec import decode, encode
from gloveport.client.wire import PROTOCOL_VERSION
from gloveport.errors import LimitExceeded
from gloveport.listen.connection import Connection
from gloveport.listen.contain import contain
from gloveport.listen.desk import DeskCalls
from gloveport.listen.verbs import Verb, answer, field
from gloveport.model import MIB, ExecRequest, Limits, Plan, Spec
from gloveport.runner.once import Once, run_once
from gloveport.runner.processes import DetachedProcesses, relay
from gloveport.runner.snapshots import SnapshotCalls
from gloveport.sandbox import Held, Manager, Sandbox
from gloveport.sandbox.background import lasting
from gloveport.tools.standard import call_tool

__all__ = ["Calls"]

LARGEST_WRITE = 64 * MIB
"""Bytes that one `write` takes."""

_READ_AT_ONCE = 1 * MIB

_MOST_LISTED = 10_000
"""Paths, and warnings, of a patch that its answer lists; the patch itself has every path."""
_LONGEST_LISTED = 6 * MIB
"""Characters of JSON that either list takes."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the runner knows of a sandbox beside what its manager does."""

    limits: Limits
    processes: DetachedProcesses = dataclass_field(default_factory=DetachedProcesses)


class Calls:
    """The verbs. `tasks` outlives every call: detached processes are read there."""

    def __init__(self, manager: Manager, tasks: anyio.abc.TaskGroup) -> None:
        self._manager = manager
        self._tasks = tasks
        self._kept: dict[str, _Kept] = {}
        self._started_at = time.time()
        self._verbs: Mapping[str, Verb] = {
            **DeskCalls(manager.approvals).verbs,
            **SnapshotCalls(manager).verbs,
            "apply": self._apply,
            "changes": self._changes,
            "create": self._create,
            "delete": self._delete,
            "diff": self._diff,
            "exec": self._exec,
            "fork": self._fork,
            "info": self._info,
            "list": self._list,
            "once": self._once,
            "output": self._output,
            "plan": self._plan,
            "probe": self._probe,
            "processes": self._processes,
            "read": self._read,
            "reset": self._reset,
            "status": self._status,
            "tool": self._tool,
            "write": self._write,
        }

    async def answer(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        """The result of one call. Raises `InvalidRequest` for an unknown verb."""
        return await answer(self._verbs, request, connection)

    async def _info(self, _request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        return {
            "pid": os.getpid(),
            "version": __version__,
            "protocol": PROTOCOL_VERSION,
            "started_at": self._started_at,
            "sandboxes": len(self._manager.held),
        }

    async def _create(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        spec = decode(Spec, field(request, "spec", dict))
        return await self._made(await self._manager.create(spec), spec.limits)

    async def _apply(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        plan = decode(Plan, field(request, "plan", dict))
        return await self._made(await self._manager.apply(plan), plan.limits)

    async def _made(self, held: Held, limits: Limits) -> Mapping[str, Any]:
        self._kept[held.ref.id] = _Kept(limits)
        return {"status": encode(await held.backend.status(held.ref))}

    async def _fork(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        made = await self._manager.fork(field(request, "id", str), field(request, "count", int, 1))
        return {"sandboxes": [(await self._made(held, held.limits))["status"] for held in made]}

    async def _reset(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        try:
            held = await self._manager.reset(field(request, "id", str), field(request, "to", str, None))
        finally:
            for gone in set(self._kept) - {held.ref.id for held in self._manager.held}:
                del self._kept[gone]
        return await self._made(held, held.limits)

    async def _probe(self, _request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        (probe, *_) = await anyio.to_thread.run_sync(self._manager.probes)
        return {"probe": encode(probe)}

    async def _plan(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        plan = await self._manager.plan(decode(Spec, field(request, "spec", dict)))
        return {"plan": plan.to_json(), "digest": plan.digest()}

    async def _list(self, _request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        return {"sandboxes": encode(await self._manager.statuses())}

    async def _status(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        held = self._held(request)
        return {"status": encode(await held.backend.status(held.ref))}

    async def _delete(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        deleted = await self._manager.delete(field(request, "id", str))
        self._kept.pop(deleted, None)
        return {"id": deleted}

    async def _exec(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        held = self._held(request)
        asked = decode(ExecRequest, field(request, "request", dict))
        if field(request, "detach", bool, False):
            return await self._detach(held, asked)
        if asked.terminal is not None:
            asked = lasting(asked, held.limits)
        process = await held.backend.exec(held.ref, asked)
        return {"exit": encode(await relay(process, connection))}

    async def _once(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        once = Once(
            request=decode(ExecRequest, field(request, "request", dict)),
            here=field(request, "here", str),
            directory=field(request, "directory", str),
            policies=field(request, "policies", list),
        )
        return {"exit": encode(await run_once(self._manager, once, connection))}

    async def _detach(self, held: Held, asked: ExecRequest) -> Mapping[str, Any]:
        kept = self._kept[held.ref.id]
        kept.processes.check_room()
        unattended = replace(lasting(asked, held.limits), stdin=False, terminal=None)
        detached = kept.processes.add(asked.argv, await held.backend.exec(held.ref, unattended))
        self._tasks.start_soon(contain, f"detached process {detached.number} of {held.ref.id}", detached.run)
        return {"process": detached.summary()}

    async def _processes(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        kept = self._kept[self._held(request).ref.id]
        return {"processes": [detached.summary() for detached in kept.processes]}

    async def _output(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        kept = self._kept[self._held(request).ref.id]
        detached = kept.processes.get(field(request, "process", int))
        await connection.output(detached.output)
        return {"process": detached.summary()}

    async def _tool(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        sandbox = Sandbox(self._held(request))
        found = await call_tool(sandbox, field(request, "name", str), field(request, "params", dict))
        return {"output": found.output, "error": found.error, "exit_code": found.exit_code}

    async def _read(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        sandbox = Sandbox(self._held(request))
        data = await sandbox.files.read(
            field(request, "path", str),
            offset=field(request, "offset", int, 0),
            length=field(request, "length", int, None),
        )
        await connection.output(data)
        return {"bytes": len(data)}

    async def _write(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        sandbox = Sandbox(self._held(request))
        path, mode = field(request, "path", str), field(request, "mode", int, None)
        data = bytearray()
        while piece := await connection.inbox.input():
            data += piece
            if len(data) > LARGEST_WRITE:
                raise LimitExceeded(
                    f"more than {LARGEST_WRITE // MIB} MiB for {path}", hint="write it with a command, from its input"
                )
            await connection.grant(len(piece))
        await sandbox.files.write(path, bytes(data), mode=mode)
        return {"bytes": len(data)}

    async def _diff(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        held = self._held(request)
        with await anyio.to_thread.run_sync(lambda: tempfile.TemporaryFile(dir=held.scratch)) as file:
            patch = await Sandbox(held).write_diff(file, ignored=field(request, "ignored", bool, False))
            file.seek(0)
            while piece := await anyio.to_thread.run_sync(file.read, _READ_AT_ONCE):
                await connection.output(piece)
        return {
            "paths": _first_that_fit(patch.paths),
            "paths_total": len(patch.paths),
            "warnings": _first_that_fit(patch.warnings),
            "warnings_total": len(patch.warnings),
        }

    async def _changes(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        found = await Sandbox(self._held(request)).changes(ignored=field(request, "ignored", bool, False))
        return {"changes": encode(list(found.changes))}

    def _held(self, request: Mapping[str, Any]) -> Held:
        return self._manager.get(field(request, "id", str))


def _first_that_fit(items: Sequence[object]) -> list[Any]:
    """As JSON values, as many as one answer has room for."""
    found: list[Any] = []
    room = _LONGEST_LISTED
    for item in items[:_MOST_LISTED]:
        value = encode(item)
        room -= len(json.dumps(value))
        if room < 0:
            break
        found.append(value)
    return found
