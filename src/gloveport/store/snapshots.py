"""The snapshots of one installation: a directory each, named by its digest, whole or not there."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gloveport.errors import BackendUnavailable, Conflict, InvalidRequest, NotFound
from gloveport.model import BASE_LAYER, Base, Layer, Snapshot
from gloveport.store.draft import LAYERS, Draft
from gloveport.store.files import cannot_write, whole_file
from gloveport.store.layers import glance, read_layer
from gloveport.store.layout import claim, make_private, remove_tree, try_claim

__all__ = ["Snapshots"]

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")
_WHOLE = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_RECORD = "snapshot.json"
_NEW = "new-"
_LONGEST_MAKING = 60.0
"""Seconds."""
_HINT = "see what there is with: gloveport snapshots"
_LABEL = re.compile(r"(?!base\Z)(?![0-9a-f]{4,}\Z)[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
"""Nothing that could be meant for an id, or for a sandbox's source."""
_LABEL_HINT = "1 to 64 letters, digits, dots, dashes, spaces; not base, and not only digits of an id (0-9, a-f)"

Used = Callable[[], Collection[str]]
"""The directories that sandboxes stand on."""


class Snapshots:
    """Snapshots below one private directory. Several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """A place to make one, which is gone at the end of the scope unless `keep` has taken it."""
        path = make_private(self.root) / f"{_NEW}{secrets.token_hex(6)}"
        begun = path.with_name(f".{path.name}")
        try:
            begun.mkdir(mode=0o700)
            lock = claim(begun)
            begun.rename(path)  # whoever sweeps sees it when it is somebody's already
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            (path / LAYERS).mkdir(mode=0o700)
            yield Draft(path)
        finally:
            remove_tree(path)
            lock.release()

    def keep(
        self, draft: Draft, base: Base, *, sandbox: str, label: str = "", wanted: Snapshot | None = None
    ) -> Snapshot:
        """Read what was made, and give it its name. The same state twice is one snapshot, with the later label.

        What is `wanted` has its label from a stranger: it is kept where it is one and nobody has it. Raises
        `InvalidRequest` for what is no label or not what was `wanted`, `LimitExceeded` where there is no room,
        `BackendUnavailable` where it cannot be read.
        """
        if wanted is not None:
            label = label if _LABEL.fullmatch(label) and not self._has(label) else ""
        elif label and not _LABEL.fullmatch(label):
            raise InvalidRequest(f"not a label: {label[:80]!r}", hint=_LABEL_HINT)
        try:
            read = draft.read()
        except OSError as error:
            raise cannot_write(draft.path, error) from error
        layers = {name: found.layer for name, found in read.items()}
        if wanted is not None and layers != wanted.layers:
            raise _not_wanted(layers, wanted)
        created_at = wanted.created_at if wanted is not None else time.time()
        made = Snapshot(base=base, layers=layers, created_at=created_at, sandbox=sandbox, label=label)
        self._write(draft.path, made, {name: found.glance for name, found in read.items()})
        with self._locked(fcntl.LOCK_SH):
            target = self._place(made.id)
            try:
                draft.path.rename(target)
            except OSError as error:
                if not target.exists():
                    raise cannot_write(target, error) from error
                try:
                    self.check(self._load(target))
                except (BackendUnavailable, NotFound):
                    return self._heal(target, draft.path, made)
                if label:
                    self._relabel(target, label)
                return self._load(target)
        return made

    def _heal(self, damaged: Path, whole: Path, made: Snapshot) -> Snapshot:
        """Put what was just made in the place of the same one that is damaged."""
        remove_tree(self._put_away(damaged))
        whole.rename(damaged)
        return made

    def _has(self, label: str) -> bool:
        return any(each.label == label for each in self.all())

    def all(self) -> list[Snapshot]:
        """Every one, the oldest first. What cannot be read is left out: `get` says why."""
        found = []
        for path in self._paths():
            try:
                found.append(self._load(path))
            except (BackendUnavailable, NotFound):
                continue
        return sorted(found, key=lambda snapshot: snapshot.created_at)

    def get(self, name: str) -> Snapshot:
        """By its id, the beginning of it (four digits at least), or its label.

        Raises `NotFound`, `Conflict` for a name that several have, and `BackendUnavailable` for one whose record is
        damaged.
        """
        if not name:
            raise InvalidRequest("an empty name of a snapshot", hint=_HINT)
        whole = self._place(name)
        if _WHOLE.fullmatch(name) and whole.exists():
            return self._load(whole)
        labelled = [self._place(snapshot.id) for snapshot in self.all() if snapshot.label == name]
        spelt = _ID.fullmatch(name)
        found = labelled or [path for path in self._paths() if spelt and path.name.startswith(spelt[1])]
        if not found:
            raise NotFound(f"no snapshot {name!r}", hint=_HINT, id=name)
        if len(found) > 1:
            raise Conflict(f"{len(found)} snapshots are called {name!r}", hint=f"name the whole id; {_HINT}", id=name)
        return self._load(found[0])

    def layer(self, snapshot: Snapshot, name: str) -> Path:
        """Where a layer's files are."""
        return self._place(snapshot.id) / LAYERS / name

    def lower(self, snapshot: Snapshot) -> str | None:
        """The directory under a snapshot's workspace; `None` for an empty one."""
        if BASE_LAYER in snapshot.layers:
            return str(self.layer(snapshot, BASE_LAYER))
        return snapshot.base.path or None

    def holding(self, path: str) -> Snapshot | None:
        """The snapshot one of whose layers is this directory; `None` for any other. Raises as `get`."""
        layers = Path(os.path.realpath(path)).parent
        if layers.name != LAYERS or layers.parent.parent != self.root.resolve():
            return None
        return self.get(f"sha256:{layers.parent.name}")

    def check(self, snapshot: Snapshot) -> None:
        """Raise `BackendUnavailable` unless every layer still is what was sealed.

        Files that nobody touched are not read: the kernel's change times say so.
        """
        place = self._place(snapshot.id)
        glances = dict(self._read(place).get("glances", {}))
        for name, layer in snapshot.layers.items():
            path = self.layer(snapshot, name)
            try:
                if glances.get(name) and glance(path) == glances[name]:
                    continue
                found = read_layer(path)
            except OSError as error:
                raise _damaged(snapshot.id, f"the layer {name} cannot be read: {error.strerror}") from error
            if found.layer != layer:
                raise _damaged(snapshot.id, f"the layer {name} has been altered")
            glances[name] = found.glance
            self._write(place, snapshot, glances)

    def remove(self, name: str, *, used: Used) -> Snapshot:
        """Remove one. Raises `Conflict` where a sandbox or another snapshot stands on it.

        `used` says which directories sandboxes stand on, and is asked while none can be made.
        """
        snapshot = self.get(name)
        with self._locked(fcntl.LOCK_EX):
            if self._is_used(snapshot, used()):
                raise _stood_on(snapshot, "a sandbox", "gloveport list")
            if self._is_used(snapshot, [each.base.path for each in self.all()]):
                raise _stood_on(snapshot, "another snapshot", "gloveport snapshots")
            gone = self._put_away(self._place(snapshot.id))
        remove_tree(gone)
        return snapshot

    def prune(self, *, used: Used, labelled: bool = False) -> list[Snapshot]:
        """Remove what nobody stands on and nobody has named (named ones too, where `labelled`); what was removed.

        What dead makers left half made goes too; where `labelled`, also what nobody can read any more. `used` as for
        `remove`.
        """
        removed: list[Snapshot] = []
        gone: list[Path] = []
        with self._locked(fcntl.LOCK_EX):
            left, stood_on = self.all(), used()
            while unused := self._unused(left, stood_on, labelled=labelled):
                for snapshot in unused:
                    gone.append(self._put_away(self._place(snapshot.id)))
                    left.remove(snapshot)
                removed += unused
            if labelled:
                readable = {self._place(snapshot.id).name for snapshot in self.all()}
                gone += [self._put_away(path) for path in self._paths() if path.name not in readable]
        for path in gone:
            remove_tree(path)
        self.sweep()
        return removed

    def sweep(self) -> None:
        """Remove what makers that died left half made."""
        old = [path for path in self.root.glob(f".{_NEW}*") if _is_old(path)]
        for path in (*old, *self.root.glob(f"{_NEW}*")):
            try:
                lock = try_claim(path)
            except OSError:
                continue
            if lock is not None:
                with suppress(OSError):  # what cannot be removed is tried again
                    remove_tree(path)
                lock.release()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While a sandbox is made: nothing is removed meanwhile. May wait for a removal: see `hold`."""
        with ExitStack() as held:
            self.hold(held)
            yield

    def hold(self, held: ExitStack, *, wait: bool = True) -> bool:
        """The same, until `held` is closed; whether it is. What waits is to be called in a thread."""
        try:
            held.enter_context(self._locked(fcntl.LOCK_SH if wait else fcntl.LOCK_SH | fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def _unused(self, there: list[Snapshot], used: Collection[str], *, labelled: bool) -> list[Snapshot]:
        """Those of them that may go. Others may stand on those only, and so may go next."""
        paths = [*used, *(each.base.path for each in there)]
        return [each for each in there if (labelled or not each.label) and not self._is_used(each, paths)]

    def _is_used(self, snapshot: Snapshot, used: Collection[str]) -> bool:
        place = os.path.realpath(self._place(snapshot.id))
        return any(os.path.realpath(path).startswith(f"{place}/") for path in used if path)

    def _put_away(self, place: Path) -> Path:
        """Out of sight at once, since half a snapshot must never have its name; removing it may take its time."""
        gone = self.root / f"{_NEW}{secrets.token_hex(6)}"
        place.rename(gone)
        return gone

    def _place(self, identity: str) -> Path:
        return self.root / identity.removeprefix("sha256:")

    def _paths(self) -> list[Path]:
        try:
            return [path for path in self.root.iterdir() if _ID.fullmatch(path.name) and len(path.name) == 64]
        except FileNotFoundError:
            return []

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        descriptor = os.open(make_private(self.root) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _relabel(self, place: Path, label: str) -> None:
        said = self._read(place)
        with whole_file(place / _RECORD) as file:
            file.write(json.dumps({**said, "label": label}).encode())

    def _write(self, place: Path, snapshot: Snapshot, glances: dict[str, str]) -> None:
        with whole_file(place / _RECORD) as file:
            file.write(json.dumps({"id": snapshot.id, **asdict(snapshot), "glances": glances}).encode())

    def _read(self, place: Path) -> dict[str, Any]:
        try:
            said = json.loads((place / _RECORD).read_text("utf-8"))
        except FileNotFoundError:
            raise NotFound(f"no snapshot {place.name}", hint=_HINT, id=place.name) from None
        except (OSError, ValueError) as error:
            raise _damaged(place.name, "its record cannot be read") from error
        if not isinstance(said, dict):
            raise _damaged(place.name, "its record makes no sense")
        return said

    def _load(self, place: Path) -> Snapshot:
        said = self._read(place)
        try:
            found = Snapshot(
                base=Base(**said["base"]),
                layers={str(name): Layer(**layer) for name, layer in said["layers"].items()},
                created_at=float(said["created_at"]),
                sandbox=str(said["sandbox"]),
                label=str(said["label"]),
            )
            is_itself = found.id == f"sha256:{place.name}"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(place.name, "its record makes no sense") from error
        if not is_itself:
            raise _damaged(place.name, "its record has been altered")
        return found


def _is_old(path: Path) -> bool:
    """Whether its maker must have died: it takes no time to make."""
    try:
        return time.time() - path.stat().st_mtime > _LONGEST_MAKING
    except OSError:
        return False


def _stood_on(snapshot: Snapshot, who: str, command: str) -> Conflict:
    return Conflict(
        f"{who} stands on the snapshot {snapshot.id}", hint=f"remove that first; see: {command}", id=snapshot.id
    )


def _not_wanted(layers: dict[str, Layer], wanted: Snapshot) -> InvalidRequest:
    altered = sorted(name for name in {*layers, *wanted.layers} if layers.get(name) != wanted.layers.get(name))
    return InvalidRequest(
        f"what the file holds is not the snapshot that it says it is: {', '.join(altered)}",
        hint="save that snapshot anew",
        id=wanted.id,
    )


def _damaged(name: str, why: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"the snapshot {name[:19]} is damaged: {why}",
        hint="nothing was started from it; take it anew, load it again, or remove it with: gloveport prune --all",
        id=name,
    )
