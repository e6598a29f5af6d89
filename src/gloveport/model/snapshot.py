"""Snapshots: immutable saved states of a sandbox, each named by a digest of what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

__all__ = ["BASE_LAYER", "SNAPSHOT_FORMAT", "Base", "Layer", "Snapshot"]

SNAPSHOT_FORMAT = 1
BASE_LAYER = "base"
"""Of a snapshot that was loaded from a file: the source, which it brings with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What a snapshot's workspace layer lies on."""

    path: str = ""
    """A directory of this host; empty for an empty workspace, or where a layer of the snapshot has the source."""
    fingerprint: str = ""
    """Of every name, size and time in it, in hexadecimal. Empty for the platform's own trees: nobody changes those."""
    is_covered: bool = False
    """Nothing of it shows: the layer holds everything, and the base is only what a diff compares with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One sealed tree."""

    digest: str
    """SHA-256 of its entries, each with type, mode, time, content, attributes and links; in hexadecimal."""
    entries: int
    size: int
    """Bytes of its regular files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The files of a sandbox at one moment. Processes are not part of it."""

    base: Base
    layers: Mapping[str, Layer]
    """`workspace` (what differs from the base), `tmp` and `home`; and `base`, where the snapshot has its own."""
    created_at: float
    """Seconds since 1970."""
    sandbox: str
    """Whose state it is."""
    label: str = ""

    @property
    def id(self) -> str:
        """`sha256:` and a digest of base and layers: two snapshots of one state are one."""
        layers = {name: asdict(layer) for name, layer in self.layers.items()}
        said = {"format": SNAPSHOT_FORMAT, "base": asdict(self.base), "layers": layers}
        return f"sha256:{hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}"

    @property
    def entries(self) -> int:
        """Files, directories and links of all layers."""
        return sum(layer.entries for layer in self.layers.values())

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(layer.size for layer in self.layers.values())
