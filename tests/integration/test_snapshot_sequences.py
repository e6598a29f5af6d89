"""Random edits, a snapshot, more edits, a reset: two hundred times, and everything is as it was at the snapshot."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from gloveport.model import Source, Spec
from gloveport.sandbox import Manager, Sandbox
from gloveport.store import read_layer

from ..conftest import PATIENCE  # noqa: TID252 - tests are no package of ours
from .test_snapshots import DIGEST, EDIT, EDITS, edit, run, tree

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

SEQUENCES = 200
AFRESH = 20
"""Sequences that go on from one another."""


async def test_any_edits_are_undone_to_the_byte_by_a_reset_to_the_snapshot_before_them(
    manager: Manager, place: Path
) -> None:
    source = place / "source"
    for name in ("a", "d/x", "d/e/y", "f/z"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    sandbox = Sandbox(await manager.create(Spec(source=Source(repo=str(source)))))
    for first in range(0, SEQUENCES, AFRESH):
        await sandbox.reset("base")
        await manager.prune()
        wanted = None
        for seed in range(first, first + AFRESH):
            with anyio.fail_after(PATIENCE):
                # What the last reset left and what is there to be saved, in one start of an interpreter.
                said = (await run(sandbox, DIGEST + EDIT + DIGEST, seed, EDITS)).splitlines()
                left, before = map(json.loads, said)
                assert wanted in (None, left), f"seed {seed - 1}"
                snapshot = await sandbox.snapshot()
                for name, layer in snapshot.layers.items():
                    assert read_layer(manager.snapshots.layer(snapshot, name)).layer == layer, f"seed {seed}"
                await edit(sandbox, seed + SEQUENCES)
                await sandbox.reset(snapshot.id)
                wanted = before
        assert await tree(sandbox) == wanted
