"""The way out of a sandbox against the same client and server without one: connections, requests, and throughput."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import anyio.to_thread

from benchmarks.exec import create_by_runner
from benchmarks.measure import MIB, Effort, Result, Sample, add, compare, interleave, unmeasured
from benchmarks.peers import Absent
from benchmarks.place import installation, runner
from gloveport.client import connect, encode
from gloveport.model import EgressRule, ExecRequest, Origin, Policy, PolicyLayer, Spec, Verdict
from gloveport.settings import Settings

__all__ = ["allowing", "measure", "measure_throughput"]

CONNECT_BOUND_MS = 1.5
REQUEST_BOUND_MS = 0.3
THROUGHPUT_BOUND = 0.2
PEER_BOUND = 2.0
DIRECT = "direct, over loopback"
_HOST = "127.0.0.1"
_CONNECTS, _REQUESTS = 40, 200
_BYTES = 256 * MIB
_PATIENCE = 60.0
_PYTHON = "/usr/bin/python3"
"""What guest and host both have."""
_PROGRAM = (Path(__file__).parent / "traffic.py").read_text("utf-8")

Client = Callable[..., Awaitable[list[float]]]
"""Runs the program's client: its words → the seconds that it prints."""


async def measure(effort: Effort) -> list[Result]:
    """A new connection, and requests on one that is there: the median milliseconds that the way out adds."""
    async with _both_sides() as (port, guest, host):
        seconds = await _interleave(
            {
                "connect": partial(guest, "connect", _HOST, port, _CONNECTS),
                "direct connect": partial(host, "connect", _HOST, port, _CONNECTS),
                "tunnel": partial(guest, "tunnel", _HOST, port, _REQUESTS),
                "direct tunnel": partial(host, "tunnel", _HOST, port, _REQUESTS),
                "request": partial(guest, "request", _HOST, port, _REQUESTS),
            },
            effort,
        )
    direct = seconds["direct tunnel"]
    return [
        add(
            "new CONNECT through guest and proxy, added",
            seconds["connect"],
            seconds["direct connect"],
            against=DIRECT,
            bound=CONNECT_BOUND_MS,
        ),
        add("kept-alive request in a tunnel, added", seconds["tunnel"], direct, against=DIRECT, bound=REQUEST_BOUND_MS),
        add(
            "kept-alive plain HTTP request, decided by itself, added",
            seconds["request"],
            direct,
            against=DIRECT,
        ),
    ]


async def measure_throughput(effort: Effort) -> list[Result]:
    """256 MiB from the server to the client: how much of the direct speed is left, and of srt's."""
    against_srt = "throughput through guest and proxy, against srt's"
    async with _both_sides() as (port, guest, host):
        samples = {
            "guest": partial(guest, "take", _HOST, port, _BYTES),
            "direct": partial(host, "take", _HOST, port, _BYTES),
        }
        async with AsyncExitStack() as stack:
            try:
                srt = await stack.enter_async_context(_srt(port))
                samples["srt"] = partial(srt, "take", "localhost", port, _BYTES)
                why = ""
            except Absent as absent:
                why = str(absent)
            seconds = await _interleave(samples, effort)
    ours = compare(
        "throughput through guest and proxy",
        seconds["guest"],
        seconds["direct"],
        against=DIRECT,
        bound=THROUGHPUT_BOUND,
        at_least=True,
    )
    if "srt" not in seconds:
        return [ours, unmeasured(against_srt, why)]
    theirs = compare(
        against_srt,
        seconds["guest"],
        seconds["srt"],
        against="the same under srt",
        bound=PEER_BOUND,
        at_least=True,
    )
    return [ours, theirs]


def allowing(*hosts: str) -> Policy:
    """One rule for each; they may be places of this host."""
    rules = tuple(EgressRule(verdict=Verdict.ALLOW, host=host, private=True) for host in hosts)
    return Policy(layers=(PolicyLayer(origin=Origin(layer="project"), egress=rules),))


async def _interleave(
    clients: Mapping[str, Callable[[], Awaitable[list[float]]]], effort: Effort
) -> dict[str, list[float]]:
    """One client after the other, round by round: the median of what each prints."""

    def sample(client: Callable[[], Awaitable[list[float]]]) -> Sample:
        async def take() -> float:
            return statistics.median(await client())

        return take

    return await interleave({name: sample(client) for name, client in clients.items()}, rounds=effort.slow, warmup=1)


@asynccontextmanager
async def _both_sides() -> AsyncIterator[tuple[int, Client, Client]]:
    """The server's port, and a client in a guest and one beside it. The runner is a real one."""
    with _server() as port, installation() as settings, runner(settings):
        sandbox = await anyio.to_thread.run_sync(create_by_runner, settings, Spec(policy=allowing(_HOST)))

        async def guest(*words: str | int) -> list[float]:
            return await anyio.to_thread.run_sync(_in_guest, settings, sandbox, _argv(*words))

        yield port, guest, _beside


async def _beside(*words: str | int) -> list[float]:
    """On the host, without a proxy."""
    env = {name: value for name, value in os.environ.items() if name != "HTTP_PROXY"}
    return await _run(*_argv(*words), env=env)


async def _run(*argv: str, env: Mapping[str, str] | None = None, cwd: str | None = None) -> list[float]:
    with anyio.fail_after(_PATIENCE):
        done = await anyio.run_process(argv, env=env, cwd=cwd)
    return _seconds(done.stdout)


def _in_guest(settings: Settings, sandbox: str, argv: tuple[str, ...]) -> list[float]:
    printed: list[bytes] = []
    request = encode(ExecRequest(argv=argv, timeout=_PATIENCE))
    with connect(settings) as connection:
        ended = connection.call("exec", sink=printed.append, id=sandbox, request=request)["exit"]
    if ended["code"] != 0:
        raise RuntimeError(f"the client in the guest: {ended}")
    return _seconds(b"".join(printed))


def _seconds(printed: bytes) -> list[float]:
    return [float(took) for took in json.loads(printed)]


def _argv(*words: str | int) -> tuple[str, ...]:
    return (_PYTHON, "-c", _PROGRAM, *map(str, words))


@contextmanager
def _server() -> Iterator[int]:
    with subprocess.Popen(_argv("serve"), stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is None:
                raise RuntimeError("the server has no output")
            yield int(process.stdout.readline())
        finally:
            process.kill()


@asynccontextmanager
async def _srt(port: int) -> AsyncIterator[Client]:
    """A client under srt. Raises `Absent` on entering."""
    srt = shutil.which("srt")
    if srt is None:
        raise Absent("srt is not installed")
    with tempfile.TemporaryDirectory(prefix="gloveport-bench-srt-") as name:
        settings, program = Path(name) / "settings.json", Path(name) / "traffic.py"
        program.write_text(_PROGRAM, "utf-8")
        network = {"allowedDomains": ["localhost"], "deniedDomains": []}
        files = {"denyRead": [], "allowWrite": [name], "denyWrite": []}
        settings.write_text(json.dumps({"network": network, "filesystem": files}), "utf-8")

        async def client(*words: str | int) -> list[float]:
            argv = (srt, "--settings", str(settings), _PYTHON, str(program), *map(str, words))
            return await _run(*argv, cwd=name)

        try:
            await client("connect", "localhost", port, 1)
        except (subprocess.CalledProcessError, TimeoutError, ValueError) as error:
            raise Absent("srt is installed, but its proxy leads nowhere here") from error
        yield client
