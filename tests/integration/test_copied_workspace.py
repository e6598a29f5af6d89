"""Where an overlay cannot be mounted the workspace is a copy, and everything else is the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gloveport.model import ChangeKind, Source, Spec
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.needs("root")]


async def test_a_state_directory_that_holds_no_overlay_gets_a_copy(
    on_overlay: Path, place: Path, make_repository: Callable[[Mapping[str, str]], Path]
) -> None:
    repository = make_repository({"a.txt": "one\n", "sub/b.txt": "two\n"})
    async with Manager(Settings(state=on_overlay / "state", data=place / "data")) as manager:
        sandbox = Sandbox(await manager.create(Spec(source=Source(repo=str(repository)))))
        held = sandbox._backend._backend._sandboxes[sandbox.id]
        assert held.workspace.copied_at is not None, "this kernel can mount an overlay there after all"
        done = await sandbox.exec(
            shell_request("cat a.txt; echo more >> a.txt; rm sub/b.txt; id -u; git status --short")
        )
        assert done.text.splitlines() == ["one", "1000", " M a.txt", " D sub/b.txt"]
        found = {change.path: change.kind for change in (await sandbox.changes()).changes}
        assert found == {"a.txt": ChangeKind.MODIFIED, "sub/b.txt": ChangeKind.DELETED}
        assert b"+more" in (await sandbox.diff()).data
    assert (repository / "a.txt").read_text() == "one\n"
