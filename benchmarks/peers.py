"""The same for docker, srt and SWE-ReX where they are installed: rows without a bound, measured in the same run."""

from __future__ import annotations

import importlib
import importlib.util
import io
import shutil
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.create import ONE_SHOT, one_shot
from benchmarks.exec import SPAWN
from benchmarks.measure import Effort, Result, Sample, compare, interleave, spawn, unmeasured

__all__ = ["PEERS", "Absent", "Peer", "measure"]

_IMAGE = "gloveport-bench-empty"
_PATIENCE = 20.0


class Absent(Exception):
    """The peer cannot be measured here; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Something else that runs commands, as rows."""

    creates: str
    """Name of the row for a sandbox and its first command; empty if there is none."""
    execs: str
    """Name of the row for a command in one that is there; empty if there is none."""
    open: Callable[[], AbstractAsyncContextManager[tuple[Sample | None, Sample | None]]]
    """Both samples. Raises `Absent` on entering."""


async def measure(effort: Effort) -> list[Result]:
    """Every peer's rows, interleaved with the baselines of our own."""
    results: list[Result] = []
    creates: dict[str, Sample] = {}
    execs: dict[str, Sample] = {}
    async with AsyncExitStack() as stack:
        for peer in PEERS:
            try:
                create, execute = await stack.enter_async_context(peer.open())
            except Absent as why:
                results += [unmeasured(name, str(why)) for name in (peer.creates, peer.execs) if name]
                continue
            creates |= {peer.creates: create} if create is not None else {}
            execs |= {peer.execs: execute} if execute is not None else {}
        results += await _rows(creates, partial(spawn, *one_shot()), ONE_SHOT, effort)
        results += await _rows(execs, partial(spawn, "/bin/true"), SPAWN, effort)
    return results


async def _rows(subjects: dict[str, Sample], baseline: Sample, against: str, effort: Effort) -> list[Result]:
    if not subjects:
        return []
    seconds = await interleave({against: baseline, **subjects}, rounds=effort.slow, warmup=1)
    return [compare(name, seconds[name], seconds[against], against=against) for name in subjects]


@asynccontextmanager
async def _docker() -> AsyncIterator[tuple[Sample | None, Sample | None]]:
    """The command line, as people use it: an empty image, the host's programs mounted read-only, no network."""
    docker = shutil.which("docker")
    if docker is None:
        raise Absent("not installed")
    if not _succeeds(docker, "info"):
        raise Absent("installed, but no daemon answers")
    nothing = io.BytesIO()
    tarfile.open(fileobj=nothing, mode="w").close()
    if not _succeeds(docker, "import", "-", _IMAGE, given=nothing.getvalue()):
        raise Absent("installed, but an empty image cannot be made")
    common = ["--rm", "--network", "none", *_host_programs(), _IMAGE]
    kept = "gloveport-bench"
    try:
        if not _succeeds(docker, "run", "--detach", "--name", kept, *common, "/bin/sleep", "infinity"):
            raise Absent("installed, but it runs nothing here")
        try:
            yield (
                partial(spawn, docker, "run", *common, "/bin/true", quiet=True),
                partial(spawn, docker, "exec", kept, "/bin/true", quiet=True),
            )
        finally:
            _succeeds(docker, "rm", "--force", kept)
    finally:
        _succeeds(docker, "rmi", "--force", _IMAGE)


@asynccontextmanager
async def _srt() -> AsyncIterator[tuple[Sample | None, Sample | None]]:
    """A new sandbox for each command: there is nothing to keep."""
    srt = shutil.which("srt")
    if srt is None:
        raise Absent("not installed")
    if not _succeeds(srt, "/bin/true"):
        raise Absent("installed, but `srt /bin/true` fails")
    yield partial(spawn, srt, "/bin/true", quiet=True), None


@asynccontextmanager
async def _swerex() -> AsyncIterator[tuple[Sample | None, Sample | None]]:
    """Its local deployment: no isolation, so this is the least that it can cost."""
    if importlib.util.find_spec("swerex") is None:
        raise Absent("not installed")
    runtimes: Any = importlib.import_module("swerex.runtime.abstract")
    deployment: Any = importlib.import_module("swerex.deployment.local").LocalDeployment()
    await deployment.start()
    numbers = iter(range(1_000_000))

    async def run(session: str) -> None:
        await deployment.runtime.run_in_session(runtimes.BashAction(command="/bin/true", session=session))

    async def create() -> float:
        session = f"bench-{next(numbers)}"
        began = time.perf_counter()
        await deployment.runtime.create_session(runtimes.CreateBashSessionRequest(session=session))
        await run(session)
        took = time.perf_counter() - began
        await deployment.runtime.close_session(runtimes.CloseBashSessionRequest(session=session))
        return took

    async def execute() -> float:
        began = time.perf_counter()
        await run("kept")
        return time.perf_counter() - began

    try:
        await deployment.runtime.create_session(runtimes.CreateBashSessionRequest(session="kept"))
        yield create, execute
    finally:
        await deployment.stop()


def _host_programs() -> list[str]:
    shown = [path for path in ("/usr", "/bin", "/lib", "/lib64") if Path(path).exists()]
    return [part for path in shown for part in ("--volume", f"{path}:{path}:ro")]


def _succeeds(*argv: str, given: bytes = b"") -> bool:
    try:
        done = subprocess.run(argv, input=given, capture_output=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


PEERS = (
    Peer(creates="docker run --rm, command line", execs="docker exec, command line", open=_docker),
    Peer(creates="srt, one command, command line", execs="", open=_srt),
    Peer(
        creates="SWE-ReX new session + first command, local, no isolation",
        execs="SWE-ReX command in a session, local, no isolation",
        open=_swerex,
    ),
)
