"""What a call left in the workspace, and whether it is what was recorded, apart from what varies by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

from gloveport.backends.base import Backend, ChangeSet
from gloveport.model import Ref
from gloveport.sandbox import Sandbox
from gloveport.sandbox.workspace_digest import WorkspaceDigest
from gloveport.trajectory.caches import CACHES
from gloveport.trajectory.replay.facts import Facts
from gloveport.trajectory.replay.normalise import Applied, Normaliser, merge_applied, normalise
from gloveport.trajectory.replay.result import Aspect, Difference, unified
from gloveport.trajectory.steps import Outcome

__all__ = ["ComparedChanges", "Look", "Looker", "compare_changes"]

_MOST_SHOWN = 20
_MOST_LISTED = 200
"""Paths that the record of one call lists at most: where it has as many, there may have been more."""

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The workspace after a call."""

    digest: str = ""
    """Of everything that differs from its first state; empty where nobody looked."""
    changed: Mapping[str, str] = field(default_factory=lambda: _NONE)
    """What the call changed of that, path → digest of the content."""
    contents: Mapping[str, str] = field(default_factory=lambda: _NONE)
    """The same, path → text, of small text files."""


class Looker:
    """Looks at one sandbox's workspace after each call."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._digest = WorkspaceDigest()

    async def look(self) -> Look:
        """The workspace as it is, and what is otherwise than at the last look. Raises what `Sandbox.changes` raises."""
        found = await self._sandbox.changes(ignored=True)
        difference = await self._digest.look(cast("Backend", _Given(found)), self._sandbox.ref)
        return Look(digest=difference.digest, changed=difference.changed, contents=difference.contents)


@dataclass(frozen=True, slots=True)
class _Given:
    """Where the digest looks: at a change set that is there already."""

    found: ChangeSet

    async def changes(self, _ref: Ref) -> ChangeSet:
        return self.found


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedChanges:
    """What two executions of a step left, held against each other."""

    difference: Difference | None = None
    applied: tuple[Applied, ...] = ()
    may_vary: bool = False
    """Whether all that differs are files that hold what is known to vary, of which the record has no text."""


def compare_changes(
    recorded: Outcome, look: Look, sides: tuple[Facts, Facts], table: Sequence[Normaliser], *, was_same: bool, name: str
) -> ComparedChanges:
    """Hold what the call left against what it left when it was recorded.

    `was_same`: whether the whole workspaces were equal before it; then unequal digests are of this call's making.
    """
    if not recorded.changes or not look.digest or recorded.changes == look.digest:
        return ComparedChanges()
    rules = tuple(rule for rule in table if rule.files)
    lines: list[str] = []
    applied: list[Applied] = []
    explained = False
    varying = 0
    then, now = (
        _by_plain_path(one, side, rules) for one, side in zip((recorded.changed, look.changed), sides, strict=True)
    )
    for path in sorted(then.keys() | now.keys()):
        if CACHES.search(path) or (path in then and path in now and then[path][1] == now[path][1]):
            explained = explained or bool(CACHES.search(path))
            continue
        if path not in then and len(recorded.changed) >= _MOST_LISTED:
            explained = True
            continue
        if path not in then or path not in now:
            lines.append(f"{'-' if path in then else '+'}changed {path}\n")
            continue
        texts = recorded.contents.get(then[path][0]), look.contents.get(now[path][0])
        if texts[0] is None or texts[1] is None:
            lines += [f"-{path} sha256 {then[path][1]}\n", f"+{path} sha256 {now[path][1]}\n"]
            varying += 2 * (normalise(texts[1] or "", sides[1], rules).text != (texts[1] or ""))
            continue
        left, right = (normalise(text or "", side, rules) for text, side in zip(texts, sides, strict=True))
        applied += [*left.applied, *right.applied]
        explained = True
        if left.text != right.text:
            lines.append(unified(left.text, right.text, f"{name} {path}"))
    if not lines and was_same and not explained:
        lines = [f" {path}: another kind or mode\n" for path in list(now)[:_MOST_SHOWN]] or [" another state\n"]
    if not lines:
        return ComparedChanges(applied=merge_applied(applied))
    head = "".join(line for line in lines if line.startswith("---"))
    shown = (
        "".join(lines) if head else f"--- recorded {name} changes\n+++ replayed {name} changes\n@@\n{''.join(lines)}"
    )
    return ComparedChanges(
        difference=Difference(aspect=Aspect.CHANGES, recorded=recorded.changes, replayed=look.digest, diff=shown),
        applied=merge_applied(applied),
        may_vary=varying == len(lines),
    )


def _by_plain_path(changed: Mapping[str, str], facts: Facts, rules: Sequence[Normaliser]) -> dict[str, tuple[str, str]]:
    """Normalised path → the path, and its digest."""
    return {normalise(path, facts, rules).text: (path, digest) for path, digest in changed.items()}
