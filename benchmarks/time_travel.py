"""Fork, reset and snapshot of a large workspace, against what people do without them; and the disk that forks take."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from benchmarks.measure import Effort, Result, compare, size, spawn
from benchmarks.place import installation
from gloveport.model import Source, Spec
from gloveport.sandbox import Manager, Sandbox

__all__ = ["FILE_BYTES", "fill", "measure"]

FORK_BOUND = 1 / 200
SIZE_BOUND = 1.5
RESET_BOUND = 1 / 5
SNAPSHOT_BOUND = 1.0
DISK_BOUND = 10.0
FILE_BYTES = 50_000
AT_ONCE = 10
"""Forks of one call: what counts of it is a tenth."""
CHANGED = 100
COPIES = 3
FORKS = 100
_CHANGE = f"for i in $(seq 0 {CHANGED - 1}); do echo changed >> d$((i % 100))/f$i; done"


def fill(path: Path, files: int) -> Path:
    """A Git repository of so many files, all committed."""
    path.mkdir(parents=True)
    for number in range(files):
        directory = path / f"d{number % 100}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(FILE_BYTES))
    options = ("user.name=b", "user.email=b@localhost", "core.compression=0", "gc.auto=0", "maintenance.auto=false")
    git = ["git", "-C", str(path), *(word for option in options for word in ("-c", option))]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    return path


@contextmanager
def _trees(large: int, small: int) -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(prefix="gloveport-bench-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield fill(Path(name) / "large", large), fill(Path(name) / "small", small)


async def measure(effort: Effort) -> list[Result]:
    """All rows. The trees are made once; copies of the large one are the slow part."""
    large, small = (10_000, 2_000) if effort.slow > COPIES else (200, 100)
    with _trees(large, small) as (whole, fifth), installation() as settings:
        async with Manager(settings) as manager:
            sandbox = Sandbox(await manager.create(Spec(source=Source(repo=str(whole)))))
            other = Sandbox(await manager.create(Spec(source=Source(repo=str(fifth)))))
            copies = [await _copy(whole) for _ in range(COPIES)]
            forks = [await _fork(manager, sandbox) for _ in range(COPIES)]
            rounds = range(effort.slow)
            ours = [await _fork(manager, sandbox) for _ in rounds]
            theirs = [await _fork(manager, other) for _ in rounds]
            resets = [await _reset(manager, sandbox) for _ in rounds]
            git_resets = [await _git_reset(whole) for _ in rounds]
            snapshots = [await _snapshot(manager, sandbox) for _ in rounds]
            git_trees = [await _git_tree(whole) for _ in rounds]
            grown = await _disk(manager, sandbox, FORKS if effort.slow > COPIES else AT_ONCE)
    megabytes = large * FILE_BYTES // 1_000_000
    name = f"of {large:,} files, {megabytes} MB"
    return [
        compare(f"fork {name}, each of {AT_ONCE}", forks, copies, against="cp -a", bound=FORK_BOUND),
        compare("the same, against a fifth of the size", ours, theirs, against="a fifth", bound=SIZE_BOUND),
        compare(
            f"reset after {CHANGED} changed files",
            resets,
            git_resets,
            against="git reset --hard && git clean -fdx",
            bound=RESET_BOUND,
        ),
        compare(
            f"snapshot after {CHANGED} changed files",
            snapshots,
            git_trees,
            against="git add -A && git write-tree",
            bound=SNAPSHOT_BOUND,
        ),
        size(f"disk of {FORKS} forks beyond one", grown, bound=DISK_BOUND, rounds=1, note="blocks of their places"),
    ]


async def _copy(tree: Path) -> float:
    target = tree.with_name("copy")
    took = await spawn("cp", "-a", str(tree), str(target))
    shutil.rmtree(target)
    return took


async def _fork(manager: Manager, sandbox: Sandbox) -> float:
    began = time.perf_counter()
    forks = await sandbox.fork(AT_ONCE)
    took = (time.perf_counter() - began) / AT_ONCE
    for fork in forks:
        await manager.delete(fork.id)
    return took


async def _change(sandbox: Sandbox) -> None:
    done = await sandbox.exec(("sh", "-c", _CHANGE))
    if not done.ok:
        raise RuntimeError(done.stderr.decode())


async def _tidied(manager: Manager) -> None:
    """Until what earlier rounds threw away is gone: the runner removes it aside, and would do so beside this one."""
    trash = manager.settings.state / "trash"
    while trash.exists() and any(trash.iterdir()):  # noqa: ASYNC110 - a directory has no event
        await anyio.sleep(0.01)


async def _reset(manager: Manager, sandbox: Sandbox) -> float:
    await _tidied(manager)
    await _change(sandbox)
    began = time.perf_counter()
    await sandbox.reset()
    return time.perf_counter() - began


async def _snapshot(manager: Manager, sandbox: Sandbox) -> float:
    await sandbox.reset()
    await _tidied(manager)
    await _change(sandbox)
    began = time.perf_counter()
    await sandbox.snapshot()
    return time.perf_counter() - began


async def _git_reset(tree: Path) -> float:
    await spawn("sh", "-c", f"cd {tree} && {_CHANGE}")
    return await spawn("sh", "-c", f"cd {tree} && git reset -q --hard && git clean -qfdx")


async def _git_tree(tree: Path) -> float:
    await spawn("sh", "-c", f"cd {tree} && {_CHANGE}")
    return await spawn("sh", "-c", f"cd {tree} && git add -A && git write-tree", quiet=True)


async def _disk(manager: Manager, sandbox: Sandbox, count: int) -> float:
    """Bytes that the places of so many forks take, less those of one."""
    forks = await sandbox.fork(count)
    places = [manager.settings.state / "sandboxes" / fork.id for fork in forks]
    taken = [_blocks(place) for place in places]
    for fork in forks:
        await manager.delete(fork.id)
    return sum(taken) - statistics.median(taken)


def _blocks(place: Path) -> int:
    """What is allocated below a directory; the workspace itself is mounted elsewhere."""
    return sum(
        os.lstat(os.path.join(top, name)).st_blocks * 512
        for top, directories, files in os.walk(place)
        for name in (*directories, *files)
    )
