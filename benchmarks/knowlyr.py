"""Create, exec, snapshot, reset and close beside knowlyr-sandbox on dockerd, where a person has installed both."""

from __future__ import annotations

import importlib
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from benchmarks.measure import Effort, Result, Sample, compare, interleave, unmeasured
from benchmarks.peers import Absent
from benchmarks.place import installation
from benchmarks.time_travel import FILE_BYTES, fill
from gloveport.model import Source, Spec
from gloveport.sandbox import Held, Manager, Sandbox

__all__ = ["DISTRIBUTION", "ROWS", "measure", "packed"]

BOUND = 20.0
ROWS = ("create + first exec", "exec", "snapshot", "reset", "close")
MANY = "snapshot of ten changed files"
"""A row without a bound: what is copied grows with what was changed, and a commit of docker's hardly does."""
DISTRIBUTION = "knowlyr-sandbox"
FILES = 20
_IMAGE = "gloveport-bench-git"
_PROGRAMS = ("bash", "/bin/sh", "git", "git-upload-pack", "sleep", "stat")
_REPOSITORY = "/repository"
_CHANGE = "echo changed >> d0/f0; echo new > new"
_MANY = "for i in {0..9}; do echo changed >> d$i/f$i; done; echo new > new"
_CHECK = f"test ! -e new && test $(stat -c %s d0/f0) = {FILE_BYTES}"
_REST = 0.2
"""Seconds after each sample of either side: what it leaves to be done would otherwise be done beside the other's."""


async def measure(effort: Effort) -> list[Result]:
    """All rows, from the same rounds; without figures, and with the reason, where the other cannot be measured."""
    try:
        async with _both() as (ours, theirs, against):
            rows = (*ROWS, MANY)
            samples = {name: sample for row in rows for name, sample in ((row, ours[row]), (f"-{row}", theirs[row]))}
            rested = {name: partial(_rested, sample) for name, sample in samples.items()}
            seconds = await interleave(rested, rounds=effort.slow, warmup=1)
    except Absent as why:
        return [unmeasured(_title(row), str(why)) for row in (*ROWS, MANY)]
    return [
        compare(
            _title(row),
            seconds[row],
            seconds[f"-{row}"],
            against=against,
            bound=BOUND if row in ROWS else None,
            at_least=True,
        )
        for row in (*ROWS, MANY)
    ]


def packed(repository: Path) -> bytes:
    """The tar of an image: the host's programs with the libraries they are linked with, and the repository."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", dereference=True) as tar:
        for path in sorted({file for program in _PROGRAMS for file in _linked(program)}):
            tar.add(path, filter=_roots)
        tar.add(repository, _REPOSITORY, filter=_roots)
    return written.getvalue()


class _Ours:
    """The library: `Manager` and `Sandbox`, on a commit of a repository, which was fetched before."""

    def __init__(self, manager: Manager, repository: Path, commit: str) -> None:
        self._manager = manager
        self._spec = Spec(source=Source(repo=str(repository), commit=commit))
        self._made: list[Held] = []

    async def open(self) -> dict[str, Sample]:
        """The samples by their rows."""
        await self.create()  # every other round closes before it creates
        self._kept = Sandbox(await self._manager.create(self._spec))
        await self.reset()  # from its second reset on a sandbox is quicker
        edited, many = partial(self.snapshot, _CHANGE), partial(self.snapshot, _MANY)
        works = (self.create, self.execute, edited, self.reset, self.close, many)
        return dict(zip((*ROWS, MANY), works, strict=True))

    async def create(self) -> float:
        began = time.perf_counter()
        held = await self._manager.create(self._spec)
        await _run(Sandbox(held), "true")
        took = time.perf_counter() - began
        self._made.append(held)
        return took

    async def execute(self) -> float:
        began = time.perf_counter()
        await _run(self._kept, "true")
        return time.perf_counter() - began

    async def snapshot(self, change: str) -> float:
        await _run(self._kept, change)
        began = time.perf_counter()
        await self._kept.snapshot()
        return time.perf_counter() - began

    async def reset(self) -> float:
        await _run(self._kept, _CHANGE)
        began = time.perf_counter()
        await self._kept.reset()
        took = time.perf_counter() - began
        await _run(self._kept, _CHECK)
        return took

    async def close(self) -> float:
        held = self._made.pop(0)
        began = time.perf_counter()
        await self._manager.delete(held.ref.id)
        return time.perf_counter() - began


class _Theirs:
    """Its library, as its own documentation uses it. It blocks, so that a thread calls it."""

    def __init__(self, commit: str) -> None:
        module: Any = importlib.import_module("agentsandbox.sandbox")
        config = module.SandboxConfig(image=_IMAGE)
        task = module.TaskConfig(repo_url=_REPOSITORY, base_commit=commit)
        if task.validate():
            raise Absent(f"another version than was compared: {task.validate()}")
        self._new: Callable[[], Any] = partial(module.Sandbox.create, config, task)
        # Where it has a commit its reset keeps the changes; so what is reset has none.
        bare = module.TaskConfig(repo_url=_REPOSITORY)
        self._new_without: Callable[[], Any] = partial(module.Sandbox.create, config, bare)
        self._made: list[Any] = []
        self._kept: Any = None

    def open(self) -> dict[str, Sample]:
        """The samples by their rows; all of them are called in a thread."""
        self.create()
        self._kept = self._new_without()
        edited, many = partial(self.snapshot, _CHANGE), partial(self.snapshot, _MANY)
        works: list[Callable[[], float]] = [self.create, self.execute, edited, self.reset, self.close, many]
        return {row: partial(anyio.to_thread.run_sync, work) for row, work in zip((*ROWS, MANY), works, strict=True)}

    def create(self) -> float:
        began = time.perf_counter()
        made = self._new()
        self._run(made, "true")
        took = time.perf_counter() - began
        self._made.append(made)
        return took

    def execute(self) -> float:
        began = time.perf_counter()
        self._run(self._kept, "true")
        return time.perf_counter() - began

    def snapshot(self, change: str) -> float:
        self._run(self._kept, change)
        began = time.perf_counter()
        self._kept.snapshot()
        return time.perf_counter() - began

    def reset(self) -> float:
        self._run(self._kept, _CHANGE)
        began = time.perf_counter()
        self._kept.reset()
        took = time.perf_counter() - began
        self._run(self._kept, _CHECK)
        return took

    def close(self) -> float:
        made = self._made.pop(0)
        began = time.perf_counter()
        made.close()
        return time.perf_counter() - began

    def end(self) -> None:
        """Close what is left, and with it remove its snapshots."""
        for made in (*self._made, self._kept):
            if made is not None:
                made.close()

    @staticmethod
    def _run(made: Any, command: str) -> None:
        done = made.execute_tool("shell", {"command": command})
        if done.exit_code:
            raise RuntimeError(f"{DISTRIBUTION}: {command!r} exited {done.exit_code}: {done.error}")


@asynccontextmanager
async def _both() -> AsyncIterator[tuple[dict[str, Sample], dict[str, Sample], str]]:
    """The samples of both, and what the other is called."""
    try:
        against = f"{DISTRIBUTION} {version(DISTRIBUTION)}"
    except PackageNotFoundError:
        raise Absent("not installed") from None
    with _repository() as repository, _image(repository), installation() as settings:
        async with Manager(settings) as manager:
            commit = _head(repository)
            theirs = _Theirs(commit)
            try:
                yield await _Ours(manager, repository, commit).open(), await _opened(theirs), against
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(theirs.end)


async def _opened(theirs: _Theirs) -> dict[str, Sample]:
    try:
        return await anyio.to_thread.run_sync(theirs.open)
    except Exception as error:  # whatever its libraries raise
        raise Absent(f"installed, but it makes no sandbox here: {_line(error)}") from error


@contextmanager
def _repository() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gloveport-bench-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield fill(Path(name) / "repository", FILES)


@contextmanager
def _image(repository: Path) -> Iterator[None]:
    """An image of the host's programs, since its own needs a registry and lacks git. Found as its library finds it."""
    docker: Any = importlib.import_module("docker")
    try:
        client = docker.from_env()
    except docker.errors.DockerException as error:
        raise Absent(f"installed, but no docker daemon can be used: {_line(_first(error))}") from error
    try:
        try:
            client.api.import_image_from_data(packed(repository), repository=_IMAGE)
        except (docker.errors.DockerException, OSError) as error:
            raise Absent(f"installed, but an image cannot be made of this host's programs: {_line(error)}") from error
        try:
            yield
        finally:
            client.images.remove(_IMAGE, force=True)
    finally:
        client.close()


def _head(repository: Path) -> str:
    said = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return said.stdout.strip()


def _linked(program: str) -> list[str]:
    """Where a program and its libraries are. Raises `OSError` where they cannot be told."""
    found = shutil.which(program)
    if found is None:
        raise FileNotFoundError(f"no {program}")
    listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
    return [found, *re.findall(r"(/\S+) \(0x", listed)]


def _roots(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    return entry


async def _run(sandbox: Sandbox, command: str) -> None:
    done = await sandbox.exec(("bash", "-c", command))
    if not done.ok:
        raise RuntimeError(f"{command!r} in a sandbox: {done.exit}: {done.stderr.decode()}")


async def _rested(sample: Sample) -> float:
    took = await sample()
    await anyio.sleep(_REST)
    return took


def _first(error: BaseException) -> BaseException:
    """What went wrong before anything was made of it: that a user may not is said in five words."""
    below = error.__cause__ or error.__context__
    return error if below is None else _first(below)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _title(row: str) -> str:
    return f"{row}, beside {DISTRIBUTION}"
