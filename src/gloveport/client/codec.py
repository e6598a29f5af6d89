"""The vocabulary's dataclasses as JSON values and back, strictly: an unknown or ill-typed field is refused."""

from __future__ import annotations

import types
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from gloveport.errors import InvalidRequest

__all__ = ["decode", "encode"]

T = TypeVar("T")


def encode(value: object) -> Any:
    """`value` as JSON values: dataclasses and mappings become objects, sets are sorted."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(encode(item) for item in value)
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def decode(cls: type[T], value: object) -> T:
    """The `cls` that `value` spells. Raises `InvalidRequest` that names the first wrong field."""
    return cast("T", _decode(cls, value, cls.__name__))


def _decode(hint: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if is_dataclass(hint):
        return _decode_object(cast("type[Any]", hint), value, where)
    if origin in (tuple, frozenset):
        _require(isinstance(value, list), where, "a list")
        return origin(_decode(arguments[0], item, f"{where}[]") for item in cast("list[object]", value))
    if origin is not None and issubclass(origin, Mapping):
        _require(isinstance(value, dict), where, "an object")
        items = cast("dict[str, object]", value).items()
        return types.MappingProxyType({key: _decode(arguments[1], item, f"{where}.{key}") for key, item in items})
    return _decode_scalar(hint, value, where)


def _decode_union(arguments: tuple[Any, ...], value: object, where: str) -> Any:
    """`None` or the other type; or, of several dataclasses, the one that the field `operation` names."""
    if value is None and type(None) in arguments:
        return None
    hints = [argument for argument in arguments if argument is not type(None)]
    if len(hints) == 1:
        return _decode(hints[0], value, where)
    _require(isinstance(value, dict), where, "an object")
    given = dict(cast("dict[str, object]", value))
    operation = str(given.pop("operation", ""))
    known = {hint.__name__.lower(): hint for hint in hints}
    _require(operation in known, f"{where}.operation", f"one of: {', '.join(known)}")
    return _decode_object(known[operation], given, where)


def _decode_object(cls: type[Any], value: object, where: str) -> Any:
    _require(isinstance(value, dict), where, "an object")
    given = cast("dict[str, object]", value)
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}
    for name in given:
        _require(name in known, f"{where}.{name}", "left out: there is no such field")
    for name, field in known.items():
        optional = field.default is not MISSING or field.default_factory is not MISSING
        _require(name in given or optional, f"{where}.{name}", "given")
    return cls(**{name: _decode(hints[name], item, f"{where}.{name}") for name, item in given.items()})


def _decode_scalar(hint: Any, value: object, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            _require(False, where, "a number that fits in 64 bits")
    if issubclass(hint, Enum):
        names = [member.value for member in hint]
        _require(value in names, where, f"one of: {', '.join(map(str, names))}")
        return hint(value)
    is_exact = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    _require(is_exact, where, f"of type {hint.__name__}")
    return value


def _require(condition: bool, where: str, what: str) -> None:
    if not condition:
        raise InvalidRequest(f"{where} must be {what}", hint="correct this field of the request", field=where)
