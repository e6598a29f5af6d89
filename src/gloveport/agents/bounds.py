"""Bounds on what an agent's command line may say: it sits in a jail, so all it says is a guest's word."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gloveport.errors import BackendUnavailable

__all__ = ["Breach", "Hearing"]

_TURN = 16 * 2**20
_PROMPT = 256 * 2**20
"""Weight of what is said in one turn, and in answer to one prompt: it bounds memory, and disk where it is recorded."""
_VALUE = 16
_RECORD = 1024
"""Weight of a value and of a record beside their characters."""
_DEEPEST = 64
_LONGEST_NAME = 512
_LARGEST_COUNT = 2**53


class Breach(BackendUnavailable):
    """The command line broke the protocol or a bound: nothing it says is worth hearing any more."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the agent's command line {what}", hint="look at the trajectory, then start a new session")


class Hearing:
    """Takes what the command line says in answer to one prompt: plain JSON values, bounded.

    Every method raises `Breach` for what is not of the kind it is asked for, and beyond the bounds.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._prompt = 0

    def new_turn(self) -> None:
        """What was said before is not held any more."""
        self._turn = 0

    def record(self) -> None:
        """One more record comes of it."""
        self._weigh(_RECORD)

    def text(self, value: object) -> str:
        """A text. What no UTF-8 can hold is replaced."""
        if not isinstance(value, str):
            raise Breach(f"said {type(value).__name__} where a text belongs")
        self._weigh(len(value) + _VALUE)
        return value.encode("utf-8", "replace").decode()

    def name(self, value: object) -> str:
        """A short text: an id, a tool, a model."""
        if isinstance(value, str) and len(value) > _LONGEST_NAME:
            raise Breach(f"said a name of {len(value)} characters")
        return self.text(value)

    def count(self, value: object) -> int:
        """A number of things."""
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_COUNT:
            raise Breach("said something else where a number belongs")
        return value

    def mapping(self, value: object) -> dict[str, object]:
        """A JSON object."""
        if not isinstance(value, Mapping):
            raise Breach(f"said {type(value).__name__} where an object belongs")
        return {self.text(key): self._value(item, 1) for key, item in value.items()}

    def _value(self, value: object, depth: int) -> object:
        if depth > _DEEPEST:
            raise Breach(f"said something nested more than {_DEEPEST} deep")
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {self.text(key): self._value(item, depth + 1) for key, item in value.items()}
            case list():
                self._weigh(_VALUE)
                return [self._value(item, depth + 1) for item in value]
            case None | bool() | int() | float():
                self._weigh(_VALUE)
                if isinstance(value, float) and not math.isfinite(value):
                    raise Breach("said a number that JSON does not have")
                return value
            case _:
                raise Breach(f"said {type(value).__name__}, which JSON does not have")

    def _weigh(self, weight: int) -> None:
        self._turn += weight
        self._prompt += weight
        if self._turn > _TURN:
            raise Breach(f"said more than {_TURN // 2**20} MiB in one turn")
        if self._prompt > _PROMPT:
            raise Breach(f"said more than {_PROMPT // 2**20} MiB in answer to one prompt")
