"""How often the tools of a sandbox may be called: the rates of every layer of its policy, together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from gloveport.model import Decision, Policy, ToolRate, Verdict
from gloveport.policy.commands.rate_limit import RateLimiter

__all__ = ["ToolRates", "tool_rates"]


def tool_rates(policy: Policy) -> Sequence[ToolRate]:
    """The rates that hold: each layer's, so that a lower one can only tighten.

    One of a layer whose tools are open holds where no layer below it names another.
    """
    rates = [(layer.tool_rate, "tools" in layer.open) for layer in policy.layers if layer.tool_rate is not None]
    return [rate for number, (rate, is_open) in enumerate(rates) if not is_open or number == len(rates) - 1]


class ToolRates:
    """Counts the calls of one policy's tools, exactly, from any number of threads.

    A call that any of the rates refuses counts for none of them. `clock` as for `RateLimiter`.
    """

    def __init__(self, policy: Policy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limiters = [(rate, RateLimiter(rate.calls, rate.seconds, clock=clock)) for rate in tool_rates(policy)]
        self._lock = threading.Lock()

    def refuse(self, key: str) -> Decision | None:
        """Why a call of `key` is one too many; `None` counts it."""
        with self._lock:
            for rate, limiter in self._limiters:
                wait = limiter.wait(key)
                if wait > 0:
                    reason = f"too many tool calls; the next one in {wait:.1f} s"
                    return Decision(verdict=Verdict.DENY, rule=str(rate), reason=reason)
            for _, limiter in self._limiters:
                limiter.admit(key)
            return None
