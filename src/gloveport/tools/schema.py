"""How a tool describes its parameters, as data that yields both the JSON Schema and the check of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gloveport.errors import InvalidRequest

__all__ = ["Parameter", "Tool", "catalogue"]

_TYPES: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One named argument of a tool."""

    name: str
    type: str
    """JSON Schema's word: `string`, `integer`, `number` or `boolean`."""
    description: str
    required: bool = False
    default: str | int | float | bool | None = None
    """What an optional parameter is when it is left out; `None` says that leaving it out has a meaning of its own."""
    choices: tuple[str, ...] = ()
    minimum: float | None = None

    def schema(self) -> dict[str, Any]:
        """The parameter as JSON Schema."""
        found: dict[str, Any] = {"type": self.type, "description": self.description}
        if self.default is not None:
            found["default"] = self.default
        if self.choices:
            found["enum"] = list(self.choices)
        if self.minimum is not None:
            found["minimum"] = self.minimum
        return found

    def problem(self, value: object) -> str | None:
        """What is wrong with `value`, or `None`."""
        if not isinstance(value, _TYPES[self.type]) or (isinstance(value, bool) and self.type != "boolean"):
            return f"must be of type {self.type}, not {_type_of(value)}"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}"
        if self.minimum is not None and isinstance(value, int | float) and not value >= self.minimum:
            return f"must be at least {self.minimum:g}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function offered to a model: its name, what it is for, what it takes."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    read_only: bool = False
    """Whether it changes nothing, so that several calls may run at once."""

    def schema(self) -> dict[str, Any]:
        """The parameters as one JSON Schema object."""
        return {
            "type": "object",
            "properties": {parameter.name: parameter.schema() for parameter in self.parameters},
            "required": [parameter.name for parameter in self.parameters if parameter.required],
            "additionalProperties": False,
        }

    def check(self, params: object) -> dict[str, Any]:
        """The arguments of a call, with defaults filled in.

        `InvalidRequest` names the first thing that is wrong, and its hint says what the tool takes.
        """
        if not isinstance(params, Mapping):
            raise self._refusal(f"parameters must be a JSON object, not {_type_of(params)}")
        known = {parameter.name: parameter for parameter in self.parameters}
        for name, value in params.items():
            if name not in known:
                raise self._refusal(f"an unexpected parameter `{name}` was provided")
            problem = known[name].problem(value)
            if problem is not None:
                raise self._refusal(f"the parameter `{name}` {problem}")
        for parameter in self.parameters:
            if parameter.required and parameter.name not in params:
                raise self._refusal(f"the required parameter `{parameter.name}` is missing")
        return {name: params.get(name, parameter.default) for name, parameter in known.items()}

    def usage(self) -> str:
        """The call's shape on one line, for a person: `name(required, optional=default)`."""
        parts = [p.name if p.required else f"{p.name}={p.default!r}" for p in self.parameters]
        return f"{self.name}({', '.join(parts)})"

    def _refusal(self, problem: str) -> InvalidRequest:
        return InvalidRequest(f"{self.name}: {problem}", hint=f"expected {self.usage()}", tool=self.name)


def catalogue(*tools: Tool) -> Mapping[str, Tool]:
    """Tools by name, in the order given."""
    return MappingProxyType({tool.name: tool for tool in tools})


_JSON_NAMES = (
    (type(None), "null"),
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (Mapping, "object"),
)


def _type_of(value: object) -> str:
    return next((name for kind, name in _JSON_NAMES if isinstance(value, kind)), type(value).__name__)
