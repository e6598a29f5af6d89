"""A snapshot as one file: a tar in OCI's image layout, every byte of it under a digest."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from gloveport.errors import BackendUnavailable, Conflict, GloveportError, InvalidRequest, Unsupported
from gloveport.model import BASE_LAYER, SNAPSHOT_FORMAT, WORKSPACE, Base, Layer, Snapshot
from gloveport.store.files import cannot_write
from gloveport.store.packing import LARGEST_HEADER, pack
from gloveport.store.unpacking import entries_of, unpack

__all__ = ["Part", "SavedFile", "read_file", "write_file"]

_PLACES: Mapping[str, str] = {
    BASE_LAYER: WORKSPACE.lstrip("/"),
    "workspace": WORKSPACE.lstrip("/"),
    "tmp": "tmp",
    "home": "home/guest",
}
"""Layer → where a guest has it. The lowest first, as in an image."""
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_LAYOUT, _INDEX, _BLOBS = "oci-layout", "index.json", "blobs/sha256/"
_LAYOUT_VERSION = "1.0.0"
_OURS = "gloveport"
_LARGEST_DOCUMENT = 2**20
_MOST_MEMBERS = 64
_PIECE = 2**20
_LATEST = 2.0**37
"""Seconds since 1970 that a calendar still knows."""
_HINT = "copy the file again, or save the snapshot anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One layer to be written."""

    layer: Layer
    root: Path
    as_is: bool = False
    """It is somebody's own directory, in which nothing may be changed, not for a moment."""


def write_file(file: BinaryIO, snapshot: Snapshot, parts: Mapping[str, Part]) -> Snapshot:
    """Write the snapshot with these layers; what it is once it has been loaded. The same one gives the same bytes.

    Everything is read twice, so that nothing has to be written twice. Raises `Conflict` where a part changes meanwhile,
    `Unsupported` for what no layer of an image can say, and as `cannot_write` for `file`.
    """
    ordered = {name: parts[name] for name in _PLACES if name in parts}
    whole = replace(
        snapshot,
        base=Base(is_covered=snapshot.base.is_covered),
        layers={name: part.layer for name, part in ordered.items()},
    )
    blobs = {name: _pack(whole, name, part, _Measured()) for name, part in ordered.items()}
    config = _document(
        {
            "architecture": "unknown",
            "os": "linux",
            "config": {"User": "1000:1000", "WorkingDir": WORKSPACE},
            "rootfs": {"type": "layers", "diff_ids": [blob.digest for blob in blobs.values()]},
            _OURS: _record(whole),
        }
    )
    manifest = _document(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": _descriptor(_CONFIG_TYPE, _measure(config)),
            "layers": [_descriptor(_LAYER_TYPE, blob) for blob in blobs.values()],
        }
    )
    index = {
        "schemaVersion": 2,
        "mediaType": _INDEX_TYPE,
        "manifests": [_descriptor(_MANIFEST_TYPE, _measure(manifest))],
    }
    out = _Measured(file)
    _add(out, _LAYOUT, _document({"imageLayoutVersion": _LAYOUT_VERSION}))
    _add(out, _INDEX, _document(index))
    for document in (manifest, config):
        _add(out, _BLOBS + _measure(document).hexdigest, document)
    written = set()
    for name, blob in blobs.items():
        if blob.digest not in written:
            written.add(blob.digest)
            _begin(out, _BLOBS + blob.hexdigest, blob.size)
            if _pack(whole, name, ordered[name], _Measured(out)).digest != blob.digest:
                raise Conflict(
                    f"{ordered[name].root} changed while it was saved", hint="save it again when it is at rest"
                )
            _pad(out, blob.size)
    out.write(bytes(2 * tarfile.BLOCKSIZE))
    return whole


class _Measured:
    """Counts and digests what is written, and hands it on; who cannot take it is told from who cannot be read."""

    def __init__(self, file: BinaryIO | _Measured | None = None) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def hexdigest(self) -> str:
        return self._digest.hexdigest()

    @property
    def digest(self) -> str:
        return f"sha256:{self.hexdigest}"

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.size += len(data)
        if self._file is not None:
            try:
                self._file.write(data)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise cannot_write(Path(str(getattr(self._file, "name", "the file"))), error) from error
        return len(data)

    def tell(self) -> int:
        return self.size


def _measure(document: bytes) -> _Measured:
    measured = _Measured()
    measured.write(document)
    return measured


def _pack(snapshot: Snapshot, name: str, part: Part, out: _Measured) -> _Measured:
    covers = name == "workspace" and snapshot.base.is_covered
    pack(part.root, _PLACES[name], cast("BinaryIO", out), covers=covers, as_is=part.as_is)
    return out


def _record(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "format": SNAPSHOT_FORMAT,
        "id": snapshot.id,
        "is_covered": snapshot.base.is_covered,
        "created_at": snapshot.created_at,
        "sandbox": snapshot.sandbox,
        "label": snapshot.label,
        "layers": [{"name": name, **asdict(layer)} for name, layer in snapshot.layers.items()],
    }


def _descriptor(kind: str, blob: _Measured) -> dict[str, Any]:
    return {"mediaType": kind, "digest": blob.digest, "size": blob.size}


def _document(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _add(out: _Measured, name: str, data: bytes) -> None:
    _begin(out, name, len(data))
    out.write(data)
    _pad(out, len(data))


def _begin(out: _Measured, name: str, size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    out.write(entry.tobuf(tarfile.PAX_FORMAT))


def _pad(out: _Measured, size: int) -> None:
    out.write(bytes(-size % tarfile.BLOCKSIZE))


@dataclass(frozen=True, slots=True)
class _Blob:
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file whose every digest is what it says."""

    snapshot: Snapshot
    """What it says it holds; whether it does shows when it has been unpacked."""
    file: BinaryIO
    blobs: Mapping[str, _Blob]

    def unpack(self, name: str, target: Path, *, owner: tuple[int, int] | None = None) -> None:
        """Make one layer's tree. Raises as `gloveport.store.unpacking.unpack`."""
        covers = name == "workspace" and self.snapshot.base.is_covered
        try:
            unpack(_region(self.file, self.blobs[name]), _PLACES[name], target, owner=owner, covers=covers)
        except OSError as error:
            raise _unreadable(error) from error


def read_file(file: BinaryIO) -> SavedFile:
    """Read what a file says it holds, and all of it for its digests. `file` can seek.

    Raises `InvalidRequest` for what is no saved snapshot, or was altered or cut off, and `Unsupported` for a newer one.
    """
    try:
        return _Reader(file).run()
    except OSError as error:
        raise _unreadable(error) from error


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        size = file.seek(0, io.SEEK_END)
        self._members: dict[str, _Blob] = {}
        for entry in entries_of(_region(file, _Blob(0, size))):
            name = entry.name.removeprefix("./")
            if entry.isdir():
                continue
            if not entry.isreg() or name in self._members or len(self._members) == _MOST_MEMBERS:
                raise _broken(f"{name[:200]!r} does not belong there")
            self._members[name] = _Blob(entry.offset_data, entry.size)

    def run(self) -> SavedFile:
        version = self._read(self._member(_LAYOUT)).get("imageLayoutVersion")
        if version != _LAYOUT_VERSION:
            raise _newer(f"its layout is of version {str(version)[:20]!r}")
        manifests = self._read(self._member(_INDEX)).get("manifests")
        if not isinstance(manifests, list) or len(manifests) != 1:
            raise _broken("it does not hold exactly one image")
        manifest = self._read(self._blob(manifests[0], _MANIFEST_TYPE))
        config = self._read(self._blob(manifest.get("config"), _CONFIG_TYPE))
        snapshot = _recorded(config.get(_OURS))
        layers = manifest.get("layers")
        if not isinstance(layers, list) or len(layers) != len(snapshot.layers):
            raise _broken("its layers are not those of its record")
        blobs = {name: self._blob(said, _LAYER_TYPE) for name, said in zip(snapshot.layers, layers, strict=True)}
        return SavedFile(snapshot, self._file, blobs)

    def _member(self, name: str) -> _Blob:
        if name not in self._members:
            raise _broken(f"it has no {name}: it is cut off, altered, or no snapshot")
        return self._members[name]

    def _blob(self, said: Any, kind: str) -> _Blob:
        """What a descriptor names, if it is that."""
        if not isinstance(said, dict) or said.get("mediaType") != kind or not isinstance(said.get("digest"), str):
            raise _broken(f"it does not name its {kind}")
        name = _BLOBS + said["digest"].removeprefix("sha256:")
        blob = self._member(name)
        measured = _Measured()
        region = _region(self._file, blob)
        while piece := region.read(_PIECE):
            measured.write(piece)
        if (measured.digest, measured.size) != (said["digest"], said.get("size")):
            raise _broken(f"{name[:80]} has been altered or cut off")
        return blob

    def _read(self, blob: _Blob) -> dict[str, Any]:
        if blob.size > _LARGEST_DOCUMENT:
            raise _broken("one of its documents is too large")
        try:
            said = json.loads(_region(self._file, blob).read(blob.size))
        except (ValueError, RecursionError) as error:
            raise _broken("one of its documents makes no sense") from error
        if not isinstance(said, dict):
            raise _broken("one of its documents makes no sense")
        return said


def _recorded(said: Any) -> Snapshot:
    """The snapshot that a record is of."""
    if not isinstance(said, dict):
        raise InvalidRequest("it is an image, but no snapshot", hint="name a file of: gloveport save SNAPSHOT FILE")
    if said.get("format") != SNAPSHOT_FORMAT:
        raise _newer(f"its format is {str(said.get('format'))[:20]}, and this version reads {SNAPSHOT_FORMAT}")
    try:
        layers = {
            str(each["name"]): Layer(digest=str(each["digest"]), entries=int(each["entries"]), size=int(each["size"]))
            for each in said["layers"]
        }
        snapshot = Snapshot(
            base=Base(is_covered=bool(said["is_covered"])),
            layers=layers,
            created_at=float(said["created_at"]),
            sandbox=str(said["sandbox"]),
            label=str(said["label"]),
        )
        is_itself = snapshot.id == said["id"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _broken("its record makes no sense") from error
    if not 0 <= snapshot.created_at < _LATEST:
        raise _broken("its record has no time")
    if not is_itself or len(layers) != len(said["layers"]) or not {"workspace"} <= set(layers) <= set(_PLACES):
        raise _broken("its record has been altered")
    return snapshot


def _region(file: BinaryIO, blob: _Blob) -> BinaryIO:
    return cast("BinaryIO", _Region(file, blob))


class _Region(io.RawIOBase):
    """A part of a file as a file, of which nobody gets more at once than it takes: sizes come from strangers."""

    def __init__(self, file: BinaryIO, blob: _Blob) -> None:
        super().__init__()
        self._file = file
        self._blob = blob
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < 0:
            raise ValueError("no such place")
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 2 * LARGEST_HEADER:
            raise ValueError("one of its headers is too large")
        self._file.seek(self._blob.offset + self._at)
        data = self._file.read(max(0, min(size, self._blob.size - self._at)))
        self._at += len(data)
        return data


def _broken(why: str) -> GloveportError:
    return InvalidRequest(f"this is no whole saved snapshot: {why}", hint=_HINT)


def _newer(why: str) -> GloveportError:
    return Unsupported(f"another version wrote this snapshot: {why}", hint="load it with the version that wrote it")


def _unreadable(error: OSError) -> GloveportError:
    return BackendUnavailable(f"the file cannot be read: {error.strerror}", hint="check the disk that holds it")
