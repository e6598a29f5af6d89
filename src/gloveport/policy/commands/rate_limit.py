"""How often something may happen: at most so many times in any window, for each key by itself."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType

from gloveport.errors import InvalidRequest

__all__ = ["MOST_TIMES", "RateLimiter", "parse_rate"]

MOST_TIMES = 100_000
"""In one window of a written rate: each is remembered until it is over."""
_RATE = re.compile(r"([0-9]{1,7}) ?/ ?(second|minute|hour|day)", re.ASCII)
_UNITS: Mapping[str, float] = MappingProxyType({"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0})


def parse_rate(text: str) -> tuple[int, float]:
    """Times and seconds of a written rate, such as `60/minute`. Raises `InvalidRequest`."""
    found = _RATE.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= MOST_TIMES:
        raise InvalidRequest(
            f"not a rate: {text!r}", hint=f"1 to {MOST_TIMES} a second, minute, hour or day, for example 60/minute"
        )
    return int(found[1]), _UNITS[found[2]]


class RateLimiter:
    """At most `times` admissions of one key in any `seconds`, to the last one, from any number of threads.

    Refused requests do not count. A key is forgotten when its window is empty; `most_keys` bounds how many are known
    at a time, and a new one beyond that is refused. `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        times: int = 100,
        seconds: float = 60.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        most_keys: int = 100_000,
    ) -> None:
        if times < 1 or not 0 < seconds < float("inf") or most_keys < 1:
            raise InvalidRequest("not a rate", hint="at least one time in more than 0 seconds")
        self.times = times
        self.seconds = seconds
        self._clock = clock
        self._most_keys = most_keys
        self._admitted: OrderedDict[str, deque[float]] = OrderedDict()
        """The oldest admission is the first of its key; the key that was admitted longest ago is the first of all."""
        self._lock = threading.Lock()

    def admit(self, key: str) -> float:
        """Admit one request of `key` and return 0, or the seconds after which the next one can be admitted."""
        with self._lock:
            now = self._clock()
            wait = self._wait(key, now)
            if wait <= 0:
                self._admitted.setdefault(key, deque()).append(now)
                self._admitted.move_to_end(key)
            return wait

    def wait(self, key: str) -> float:
        """What `admit` would return, without admitting anything."""
        with self._lock:
            return self._wait(key, self._clock())

    def __len__(self) -> int:
        """Keys that are known."""
        return len(self._admitted)

    def _wait(self, key: str, now: float) -> float:
        self._forget(now)
        times = self._admitted.get(key)
        if times is None:
            return self.seconds if len(self._admitted) >= self._most_keys else 0.0
        while times and times[0] <= now - self.seconds:
            times.popleft()
        return times[0] + self.seconds - now if len(times) >= self.times else 0.0

    def _forget(self, now: float) -> None:
        while self._admitted:
            key, times = next(iter(self._admitted.items()))
            if times[-1] > now - self.seconds:
                return
            del self._admitted[key]
