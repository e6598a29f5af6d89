"""The budget of one session at the model: how many calls, tokens and dollars, and what is spent of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gloveport.agents.model_api import ApiError, TokenUsage
from gloveport.agents.model_prices import PriceList
from gloveport.model import SessionEnd

__all__ = ["BudgetMeter", "Exhaustion", "ModelBudget", "Spend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBudget:
    """Upper bounds; None is no bound.

    Calls are counted when they start. Tokens and dollars are estimated from what has passed while a call lasts and
    known when it ends, so they may be overshot by what the calls in flight still answer; no new call starts then.
    """

    calls: int | None = None
    """Requests that are forwarded, token counts and retries included."""
    tokens: int | None = None
    """All tokens, read and written; tokens read from the provider's cache count too."""
    cost: float | None = None
    """US dollars. A model without a price is charged what the same request costs at the dearest model of `prices`."""
    prices: PriceList = field(default_factory=PriceList)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """What has been used so far."""

    calls: int = 0
    input_tokens: int = 0
    """Read: new ones, and those written to and read from the provider's cache."""
    output_tokens: int = 0
    cost: float = 0.0
    """US dollars, by known prices."""
    unpriced_tokens: int = 0
    """Tokens of models without a known price: they are not in `cost`."""
    charged: float = 0.0
    """US dollars that count against the budget: `cost`, and the fail-safe figure for what has no price."""

    @property
    def tokens(self) -> int:
        """All tokens, read and written."""
        return self.input_tokens + self.output_tokens

    def plus(self, other: Spend) -> Spend:
        """Both together."""
        return Spend(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=self.cost + other.cost,
            unpriced_tokens=self.unpriced_tokens + other.unpriced_tokens,
            charged=self.charged + other.charged,
        )


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """The bound that a refused call ran into."""

    end: SessionEnd
    message: str


class BudgetMeter:
    """Compares a session's spend with its budget."""

    def __init__(self, budget: ModelBudget) -> None:
        self._budget = budget
        self._closed = Spend()
        self._prompt = Spend()
        self._prompt_calls: int | None = None
        self.exhaustion: Exhaustion | None = None
        """Set by the first call that is refused, until the next prompt."""

    def open_prompt(self, calls: int | None, spend: Spend) -> None:
        """Another prompt begins, which may take `calls` calls beside what the whole budget allows."""
        self._prompt = spend
        self._prompt_calls = calls
        self.exhaustion = None

    def spend(self, in_flight: Iterable[tuple[str, TokenUsage]] = ()) -> Spend:
        """What is used up, with what the calls in flight have used so far."""
        spend = self._closed
        for model, usage in in_flight:
            spend = spend.plus(self.price(model, usage))
        return spend

    def price(self, model: str, usage: TokenUsage) -> Spend:
        """What one call's tokens come to."""
        cost = self._budget.prices.cost(model, usage)
        return Spend(
            input_tokens=usage.total - usage.output,
            output_tokens=usage.output,
            cost=cost or 0.0,
            unpriced_tokens=usage.total if cost is None else 0,
            charged=self._budget.prices.dearest(usage) if cost is None else cost,
        )

    def start_call(self, spend: Spend) -> ApiError | None:
        """Count one more call, or return the error to answer with when that would exceed the budget."""
        self.exhaustion = self._bound_reached(spend) or self.exhaustion
        if self.exhaustion is not None:
            # 402 is the one status that Claude Code shows at once: it retries 429 for minutes and 400 twice.
            return ApiError(402, "billing_error", self.exhaustion.message)
        self._closed = self._closed.plus(Spend(calls=1))
        return None

    def charge(self, model: str, usage: TokenUsage) -> Spend:
        """Add the tokens of a call that is over; what they come to is returned."""
        price = self.price(model, usage)
        self._closed = self._closed.plus(price)
        return price

    def _bound_reached(self, spend: Spend) -> Exhaustion | None:
        budget = self._budget
        asked = spend.calls - self._prompt.calls
        if budget.calls is not None and spend.calls >= budget.calls:
            return _exhausted(SessionEnd.MAX_TURNS, f"{spend.calls} of {budget.calls} calls")
        if self._prompt_calls is not None and asked >= self._prompt_calls:
            return _exhausted(SessionEnd.MAX_TURNS, f"{asked} of {self._prompt_calls} calls for one prompt")
        if budget.tokens is not None and spend.tokens >= budget.tokens:
            return _exhausted(SessionEnd.MAX_COST, f"{spend.tokens} of {budget.tokens} tokens")
        if budget.cost is not None and spend.charged >= budget.cost:
            used = f"${spend.charged:.4f} of ${budget.cost:.4f}"
            guess = ", models without a known price at that of the dearest" if spend.unpriced_tokens else ""
            return _exhausted(SessionEnd.MAX_COST, f"{used}{guess}")
        return None


def _exhausted(end: SessionEnd, used: str) -> Exhaustion:
    return Exhaustion(end, f"the model budget of this sandbox is used up: {used}")
