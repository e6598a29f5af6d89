"""How often something may happen: at most so many times in any window, for each key by itself."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from gloveport.errors import InvalidRequest

__all__ = ["RateLimiter"]


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
            self._forget(now)
            times = self._admitted.get(key)
            if times is None:
                if len(self._admitted) >= self._most_keys:
                    return self.seconds
                times = self._admitted[key] = deque()
            while times and times[0] <= now - self.seconds:
                times.popleft()
            if len(times) >= self.times:
                return times[0] + self.seconds - now
            times.append(now)
            self._admitted.move_to_end(key)
            return 0.0

    def __len__(self) -> int:
        """Keys that are known."""
        return len(self._admitted)

    def _forget(self, now: float) -> None:
        while self._admitted:
            key, times = next(iter(self._admitted.items()))
            if times[-1] > now - self.seconds:
                return
            del self._admitted[key]
