"""A group of version 2 that was delegated to an ordinary user, on the real kernel."""

from __future__ import annotations

import codecs
import os
import secrets
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from gloveport.backends.bubblewrap import cgroups
from gloveport.backends.bubblewrap.cgroups import find_cgroups

NOBODY = 65_534
CONTROLLER = "hugetlb"
"""The one that machines with version 1 groups have left for version 2."""
TREES = [
    tree
    for tree in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
    if (tree / "cgroup.controllers").is_file() and CONTROLLER in (tree / "cgroup.controllers").read_text().split()
]


@pytest.fixture
def delegated() -> Iterator[Path]:
    """As a service manager makes it: the group and its files belong to the user."""
    group = TREES[0] / f"gloveport-test-{secrets.token_hex(4)}.scope"
    (TREES[0] / "cgroup.subtree_control").write_text(f"+{CONTROLLER}")
    group.mkdir()
    for path in (group, *group.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    yield group
    for directory in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        directory.rmdir()
    group.rmdir()


@pytest.mark.needs("root")
@pytest.mark.skipif(not TREES, reason="no version 2 group with a free controller here")
def test_the_owner_of_a_delegated_group_may_limit_although_it_is_in_it_itself(
    delegated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel hands controllers down only from groups without processes: this one has to move."""
    monkeypatch.setattr(cgroups, "_CONTROLLERS", (CONTROLLER,))
    codecs.lookup("ascii")  # loaded here: the other user may not be able to read this Python's library
    child = os.fork()
    if child == 0:
        try:
            (delegated / "cgroup.procs").write_text(str(os.getpid()))
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            found = [find_cgroups("/somewhere", TREES[0]) for _ in range(2)]
            parents = {group.roots[CONTROLLER] for group in found}
            (parent,) = parents
            os._exit(0 if parent.parent == delegated and CONTROLLER in _handed_down(parent) else 1)
        except BaseException:  # noqa: BLE001 - the child must not become a second pytest
            traceback.print_exc()
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _handed_down(group: Path) -> list[str]:
    return (group / "cgroup.controllers").read_text().split()
