"""The budget of one sandbox at the model: how many calls, tokens and dollars, and what is spent of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gloveport.agents.model_api import ApiError, TokenUsage

__all__ = ["BudgetMeter", "ModelBudget", "Price", "Spend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens of one model."""

    input: float
    output: float
    cache_write: float
    cache_read: float

    def cost(self, usage: TokenUsage) -> float:
        """US dollars for `usage`."""
        dollars = (
            usage.input * self.input
            + usage.output * self.output
            + usage.cache_write * self.cache_write
            + usage.cache_read * self.cache_read
        )
        return dollars / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBudget:
    """Upper bounds of one sandbox at the model; None is unbounded.

    Calls are counted when they start. Tokens and dollars are known when a call ends, so they may be overshot
    by the calls in flight, and no new call starts after that.
    """

    calls: int | None = None
    tokens: int | None = None
    """All tokens, read and written; tokens read from the provider's cache count too."""
    cost: float | None = None
    """US dollars by `prices`. A model without a price is refused while this is set."""
    prices: Mapping[str, Price] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """What has been used so far."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    """US dollars; 0 for models without a price."""


class BudgetMeter:
    """Compares a sandbox's spend with its budget."""

    def __init__(self, budget: ModelBudget) -> None:
        self._budget = budget
        self.spend = Spend()

    def start_call(self, model: str) -> ApiError | None:
        """Count one more call, or return the error to answer with when that would exceed the budget."""
        budget, spend = self._budget, self.spend
        if budget.calls is not None and spend.calls >= budget.calls:
            return _exhausted(f"{spend.calls} of {budget.calls} calls")
        if budget.tokens is not None and spend.tokens >= budget.tokens:
            return _exhausted(f"{spend.tokens} of {budget.tokens} tokens")
        if budget.cost is not None:
            if model not in budget.prices:
                return ApiError(403, "permission_error", f"model {model!r} has no price, which a cost budget needs")
            if spend.cost >= budget.cost:
                return _exhausted(f"${spend.cost:.4f} of ${budget.cost:.4f}")
        self.spend = replace(spend, calls=spend.calls + 1)
        return None

    def charge(self, model: str, usage: TokenUsage) -> float:
        """Add a call's tokens; its cost in US dollars is returned."""
        price = self._budget.prices.get(model)
        cost = price.cost(usage) if price else 0.0
        spend = self.spend
        self.spend = replace(spend, tokens=spend.tokens + usage.total, cost=spend.cost + cost)
        return cost


def _exhausted(used: str) -> ApiError:
    # 402 is the one status that Claude Code shows at once: it retries 429 for minutes and 400 twice.
    return ApiError(402, "billing_error", f"the model budget of this sandbox is used up: {used}")
