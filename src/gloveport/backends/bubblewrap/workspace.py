"""How the workspace's first content reaches the sandbox: shown under an overlay, or copied."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from gloveport.backends.bubblewrap.launcher import Stage
from gloveport.backends.bubblewrap.place import Place
from gloveport.errors import Conflict
from gloveport.model import Bind, Overlay, Plan
from gloveport.store import LAYER_OWNER, copy_exactly, dress_like
from gloveport.store.lower import LowerFacts, copy_tree, inspect_lower, owner_of

__all__ = [
    "IDMAP_TROUBLE",
    "MixedOwners",
    "Workspace",
    "copy_instead",
    "copy_mixed",
    "has_copies",
    "look_through",
    "prepare_workspace",
    "stages_for",
]

OVERLAY_TROUBLE = "overlay mount"
"""In what bubblewrap says when the file system of the state directory cannot hold an overlay's upper layer."""
IDMAP_TROUBLE = "cannot be shown with other owners"
"""In our own words for the launcher's exit status `IDMAP_UNSUPPORTED`."""
_LAYER = "layer"


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
    facts: LowerFacts | None = None
    """What the source was like when it was looked through; `None` until then, and where there is none."""
    layer: str = ""
    """The snapshot's layer above the lower one, as bubblewrap finds it; empty where there is none."""
    sealed: Path | None = None
    """The same as this process finds it."""
    layer_owner: tuple[int, int] | None = None
    """As `owner`, of the layer."""
    is_covered: bool = False
    """The layer holds everything: `original` is only what changes are told from."""


class MixedOwners(Exception):
    """A source that was to be shown is of several owners: it has to be copied."""

    def __init__(self, facts: LowerFacts) -> None:
        super().__init__(facts)
        self.facts = facts


async def prepare_workspace(plan: Plan, place: Place, known: LowerFacts | None = None) -> Workspace:
    """Decide between showing and copying, and copy where needed.

    `known` is what is known of the source already. Where it is not known, a source whose directory could be shown is
    taken for one that can: `look_through` is for later, while the sandbox starts. Raises as that.

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
    if overlay.layer:
        begun = _with_layer(begun, Path(overlay.layer), place)
    if overlay.lower is None:
        place.make(place.empty)
        return begun
    source = Path(overlay.lower)
    owner = owner_of(source)
    if known is None and os.geteuid() not in (0, owner[0]):
        known = await anyio.to_thread.run_sync(inspect_lower, source)
    if known is not None:
        _check_base(overlay, known)
    begun = replace(begun, facts=known)
    if overlay.base is not None and overlay.base.is_covered:
        place.make(place.empty)
        return replace(begun, original=source, source=str(source), is_covered=True)
    if not overlay.layer:
        seen = os.stat(source)
        os.utime(place.upper, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    if known is not None and not known.is_shown:
        return await _copy_lower(replace(begun, original=source, source=str(source)), place)
    if os.geteuid() != 0:
        return replace(begun, lower=str(source), original=source, source=str(source))
    target = place.make(place.stage) / "workspace"
    target.mkdir()
    return replace(begun, lower=str(target), original=source, source=str(source), owner=owner)


async def look_through(plan: Plan, workspace: Workspace) -> Workspace:
    """The workspace with what its source is like, if that was not looked at before.

    Raises `MixedOwners` for one that cannot be shown after all, `Conflict` where a layer was sealed on something else,
    and as `inspect_lower`.
    """
    if workspace.facts is not None or not workspace.source:
        return workspace
    facts = await anyio.to_thread.run_sync(inspect_lower, Path(workspace.source))
    _check_base(next(mount for mount in plan.mounts if isinstance(mount, Overlay)), facts)
    if not (workspace.is_covered or facts.is_shown):
        raise MixedOwners(facts)
    return replace(workspace, facts=facts)


async def copy_mixed(workspace: Workspace, place: Place, facts: LowerFacts) -> Workspace:
    """The workspace for a source that `look_through` raised `MixedOwners` for."""
    return await _copy_lower(replace(workspace, facts=facts), place)


def has_copies(workspace: Workspace, place: Place) -> bool:
    """Whether what lies under a sandbox was copied for it alone."""
    copies = (str(place.copy), str(place.guest / _LAYER))
    return workspace.copied_at is not None or workspace.lower in copies or workspace.layer in copies


async def copy_instead(workspace: Workspace, place: Place, trouble: str) -> Workspace | None:
    """The next best workspace after bubblewrap or its launcher said `trouble`; `None` when a copy would not help.

    A layer is of use to an overlay alone, unless it holds everything.
    """
    if IDMAP_TROUBLE in trouble and (workspace.owner is not None or workspace.layer_owner is not None):
        return await _copy_owned(workspace, place)
    if workspace.copied_at is None and OVERLAY_TROUBLE in trouble and (not workspace.layer or workspace.is_covered):
        if workspace.sealed is not None:
            await anyio.to_thread.run_sync(partial(copy_exactly, workspace.sealed, place.upper, owner=place.owner))
        else:
            await _copy(workspace.original, place.upper, place)
        mark = place.path / "copied"
        mark.touch()
        return replace(workspace, owner=None, layer="", layer_owner=None, copied_at=mark.stat().st_ctime_ns)
    return None


async def _copy_owned(workspace: Workspace, place: Place) -> Workspace:
    if workspace.owner is not None:
        workspace = await _copy_lower(workspace, place)
    if workspace.layer_owner is not None and workspace.sealed is not None:
        copied = place.guest / _LAYER
        copied.mkdir(mode=0o700)
        await anyio.to_thread.run_sync(partial(copy_exactly, workspace.sealed, copied, owner=place.owner))
        workspace = replace(workspace, layer=str(copied), layer_owner=None)
    return workspace


async def _copy_lower(workspace: Workspace, place: Place) -> Workspace:
    await _copy(workspace.original, place.make(place.copy), place)
    return replace(workspace, lower=str(place.copy), original=place.copy, owner=None)


def _with_layer(workspace: Workspace, sealed: Path, place: Place) -> Workspace:
    # What the workspace's own directory is like comes from the foremost of an overlay's directories.
    dress_like(sealed, place.upper, owner=place.owner)
    if os.geteuid() != 0:
        return replace(workspace, layer=str(sealed), sealed=sealed)
    target = place.make(place.stage) / _LAYER
    target.mkdir()
    return replace(workspace, layer=str(target), sealed=sealed, layer_owner=LAYER_OWNER)


def _check_base(overlay: Overlay, facts: LowerFacts) -> None:
    """What a layer says of files that it does not hold is true of what it was sealed on, and of nothing else."""
    wanted = overlay.base.fingerprint if overlay.base is not None and not overlay.base.is_covered else ""
    if wanted and facts.fingerprint != wanted:
        raise Conflict(
            f"{overlay.lower} has changed since the snapshot was taken, which holds only what differs from it",
            hint="put it back as it was; sandboxes made with --commit have snapshots that this does not touch",
            path=overlay.lower,
        )


def stages_for(workspace: Workspace) -> list[Stage]:
    """What the launcher shows before it drops root."""
    stages = [
        Stage(source, target, _owner(source), writable=source in workspace.writable)
        for source, target in workspace.staged.items()
    ]
    if workspace.owner is not None:
        stages.append(Stage(workspace.source, workspace.lower, workspace.owner))
    if workspace.layer_owner is not None:
        stages.append(Stage(str(workspace.sealed), workspace.layer, workspace.layer_owner))
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
        target = place.make(place.stage) / str(len(staged))
        if Path(mount.source).is_dir():
            target.mkdir()
        else:
            target.touch()
        staged[mount.source] = str(target)
    return staged


def _is_reachable(source: str) -> bool:
    """Whether everybody may pass to `source` and read it: staging it would only cost time."""
    mode = os.stat(source).st_mode
    wanted = 0o005 if stat.S_ISDIR(mode) else 0o004
    if mode & wanted != wanted:
        return False
    place = os.path.realpath(source)
    while (above := os.path.dirname(place)) != place:
        if not os.stat(above).st_mode & 0o001:
            return False
        place = above
    return True


async def _copy(source: Path, target: Path, place: Place) -> None:
    cancelled = anyio.get_cancelled_exc_class()  # only the loop's thread can tell

    def is_cancelled() -> bool:
        try:
            anyio.from_thread.check_cancelled()
        except cancelled:
            return True
        return False

    def work() -> None:
        copy_tree(source, target, owner=place.owner, should_stop=is_cancelled)

    await anyio.to_thread.run_sync(work)
    await anyio.lowlevel.checkpoint()
