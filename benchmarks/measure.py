"""How everything here is measured: interleaved samples, medians, ratios, and whether a bound was kept."""

from __future__ import annotations

import asyncio
import gc
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "FULL",
    "MIB",
    "QUICK",
    "Effort",
    "Result",
    "Sample",
    "add",
    "compare",
    "interleave",
    "misses",
    "percentile",
    "size",
    "spawn",
    "table",
    "unmeasured",
]

MIB = 2**20

Sample = Callable[[], Awaitable[float]]
"""Does one thing once and returns the seconds it took. What it prepares and tidies up is not in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How often things are done."""

    fast: int
    """Rounds of what takes a few milliseconds."""
    slow: int
    """Rounds of what takes more."""
    warmup: int
    """Rounds before the first that counts."""
    sandboxes: int
    """Idle sandboxes whose memory is measured."""
    sharing: int
    """Sandboxes with a way out that share one proxy."""
    streams: int
    """Times the 64 MiB are streamed."""


FULL = Effort(fast=60, slow=15, warmup=5, sandboxes=200, sharing=500, streams=3)
QUICK = Effort(fast=5, slow=2, warmup=1, sandboxes=10, sharing=10, streams=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row. `value` is in `unit`; `None` when it could not be measured, and `note` says why."""

    name: str
    baseline: str = ""
    """What a ratio or a difference is against."""
    unit: Literal["x", "MiB", "ms", "µs"] = "x"
    value: float | None
    """A ratio or a difference of medians, a median, or a size."""
    bound: float | None = None
    """The most that `value` may be, or the least; `None` where a row only informs."""
    at_least: bool = False
    """Whether `bound` is the least."""
    low: float | None = None
    """Of the ratios or differences of single rounds: the tenth percentile."""
    high: float | None = None
    """The ninetieth."""
    subject_ms: float | None = None
    """Median milliseconds of what is measured."""
    baseline_ms: float | None = None
    rounds: int = 0
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether there is a bound and it was not kept, or not shown to be."""
        if self.bound is None:
            return False
        if self.value is None:
            return True
        return self.value < self.bound if self.at_least else self.value > self.bound

    @property
    def limit(self) -> str:
        """The bound in words; empty where there is none."""
        if self.bound is None:
            return ""
        return f"at {'least' if self.at_least else 'most'} {_amount(self.bound, self.unit)}"


def compare(
    name: str,
    subject: Sequence[float],
    baseline: Sequence[float],
    *,
    against: str,
    bound: float | None = None,
    at_least: bool = False,
    note: str = "",
) -> Result:
    """A row from the seconds of `subject` and `baseline`, round by round.

    With `at_least` what is compared is speed: how much of the baseline's is left.
    """
    pairs = list(zip(subject, baseline, strict=True))
    rounds = [other / one if at_least else one / other for one, other in pairs]
    ours, theirs = statistics.median(subject), statistics.median(baseline)
    return Result(
        name=name,
        baseline=against,
        value=theirs / ours if at_least else ours / theirs,
        bound=bound,
        at_least=at_least,
        low=percentile(rounds, 0.1),
        high=percentile(rounds, 0.9),
        subject_ms=ours * 1000,
        baseline_ms=theirs * 1000,
        rounds=len(rounds),
        note=note,
    )


def add(
    name: str, subject: Sequence[float], baseline: Sequence[float], *, against: str, bound: float | None = None
) -> Result:
    """A row that says how many milliseconds `subject` takes beyond `baseline`."""
    rounds = [(one - other) * 1000 for one, other in zip(subject, baseline, strict=True)]
    ours, theirs = statistics.median(subject) * 1000, statistics.median(baseline) * 1000
    return Result(
        name=name,
        baseline=against,
        unit="ms",
        value=ours - theirs,
        bound=bound,
        low=percentile(rounds, 0.1),
        high=percentile(rounds, 0.9),
        subject_ms=ours,
        baseline_ms=theirs,
        rounds=len(rounds),
    )


def size(name: str, size_bytes: float, *, bound: float, rounds: int, note: str) -> Result:
    """A row that is a size in memory."""
    return Result(name=name, unit="MiB", value=size_bytes / MIB, bound=bound, rounds=rounds, note=note)


def unmeasured(name: str, why: str) -> Result:
    """A row for what is not on this machine."""
    return Result(name=name, value=None, note=why)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of `values` do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


async def interleave(samples: Mapping[str, Sample], *, rounds: int, warmup: int) -> dict[str, list[float]]:
    """Take every sample once a round; every other round backwards, so that none always follows the same one."""
    seconds: dict[str, list[float]] = {name: [] for name in samples}
    order = list(samples)
    with _no_collection():
        for number in range(warmup + rounds):
            for name in order:
                took = await samples[name]()
                if number >= warmup:
                    seconds[name].append(took)
            order.reverse()
    return seconds


async def spawn(*argv: str, env: Mapping[str, str] | None = None, quiet: bool = False) -> float:
    """Seconds from the start to the end of a process of the host. `quiet` throws its output away."""
    stream = asyncio.subprocess.DEVNULL if quiet else None
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*argv, stdin=stream, stdout=stream, stderr=stream, env=env)
    status = await process.wait()
    took = time.perf_counter() - began
    if status:
        raise RuntimeError(f"{argv} exited {status}")
    return took


def misses(results: Sequence[Result]) -> list[str]:
    """One line for each bound that was not kept."""
    return [
        f"{result.name}: {'not measured' if result.value is None else _amount(result.value, result.unit)}, "
        f"{result.limit}"
        for result in results
        if result.missed
    ]


def table(results: Sequence[Result]) -> str:
    """The rows as a Markdown table."""
    heading = ("what", "value", "p10 to p90", "bound", "", "median", "baseline", "remark")
    lines = [heading, tuple("---" for _ in heading), *(_cells(result) for result in results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    padded[1] = ["-" * width for width in widths]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _cells(result: Result) -> tuple[str, ...]:
    measured = result.value is not None
    spread = "" if result.low is None or result.high is None else f"{result.low:.2f} to {result.high:.2f}"
    verdict = "" if result.bound is None else "MISSED" if result.missed else "kept"
    baseline = "" if result.baseline_ms is None else f"{result.baseline}: {result.baseline_ms:.2f} ms"
    return (
        result.name,
        _amount(result.value, result.unit) if measured and result.value is not None else "-",
        spread,
        result.limit,
        verdict,
        "" if result.subject_ms is None else f"{result.subject_ms:.2f} ms",
        baseline,
        result.note,
    )


def _amount(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}"


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage is collected before, not during: a collection would hit one sample, and empty the caches for the next."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
