"""A snapshot in the making."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gloveport.model import Layer
from gloveport.store.copying import seal
from gloveport.store.layers import ReadLayer, glance, read_layer
from gloveport.store.layout import remove_tree
from gloveport.store.tree import ACLS

__all__ = ["LAYERS", "Draft"]

LAYERS = "layers"
"""The directory of a snapshot's layers."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A snapshot in the making."""

    path: Path
    known: dict[str, Layer] = field(default_factory=dict)
    """What its layers are, as far as that is known without reading them."""

    def seal(
        self,
        name: str,
        sources: Sequence[Path],
        *,
        owner: tuple[int, int] | None,
        under: Path | None = None,
        one_device: bool = False,
    ) -> None:
        """Copy trees into a new layer. Arguments and errors are those of `copying.seal`."""
        layer = seal(sources, self.layer(name), owner=owner, under=under, one_device=one_device)
        if layer is not None:
            self.known[name] = layer

    def layer(self, name: str) -> Path:
        """A new directory for one layer's files. For this user alone."""
        path = self.path / LAYERS / name
        path.mkdir(mode=0o700)
        for inherited in ACLS:  # what is copied into it would have them, too
            with suppress(OSError):
                os.removexattr(path, inherited)
        return path

    def read(self) -> dict[str, ReadLayer]:
        """What its layers are, by their names: what is not known is read. Raises as `read_layer`."""
        return {path.name: self._read(path) for path in sorted((self.path / LAYERS).iterdir())}

    def clear(self) -> None:
        """Remove every layer, if it has not been kept: many files take their time."""
        remove_tree(self.path / LAYERS)

    def _read(self, path: Path) -> ReadLayer:
        known = self.known.get(path.name)
        return read_layer(path) if known is None else ReadLayer(known, glance(path))
