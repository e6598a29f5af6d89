"""What the kernel shows of the host in every `/proc`, and a sandbox covers."""

from __future__ import annotations

import os
import stat

from gloveport.model import Hidden

__all__ = ["covered_of_proc"]

_OF_THE_HOST = (
    "acpi",
    "asound",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "sysrq-trigger",
    "timer_list",
    "timer_stats",
)
"""Of `/proc`: the machine, its kernel's addresses and what all its users do."""


def covered_of_proc(proc: str = "/proc") -> tuple[Hidden, ...]:
    """What to cover there: a mount costs a sandbox's start time, so only what a stranger could read."""
    covered = []
    for name in _OF_THE_HOST:
        path = f"{proc}/{name}"
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            continue
        if name == "kallsyms" and not _shows_addresses(proc):
            continue
        is_directory = stat.S_ISDIR(mode)
        if mode & (stat.S_IROTH | stat.S_IWOTH) and (not is_directory or os.listdir(path)):
            covered.append(Hidden(path, is_directory=is_directory))
    return tuple(covered)


def _shows_addresses(proc: str) -> bool:
    """Whether the kernel tells everybody where its symbols are, and not only zeros."""
    try:
        with (
            open(f"{proc}/sys/kernel/kptr_restrict") as restrict,
            open(f"{proc}/sys/kernel/perf_event_paranoid") as perf,
        ):
            return int(restrict.read()) == 0 and int(perf.read()) <= 1
    except (OSError, ValueError):
        return True
