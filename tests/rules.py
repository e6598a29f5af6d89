"""Rules that hold of many files: one test a rule, which names every file that breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["for_every"]

Thing = TypeVar("Thing")


def for_every(
    things: Iterable[Thing], name: Callable[[Thing], object] = str
) -> Callable[[Callable[[Thing], None]], Callable[[], None]]:
    """Makes one test of a rule about one thing: a test for each pair would cost more than the rules do."""

    def of(rule: Callable[[Thing], None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for thing in things:
                try:
                    rule(thing)
                except AssertionError as error:
                    broken.append(f"{name(thing)}: {error}")
            assert not broken, "\n".join(broken)

        test.__doc__ = rule.__doc__
        return test

    return of
