"""What a call asks for: its verb, and its fields, each of exactly one type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gloveport.errors import InvalidRequest
from gloveport.listen.connection import Connection

__all__ = ["Verb", "answer", "field"]

Verb = Callable[[Mapping[str, Any], Connection], Awaitable[Mapping[str, Any]]]
_REQUIRED: Any = object()


async def answer(verbs: Mapping[str, Verb], request: Mapping[str, Any], connection: Connection) -> Mapping[str, Any]:
    """The result of one call. Raises `InvalidRequest` for an unknown verb."""
    verb = verbs.get(str(request.get("verb")))
    if verb is None:
        raise InvalidRequest(f"no verb {request.get('verb')!r}", hint=f"one of: {', '.join(verbs)}")
    return await verb(request, connection)


def field(request: Mapping[str, Any], name: str, kind: type, default: Any = _REQUIRED) -> Any:
    """One field of a call, of exactly this type. Raises `InvalidRequest`."""
    value = request.get(name, default)
    if value is _REQUIRED:
        raise InvalidRequest(f"the call needs {name!r}", hint="use the client of this version", field=name)
    if value is not default and type(value) is not kind:
        raise InvalidRequest(f"{name!r} must be of type {kind.__name__}", hint="correct this field", field=name)
    return value
