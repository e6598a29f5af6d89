"""What 64 MiB of output cost the runner in memory: its peak while a client takes them, above what it had before."""

from __future__ import annotations

import re
from pathlib import Path

import anyio.to_thread

from benchmarks.exec import create_by_runner
from benchmarks.measure import MIB, Effort, Result, size
from benchmarks.place import installation, runner
from gloveport.client import connect, encode
from gloveport.model import ExecRequest
from gloveport.settings import Settings

__all__ = ["measure"]

BOUND = 16.0
STREAMED = 64 * MIB
_RESET_PEAK = "5"
_KIB = 1024


async def measure(effort: Effort) -> list[Result]:
    """The largest growth of several runs in one runner."""
    return [await anyio.to_thread.run_sync(_measure, effort.streams)]


def _measure(runs: int) -> Result:
    with installation() as settings, runner(settings) as pid:
        sandbox = create_by_runner(settings)
        growths = [_stream(settings, sandbox, pid) for _ in range(runs)]
    return size("runner's growth, 64 MiB of output streamed", max(growths), bound=BOUND, rounds=runs, note="peak RSS")


def _stream(settings: Settings, sandbox: str, pid: int) -> int:
    request = ExecRequest(argv=("head", "-c", str(STREAMED), "/dev/zero"), output_bytes=STREAMED)
    taken = 0

    def take(data: bytes) -> None:
        nonlocal taken
        taken += len(data)

    # Without this the peak would be that of the runner's start, and a growth below it would not show.
    (Path("/proc") / str(pid) / "clear_refs").write_text(_RESET_PEAK, "ascii")
    before = _status(pid, "VmRSS")
    with connect(settings) as connection:
        ended = connection.call("exec", sink=take, id=sandbox, request=encode(request))["exit"]
    if ended["code"] != 0 or taken != STREAMED:
        raise RuntimeError(f"{taken} bytes arrived: {ended}")
    return _status(pid, "VmHWM") - before


def _status(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", (Path("/proc") / str(pid) / "status").read_text("ascii"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"no {field} of process {pid}")
    return int(found[1]) * _KIB
