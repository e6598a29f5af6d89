"""How the workspace's first content reaches the sandbox: shown under an overlay, or copied."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from gloveport.backends.bubblewrap.launcher import Stage
from gloveport.backends.bubblewrap.lower import copy_tree, inspect_lower
from gloveport.backends.bubblewrap.place import Place
from gloveport.model import Bind, Overlay, Plan

__all__ = ["IDMAP_TROUBLE", "Workspace", "copy_instead", "prepare_workspace", "stages_for"]

OVERLAY_TROUBLE = "overlay mount"
"""In what bubblewrap says when the file system of the state directory cannot hold an overlay's upper layer."""
IDMAP_TROUBLE = "cannot be shown with other owners"
"""In our own words for the launcher's exit status `IDMAP_UNSUPPORTED`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """What is under the workspace."""

    lower: str
    """The overlay's lower directory, as bubblewrap finds it."""
    original: Path
    """The same content as this process finds it."""
    source: str
    """The directory of the plan; empty for an empty workspace."""
    copied_at: int | None = None
    """Without an overlay the upper directory itself is a copy: when it was done, in nanoseconds of a file's `ctime`."""
    staged: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    writable: frozenset[str] = frozenset()
    """What of `staged` the guest may write."""
    owner: tuple[int, int] | None = None
    """Who owns the source on the host, where the launcher must show it as the sandbox's user's."""


async def prepare_workspace(plan: Plan, place: Place) -> Workspace:
    """Decide between showing and copying, and copy where needed.

    A tree whose files all belong to one user is shown (to root's sandboxes with that user mapped to the sandbox's);
    a tree of several owners is copied, because an overlay would show the others' files as nobody's.
    """
    overlay = next(mount for mount in plan.mounts if isinstance(mount, Overlay))
    begun = Workspace(
        lower=str(place.empty),
        original=place.empty,
        source="",
        staged=_stage_targets(plan, place),
        writable=frozenset(mount.source for mount in plan.mounts if isinstance(mount, Bind) and mount.writable),
    )
    if overlay.lower is None:
        return begun
    source = Path(overlay.lower)
    facts = await anyio.to_thread.run_sync(inspect_lower, source)
    root = os.geteuid() == 0
    if facts.uniform and (root or facts.uid == os.geteuid()):
        if not root:
            return replace(begun, lower=str(source), original=source, source=str(source))
        target = place.stage / "workspace"
        target.mkdir()
        owner = (facts.uid, facts.gid)
        return replace(begun, lower=str(target), original=source, source=str(source), owner=owner)
    await _copy(source, place.copy, place)
    return replace(begun, lower=str(place.copy), original=place.copy, source=str(source))


async def copy_instead(workspace: Workspace, place: Place, trouble: str) -> Workspace | None:
    """The next best workspace after bubblewrap or its launcher said `trouble`; `None` when a copy would not help."""
    if workspace.owner is not None and IDMAP_TROUBLE in trouble:
        await _copy(workspace.original, place.copy, place)
        return replace(workspace, lower=str(place.copy), original=place.copy, owner=None)
    if workspace.copied_at is None and OVERLAY_TROUBLE in trouble:
        await _copy(workspace.original, place.upper, place)
        mark = place.path / "copied"
        mark.touch()
        return replace(workspace, owner=None, copied_at=mark.stat().st_ctime_ns)
    return None


def stages_for(workspace: Workspace) -> list[Stage]:
    """What the launcher shows before it drops root."""
    stages = [
        Stage(source, target, _owner(source), writable=source in workspace.writable)
        for source, target in workspace.staged.items()
    ]
    if workspace.owner is not None:
        stages.append(Stage(workspace.source, workspace.lower, workspace.owner))
    return stages


def _owner(source: str) -> tuple[int, int]:
    # What is shown is meant to be read, also where only its owner may.
    facts = Path(source).stat()
    return facts.st_uid, facts.st_gid


def _stage_targets(plan: Plan, place: Place) -> dict[str, str]:
    """Root only: host paths that the sandbox's user might not reach by itself → mount points for them."""
    if os.geteuid() != 0:
        return {}
    staged: dict[str, str] = {}
    for mount in plan.mounts:
        if not isinstance(mount, Bind) or mount.source in staged:
            continue
        if not mount.writable and _is_reachable(mount.source):
            continue
        target = place.stage / str(len(staged))
        if Path(mount.source).is_dir():
            target.mkdir()
        else:
            target.touch()
        staged[mount.source] = str(target)
    return staged


def _is_reachable(source: str) -> bool:
    """Whether everybody may pass to `source` and read it: staging it would only cost time."""
    path = Path(source)
    facts = path.stat()
    wanted = 0o005 if stat.S_ISDIR(facts.st_mode) else 0o004
    passes = all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)
    return passes and facts.st_mode & wanted == wanted


async def _copy(source: Path, target: Path, place: Place) -> None:
    owner = (place.user.uid, place.user.gid) if os.geteuid() == 0 else None

    def work() -> None:
        copy_tree(source, target, owner=owner, should_stop=_is_cancelled)

    await anyio.to_thread.run_sync(work)
    await anyio.lowlevel.checkpoint()


def _is_cancelled() -> bool:
    try:
        anyio.from_thread.check_cancelled()
    except anyio.get_cancelled_exc_class():
        return True
    return False
