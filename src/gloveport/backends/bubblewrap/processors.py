"""CPUs without control groups: a sandbox is bound to some of them, and its filter lets nobody bind itself anew."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["can_bind", "started_on"]


def can_bind(cpus: float) -> bool:
    """Whether whole CPUs can keep the limit: a part of one is for control groups."""
    return cpus >= 1


@contextmanager
def started_on(cpus: float | None) -> Iterator[None]:
    """Whoever this thread starts meanwhile runs on so many CPUs, taken at random, and so do all its children.

    A limit of 1.5 comes to one CPU: never more than was asked for. `None`, and as many as there are, bind nobody.
    """
    own = os.sched_getaffinity(0)
    if cpus is None or math.floor(cpus) >= len(own):
        yield
        return
    os.sched_setaffinity(0, random.sample(sorted(own), math.floor(cpus)))
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)
