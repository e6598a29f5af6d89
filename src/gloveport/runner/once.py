"""One command in a sandbox of its own: made, used and deleted within one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread

from gloveport.listen.connection import Connection
from gloveport.model import ExecRequest, Exit, Policy, Source, Spec
from gloveport.policy.files.showing import is_within
from gloveport.policy.reading.load import is_template, load_policy
from gloveport.runner.processes import relay
from gloveport.sandbox import Manager

__all__ = ["Once", "run_once"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """What a caller asks for."""

    request: ExecRequest
    here: str
    """The caller's own directory: file names start there."""
    directory: str
    policies: Sequence[str]


async def run_once(manager: Manager, once: Once, connection: Connection) -> Exit:
    """Run the command where it is asked for if the policy makes that writable, and otherwise in a copy."""
    spec, request = await anyio.to_thread.run_sync(_prepare, once)
    held = await manager.create(spec)
    try:
        return await relay(await held.backend.exec(held.ref, request), connection)
    finally:
        with anyio.CancelScope(shield=True):
            await manager.delete(held.ref.id)


def _prepare(once: Once) -> tuple[Spec, ExecRequest]:
    directory = os.path.normpath(os.path.join(once.here, once.directory))
    policy = load_policy([name if is_template(name) else os.path.join(once.here, name) for name in once.policies])
    spec = Spec(policy=policy, limits=policy.limits)
    if _is_writable(directory, policy):
        return spec, replace(once.request, cwd=directory)
    return replace(spec, source=Source(repo=directory)), once.request


def _is_writable(directory: str, policy: Policy) -> bool:
    places = [place for layer in policy.layers if layer.files is not None for place in layer.files.writable]
    return any(is_within(os.path.realpath(directory), os.path.realpath(place)) for place in places)
