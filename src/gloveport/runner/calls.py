"""What each verb of the runner's protocol does: one small method a verb, over one manager."""

from __future__ import annotations

import json
import os
import pwd
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio.abc
import anyio.to_thread

from gloveport import __version__
from gloveport.client.codec import decode, encode
from gloveport.client.wire import PROTOCOL_VERSION
from gloveport.errors import InvalidRequest, LimitExceeded
from gloveport.model import MIB, AnswerKind, ExecRequest, Limits, Plan, Spec
from gloveport.runner.connection import Connection
from gloveport.runner.contain import contain
from gloveport.runner.once import Once, run_once
from gloveport.runner.processes import DetachedProcesses, relay
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

Verb = Callable[[Mapping[str, Any], Connection], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the runner knows of a sandbox beside what its manager does."""

    limits: Limits
    processes: DetachedProcesses = field(default_factory=DetachedProcesses)


class Calls:
    """The verbs. `tasks` outlives every call: detached processes are read there."""

    def __init__(self, manager: Manager, tasks: anyio.abc.TaskGroup) -> None:
        self._manager = manager
        self._tasks = tasks
        self._kept: dict[str, _Kept] = {}
        self._started_at = time.time()
        self._verbs: Mapping[str, Verb] = {
            "apply": self._apply,
            "approvals": self._approvals,
            "approve": self._approve,
            "changes": self._changes,
            "create": self._create,
            "delete": self._delete,
            "diff": self._diff,
            "exec": self._exec,
            "grants": self._grants,
            "info": self._info,
            "list": self._list,
            "once": self._once,
            "output": self._output,
            "plan": self._plan,
            "probe": self._probe,
            "processes": self._processes,
            "read": self._read,
            "revoke": self._revoke,
            "status": self._status,
            "tool": self._tool,
            "write": self._write,
        }

    async def answer(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        """The result of one call. Raises `InvalidRequest` for an unknown verb."""
        verb = self._verbs.get(str(request.get("verb")))
        if verb is None:
            raise InvalidRequest(f"no verb {request.get('verb')!r}", hint=f"one of: {', '.join(self._verbs)}")
        return await verb(request, connection)

    async def _info(self, _request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        return {
            "pid": os.getpid(),
            "version": __version__,
            "protocol": PROTOCOL_VERSION,
            "started_at": self._started_at,
            "sandboxes": self._manager.count,
        }

    async def _create(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        spec = decode(Spec, _field(request, "spec", dict))
        return await self._made(await self._manager.create(spec), spec.limits)

    async def _apply(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        plan = decode(Plan, _field(request, "plan", dict))
        return await self._made(await self._manager.apply(plan), plan.limits)

    async def _made(self, held: Held, limits: Limits) -> Mapping[str, Any]:
        self._kept[held.ref.id] = _Kept(limits)
        return {"status": encode(await held.backend.status(held.ref))}

    async def _probe(self, _request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        (probe, *_) = await anyio.to_thread.run_sync(self._manager.probes)
        return {"probe": encode(probe)}

    async def _plan(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        plan = await self._manager.plan(decode(Spec, _field(request, "spec", dict)))
        return {"plan": plan.to_json(), "digest": plan.digest()}

    async def _list(self, _request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        return {"sandboxes": encode(await self._manager.statuses())}

    async def _status(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        held = self._held(request)
        return {"status": encode(await held.backend.status(held.ref))}

    async def _delete(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        deleted = await self._manager.delete(_field(request, "id", str))
        self._kept.pop(deleted, None)
        return {"id": deleted}

    async def _exec(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        held = self._held(request)
        asked = decode(ExecRequest, _field(request, "request", dict))
        if _field(request, "detach", bool, False):
            return await self._detach(held, asked)
        if asked.terminal is not None:
            asked = lasting(asked, held.limits)
        process = await held.backend.exec(held.ref, asked)
        return {"exit": encode(await relay(process, connection))}

    async def _once(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        once = Once(
            request=decode(ExecRequest, _field(request, "request", dict)),
            here=_field(request, "here", str),
            directory=_field(request, "directory", str),
            policies=_field(request, "policies", list),
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
        detached = kept.processes.get(_field(request, "process", int))
        await connection.output(detached.output)
        return {"process": detached.summary()}

    async def _tool(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        sandbox = Sandbox(self._held(request))
        found = await call_tool(sandbox, _field(request, "name", str), _field(request, "params", dict))
        return {"output": found.output, "error": found.error, "exit_code": found.exit_code}

    async def _read(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        sandbox = Sandbox(self._held(request))
        data = await sandbox.files.read(
            _field(request, "path", str),
            offset=_field(request, "offset", int, 0),
            length=_field(request, "length", int, None),
        )
        await connection.output(data)
        return {"bytes": len(data)}

    async def _write(self, request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
        sandbox = Sandbox(self._held(request))
        path, mode = _field(request, "path", str), _field(request, "mode", int, None)
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
            patch = await Sandbox(held).write_diff(file, ignored=_field(request, "ignored", bool, False))
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
        found = await Sandbox(self._held(request)).changes(ignored=_field(request, "ignored", bool, False))
        return {"changes": encode(list(found.changes))}

    async def _approvals(self, _request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        return {"approvals": encode(self._manager.approvals.pending())}

    async def _approve(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        kind = decode(AnswerKind, _field(request, "answer", str))
        grant = self._manager.approvals.answer(_field(request, "id", str), kind, _own_user())
        return {"grant": encode(grant)}

    async def _grants(self, _request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        return {"grants": encode(self._manager.approvals.grants())}

    async def _revoke(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        grant, closed = self._manager.approvals.revoke(_field(request, "id", str), _own_user())
        return {"grant": encode(grant), "closed": closed}

    def _held(self, request: Mapping[str, Any]) -> Held:
        return self._manager.get(_field(request, "id", str))


def _own_user() -> str:
    """Who calls: the kernel said of every connection that it is this user's own, or nobody answered it."""
    uid = os.geteuid()
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


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


_REQUIRED: Any = object()


def _field(request: Mapping[str, Any], name: str, kind: type, default: Any = _REQUIRED) -> Any:
    """One field of a call, of exactly this type."""
    value = request.get(name, default)
    if value is _REQUIRED:
        raise InvalidRequest(f"the call needs {name!r}", hint="use the client of this version", field=name)
    if value is not default and type(value) is not kind:
        raise InvalidRequest(f"{name!r} must be of type {kind.__name__}", hint="correct this field", field=name)
    return value
