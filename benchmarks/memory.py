"""What an idle sandbox occupies beyond its runner: 200 of them in a real runner, processes and kernel memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread

from benchmarks.exec import create_by_runner
from benchmarks.measure import MIB, Effort, Result, size
from benchmarks.place import installation, runner
from gloveport.client import connect, encode
from gloveport.model import ExecRequest, Policy, Spec
from gloveport.policy.reading.load import load_policy
from gloveport.settings import Settings

__all__ = ["measure", "measure_shared"]

BOUND = 2.0
SHARED_BOUND = 0.2
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


async def measure(effort: Effort) -> list[Result]:
    """Proportional set size of all their processes + kernel memory of their groups + growth of the runner, each."""
    return [await anyio.to_thread.run_sync(_measure, effort.sandboxes)]


def _measure(count: int) -> Result:
    with installation() as settings, runner(settings) as pid:
        first = create_by_runner(settings)
        with connect(settings) as connection:
            connection.call("delete", id=first)
        before = proportional_size(pid)
        for _ in range(count):
            create_by_runner(settings)
        growth = proportional_size(pid) - before
        members = list(descendants(pid))
        processes = sum(proportional_size(member) for member in members)
        kernel = kernel_memory(members)
    total = (growth + processes + (kernel or 0)) / count
    parts = (
        f"{len(members) / count:.1f} processes {processes / count / MIB:.2f}",
        "kernel not measured: no memory control group" if kernel is None else f"kernel {kernel / count / MIB:.2f}",
        f"growth of the runner {growth / count / MIB:.2f}",
    )
    name = f"memory of an idle sandbox, {count} of them"
    return size(name, total, bound=BOUND, rounds=1, note="; ".join(parts))


async def measure_shared(effort: Effort) -> list[Result]:
    """Growth of one runner that serves the ways out of all of them, each having carried a connection."""
    return [await anyio.to_thread.run_sync(_measure_shared, effort.sharing)]


def _measure_shared(count: int) -> Result:
    policy = load_policy(["development"])
    with installation() as settings, runner(settings) as pid:
        with connect(settings) as connection:
            connection.call("delete", id=_with_way_out(settings, policy))
        before = proportional_size(pid)
        for _ in range(count):
            _with_way_out(settings, policy)
        growth = proportional_size(pid) - before
    name = f"runner's growth for a sandbox with a way out, {count} share one proxy"
    note = "policy development; a refused request each"
    return size(name, growth / count, bound=SHARED_BOUND, rounds=1, note=note)


def _with_way_out(settings: Settings, policy: Policy) -> str:
    sandbox = create_by_runner(settings, Spec(policy=policy))
    request = ExecRequest(argv=("curl", "--silent", "--output", "/dev/null", "http://nobody.test/"))
    with connect(settings) as connection:
        ended = connection.call("exec", id=sandbox, request=encode(request))["exit"]
    if ended["code"] != 0:
        raise RuntimeError(f"curl in a sandbox with a way out: {ended}")
    return sandbox


def proportional_size(pid: int) -> int:
    """Bytes of a process, what it shares with others counted in part (`Pss`)."""
    found = re.search(r"^Pss:\s+(\d+) kB", (_PROC / str(pid) / "smaps_rollup").read_text("ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def descendants(pid: int) -> Iterator[int]:
    """The processes below `pid`, without itself."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            try:
                after_name = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2]
            except OSError:
                continue
            children.setdefault(int(after_name.split()[1]), []).append(int(entry.name))
    pending = children.get(pid, [])
    while pending:
        found = pending.pop()
        yield found
        pending += children.get(found, [])


def kernel_memory(members: list[int]) -> int | None:
    """Bytes that the kernel holds for the memory groups of these processes; `None` where no group can tell."""
    groups = {group for group in map(_memory_group, members) if group is not None}
    if _memory_group(os.getpid()) in groups:
        return None  # they have no group of their own: it would count everything else too
    sizes = [_kernel_size(group) for group in groups]
    return sum(found for found in sizes if found is not None) if sizes and None not in sizes else None


def _memory_group(pid: int) -> Path | None:
    for line in (_PROC / str(pid) / "cgroup").read_text("utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory" or "memory" in controllers.split(","):
            return _CGROUPS / "memory" / path.lstrip("/")
        if not controllers and (_CGROUPS / "cgroup.controllers").exists():
            return _CGROUPS / path.lstrip("/")
    return None


def _kernel_size(group: Path) -> int | None:
    first_version = group / "memory.kmem.usage_in_bytes"
    if first_version.exists():
        return int(first_version.read_text("ascii"))
    try:
        found = re.search(r"^kernel (\d+)$", (group / "memory.stat").read_text("ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None
