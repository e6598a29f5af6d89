"""Snapshots as files: whole, with the source they lie on, for another installation."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from gloveport.errors import (
    BackendUnavailable,
    Conflict,
    GloveportError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PermissionDenied,
)
from gloveport.model import BASE_LAYER, Base, Snapshot
from gloveport.store import (
    LAYER_OWNER,
    Draft,
    Part,
    Snapshots,
    cannot_write,
    read_file,
    read_layer,
    whole_file,
    write_file,
)
from gloveport.store.lower import copy_tree, inspect_lower
from gloveport.store.tree import MOST_BYTES

__all__ = ["load_snapshot", "read_snapshot", "save_snapshot", "write_snapshot"]

_PIECE = 2**20
_PRIVATE = 0o600
_MOST_PIPED = 2 * MOST_BYTES
"""What all layers may have, and as much again for their heads."""
_HINT = "name a file of: gloveport save SNAPSHOT FILE"


def save_snapshot(store: Snapshots, name: str, path: Path) -> Snapshot:
    """`write_snapshot` to a file for this user alone, which is on the disk whole or not at all."""
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file():
        raise InvalidRequest(f"{path} is no regular file", hint="name another, or - for standard output")
    with whole_file(real) as file:
        os.fchmod(file.fileno(), _PRIVATE)
        saved = write_snapshot(store, name, file)
        file.flush()
        os.fsync(file.fileno())  # what it was saved from may be removed as soon as this returns
        return saved


def load_snapshot(store: Snapshots, path: Path) -> Snapshot:
    """`read_snapshot` of a file. Raises `NotFound` where there is none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"no file {path}", hint=_HINT) from None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    with file:
        return read_snapshot(store, file)


def write_snapshot(store: Snapshots, name: str, file: BinaryIO) -> Snapshot:
    """Write a snapshot and the source it lies on, as one file; what it is once it has been loaded.

    The whole source is in it, also what policies hide from guests. Raises as `Snapshots.get` and `check`, `Conflict`
    where the source is not what it was, `PermissionDenied` where this user cannot read all of it, `Unsupported` for
    what no layer of an image can say, and as `cannot_write`. The same snapshot gives the same bytes.
    """
    with store.in_use():
        snapshot = store.get(name)
        store.check(snapshot)
        parts = {each: Part(layer=layer, root=store.layer(snapshot, each)) for each, layer in snapshot.layers.items()}
        with ExitStack() as held:
            try:
                if snapshot.base.path:
                    parts[BASE_LAYER] = held.enter_context(_at_rest(store, snapshot.base))
                return write_file(file, snapshot, parts)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise _unreadable(error) from error


def read_snapshot(store: Snapshots, file: BinaryIO) -> Snapshot:
    """Take in a snapshot that was saved as a file, wherever that was. Twice is once, with the later label.

    Every digest is checked before anything is made of it, and what was made once more. Raises `InvalidRequest` for what
    is no saved snapshot, or not whole; `Unsupported` for one of another format; `LimitExceeded` where there is no room.
    What fails leaves nothing.
    """
    store.sweep()
    owner = LAYER_OWNER if os.geteuid() == 0 else None
    with store.draft() as draft, _seekable(file, draft) as whole:
        saved = read_file(whole)
        wanted = saved.snapshot
        for name in wanted.layers:
            saved.unpack(name, draft.layer(name), owner=owner)
        return store.keep(draft, wanted.base, sandbox=wanted.sandbox, label=wanted.label, wanted=wanted)


@contextmanager
def _at_rest(store: Snapshots, base: Base) -> Iterator[Part]:
    """The source of a snapshot as a part of its file, for a scope in which nobody may change it."""
    path = Path(base.path)
    if (holding := store.holding(base.path)) is not None:
        store.check(holding)
        yield Part(layer=holding.layers[path.name], root=path)
        return
    if not base.fingerprint:  # the platform's own, which nobody changes
        yield _as_is(path)
        return
    before = inspect_lower(path)
    # A covered one shows nowhere: it may have changed, but not now.
    if before.fingerprint != base.fingerprint and not base.is_covered:
        raise _has_changed(base, "since the snapshot was taken, which holds only what differs from it")
    if before.is_shown:
        yield _as_is(path)
    else:
        with store.draft() as draft:
            copied = draft.layer(BASE_LAYER)
            copy_tree(path, copied)
            yield Part(layer=read_layer(copied).layer, root=copied)
    if inspect_lower(path).fingerprint != before.fingerprint:
        raise _has_changed(base, "while it was saved")


def _as_is(path: Path) -> Part:
    return Part(layer=read_layer(path, as_is=True).layer, root=path, as_is=True)


def _has_changed(base: Base, when: str) -> Conflict:
    return Conflict(f"{base.path} has changed {when}", hint="put it back as it was, and save again", path=base.path)


@contextmanager
def _seekable(file: BinaryIO, draft: Draft) -> Iterator[BinaryIO]:
    """The file itself, or what comes out of a pipe."""
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        yield file
        return
    with tempfile.TemporaryFile(dir=draft.path) as copied:
        try:
            first = file.read(tarfile.BLOCKSIZE)
            if not _begins_a_tar(first):
                raise InvalidRequest("this is no saved snapshot", hint=_HINT)
            copied.write(first)
            _copy(file, copied)
            copied.seek(0, io.SEEK_SET)
        except OSError as error:
            raise cannot_write(draft.path, error) from error
        yield copied


def _copy(file: BinaryIO, copied: BinaryIO) -> None:
    room = _MOST_PIPED
    while piece := file.read(_PIECE):
        room -= len(piece)
        if room < 0:
            raise LimitExceeded("it is larger than any snapshot", hint="name a file", limit="snapshot")
        copied.write(piece)


def _begins_a_tar(first: bytes) -> bool:
    """What never ends (`/dev/zero`) begins with something else."""
    try:
        tarfile.TarInfo.frombuf(first, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _unreadable(error: OSError) -> GloveportError:
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "a file of the snapshot"
    if isinstance(error, PermissionError):
        return PermissionDenied(
            f"{path} cannot be read by this user",
            hint="make it readable, or run gloveport as its owner",
            path=path,
        )
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Conflict(f"{path} went away while it was saved", hint="save it again when it is at rest", path=path)
    return BackendUnavailable(f"{path} cannot be read: {error.strerror}", hint="check the disk that holds it")
