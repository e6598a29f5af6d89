"""What models cost: list prices as data, and prices of one's own from a file.

The list is Anthropic's first-party prices, read on 2026-11-22 from the catalogue inside Claude Code 2.1.330; the
provider publishes them at https://platform.claude.com/docs/en/about-claude/pricing. Discounts, batches, regional
surcharges and other clouds are not in it: `GLOVEPORT_PRICES` names a file that adds to the list or replaces entries.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gloveport.agents.model_api import TokenUsage
from gloveport.errors import InvalidRequest

__all__ = ["LIST_PRICES", "Price", "PriceList", "load_prices"]

_WRITE, _LONG_WRITE, _READ = 1.25, 2.0, 0.1
"""What cache tokens cost by default, as multiples of input: written for 5 minutes, written for an hour, read."""
_DATED = re.compile(r"(?P<name>.+)-20\d{6}")
_FIELDS = frozenset({"input", "output", "cache_write", "cache_write_long", "cache_read"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens of one model."""

    input: float
    output: float
    cache_write: float
    cache_write_long: float | None = None
    """For tokens that the cache keeps for an hour; None where they cost as much as the others."""
    cache_read: float
    long_prompt: tuple[int, Price] | None = None
    """The price of a request whose prompt has more than so many tokens."""

    def cost(self, usage: TokenUsage) -> float:
        """US dollars for `usage`, the tokens of one request."""
        if self.long_prompt is not None and usage.total - usage.output > self.long_prompt[0]:
            return self.long_prompt[1].cost(usage)
        long_write = self.cache_write if self.cache_write_long is None else self.cache_write_long
        dollars = (
            usage.input * self.input
            + usage.output * self.output
            + (usage.cache_write - usage.cache_write_long) * self.cache_write
            + usage.cache_write_long * long_write
            + usage.cache_read * self.cache_read
        )
        return dollars / 1e6


def _price(input: float, output: float, cache_read: float | None = None) -> Price:  # noqa: A002 - the API's word
    return Price(
        input=input,
        output=output,
        cache_write=input * _WRITE,
        cache_write_long=input * _LONG_WRITE,
        cache_read=input * _READ if cache_read is None else cache_read,
    )


def _price_of_haiku_5_5() -> Price:
    short, long = _price(0.10, 0.50), _price(0.50, 2.50)
    return Price(
        input=short.input,
        output=short.output,
        cache_write=short.cache_write,
        cache_write_long=short.cache_write_long,
        cache_read=short.cache_read,
        long_prompt=(100_000, long),
    )


LIST_PRICES: Mapping[str, Price] = MappingProxyType(
    {
        "claude-3-5-haiku": _price(0.80, 4),
        "claude-haiku-4-5": _price(1, 5),
        "claude-haiku-5-5": _price_of_haiku_5_5(),
        "claude-3-5-sonnet": _price(3, 15),
        "claude-3-7-sonnet": _price(3, 15),
        "claude-sonnet-4": _price(3, 15),
        "claude-sonnet-4-0": _price(3, 15),
        "claude-sonnet-4-5": _price(3, 15),
        "claude-sonnet-4-6": _price(3, 15),
        "claude-sonnet-5": _price(2, 10),
        "claude-sonnet-5-5": _price(2, 10, cache_read=0.10),
        "claude-opus-4": _price(15, 75),
        "claude-opus-4-0": _price(15, 75),
        "claude-opus-4-1": _price(15, 75),
        "claude-opus-4-5": _price(5, 25),
        "claude-opus-4-6": _price(5, 25),
        "claude-opus-4-7": _price(5, 25),
        "claude-opus-4-8": _price(5, 25),
        "claude-opus-5": _price(5, 25),
        "claude-opus-5-5": _price(4, 20, cache_read=0.20),
        "claude-fable-5": _price(10, 50),
        "claude-fable-5-1": _price(10, 50, cache_read=0.25),
        "claude-fable-5-2": _price(8, 40, cache_read=0.20),
        "claude-mythos-5": _price(10, 50),
        "claude-mythos-5-1": _price(10, 50, cache_read=0.25),
        "claude-mythos-5-2": _price(8, 40, cache_read=0.20),
    }
)


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices by model name."""

    prices: Mapping[str, Price] = field(default_factory=lambda: LIST_PRICES)

    def cost(self, model: str, usage: TokenUsage) -> float | None:
        """US dollars for one request to `model`, whose name may end with a date; None when its price is not known."""
        dated = _DATED.fullmatch(model)
        price = self.prices.get(model) or (self.prices.get(dated["name"]) if dated else None)
        return None if price is None else price.cost(usage)

    def dearest(self, usage: TokenUsage) -> float:
        """What the request would cost at the model for which it costs most: the fail-safe figure."""
        return max((price.cost(usage) for price in self.prices.values()), default=math.inf)


def load_prices(path: Path) -> PriceList:
    """The list with the prices of a JSON file: `{"model": {"input": 3, "output": 15}}`, US dollars per million tokens.

    `cache_write`, `cache_write_long` and `cache_read` may be given too; they are 1.25, 2 and 0.1 times `input`
    otherwise. `InvalidRequest` when the file cannot be read or understood.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(path, str(error)) from error
    if not isinstance(document, dict):
        raise _unusable(path, "it is not a JSON object")
    return PriceList({**LIST_PRICES, **{model: _read(path, model, entry) for model, entry in document.items()}})


def _read(path: Path, model: str, entry: Any) -> Price:
    numbers = entry if isinstance(entry, dict) else {}
    if not {"input", "output"} <= numbers.keys() <= _FIELDS or not all(map(_is_price, numbers.values())):
        raise _unusable(path, f"the entry of {model!r} is not `input` and `output` (and cache prices) as numbers")
    return Price(
        input=numbers["input"],
        output=numbers["output"],
        cache_write=numbers.get("cache_write", numbers["input"] * _WRITE),
        cache_write_long=numbers.get("cache_write_long", numbers["input"] * _LONG_WRITE),
        cache_read=numbers.get("cache_read", numbers["input"] * _READ),
    )


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _unusable(path: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"no prices can be read from {path}: {why}",
        hint='write {"model": {"input": 3.0, "output": 15.0}}, in US dollars per million tokens',
    )
