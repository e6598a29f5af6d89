"""Reads a policy file strictly: every mistake is named with its line and what was probably meant."""

from __future__ import annotations

import codecs
import difflib
import json
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gloveport.errors import InvalidRequest, NotFound
from gloveport.policy.reading.lines import Place, line_numbers
from gloveport.policy.reading.schema import PolicyDocument

__all__ = [
    "Document",
    "Mistake",
    "check_object",
    "parse_document",
    "read_document",
    "read_file",
    "read_object",
    "refuse",
]

Model = TypeVar("Model", bound=BaseModel)

_HINT = "correct the policy; nothing runs under one that is not understood whole"
LARGEST_FILE = 1024 * 1024
"""Bytes. A policy that nobody can read is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing that is wrong with a file."""

    line: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file that has the right shape, and where each part of it stands."""

    file: str
    body: PolicyDocument
    lines: Mapping[Place, int]

    def line(self, *place: str | int) -> int:
        """The line of a part, or of the nearest part around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_document(path: Path) -> Document:
    """Read one TOML or JSON (`.json`) file.

    Raises `NotFound`, or `InvalidRequest` that lists every mistake, for what is no regular file too.
    """
    data = read_file(path, "the policy")
    return parse_document(data, str(path), is_json=path.suffix == ".json")


def read_file(path: Path, what: str, *, hint: str = _HINT) -> bytes:
    """The bytes of a file that somebody wrote by hand, one more than `read_object` takes where it is larger.

    Raises `NotFound` for what cannot be opened and names it as `what`; `InvalidRequest` for what is no regular file.
    """
    try:
        # A FIFO that nobody writes to would be waited for.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                refuse(str(path), [Mistake(line=1, what="not a regular file")], hint=hint)
            return file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise NotFound(
            f"cannot read {what} {path}: {error.strerror}", hint="check that it is there, and that you may read it"
        ) from error


def parse_document(data: bytes, file: str, *, is_json: bool = False) -> Document:
    """As `read_document`, from bytes; `file` names them in messages."""
    raw, lines = read_object(data, file, is_json=is_json)
    body, mistakes = check_object(PolicyDocument, raw, lines)
    if body is None:
        refuse(file, mistakes)
    return Document(file=file, body=body, lines=lines)


def check_object(
    model: type[Model], raw: Mapping[str, Any], lines: Mapping[Place, int]
) -> tuple[Model | None, list[Mistake]]:
    """What a file says, as `model` has it; or `None`, and what is wrong with it."""
    try:
        return model.model_validate(raw), []
    except ValidationError as error:
        return None, list(_mistakes(model, error.errors(include_url=False), lines))


def read_object(data: bytes, file: str, *, is_json: bool = True) -> tuple[Mapping[str, Any], Mapping[Place, int]]:
    """What a file says, whatever its shape, and the line of each part. Raises `InvalidRequest`."""
    if len(data) > LARGEST_FILE:
        refuse(file, [Mistake(line=1, what=f"larger than {LARGEST_FILE} bytes")])
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        refuse(file, [Mistake(line=line, what="not UTF-8")])
    raw = _parse(text, file, is_json=is_json)
    return raw, line_numbers(text, is_json=is_json)


def refuse(file: str, mistakes: Sequence[Mistake], *, hint: str = _HINT) -> NoReturn:
    """Raise `InvalidRequest` with all mistakes of a file, by line."""
    ordered = sorted(mistakes, key=lambda mistake: mistake.line)
    raise InvalidRequest(
        "\n".join(f"{file}:{mistake.line}: {mistake.what}" for mistake in ordered),
        hint=hint,
        mistakes=[{"file": file, "line": mistake.line, "what": mistake.what} for mistake in ordered],
    )


def _parse(text: str, file: str, *, is_json: bool) -> Mapping[str, Any]:
    try:
        found = json.loads(text, object_pairs_hook=_no_twins) if is_json else tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        refuse(file, [Mistake(line=_toml_line(str(error), text), what=f"not TOML: {error}")])
    except json.JSONDecodeError as error:
        refuse(file, [Mistake(line=error.lineno, what=f"not JSON: {error.msg}")])
    except (_Twin, RecursionError) as error:
        refuse(file, [Mistake(line=1, what=str(error) or "too deep")])
    if not isinstance(found, dict):
        refuse(file, [Mistake(line=1, what="not an object")])
    return found


class _Twin(ValueError):
    """A key that stands twice: readers differ in which one they take."""


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twin(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _toml_line(said: str, text: str) -> int:
    """`tomllib` says it in words: "(at line 3, column 7)" or "(at end of document)"."""
    _, found, rest = said.rpartition("(at line ")
    number = rest.partition(",")[0]
    return int(number) if found and number.isdigit() else text.count("\n") + 1


def _mistakes(model: type[BaseModel], errors: Sequence[ErrorDetails], lines: Mapping[Place, int]) -> Iterator[Mistake]:
    """A misspelt key is one mistake: that the right one is missing goes without saying."""
    unknown = [found["loc"] for found in errors if found["type"] == "extra_forbidden"]
    misspelt = {(*place[:-1], _meant(model, place)) for place in unknown}
    for found in errors:
        place = found["loc"]
        if found["type"] == "missing" and place in misspelt:
            continue
        line = next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), 1)
        where = ".".join(str(part) for part in place)
        if found["type"] == "extra_forbidden":
            near = _meant(model, place)
            known = ", ".join(sorted(_keys_at(model, place[:-1])))
            meant = f"did you mean {near!r}?" if near else f"known here: {known}"
            yield Mistake(line=line, what=f"unknown key {where!r}; {meant}")
        else:
            yield Mistake(line=line, what=f"{where}: {found['msg'][:1].lower()}{found['msg'][1:]}")


def _meant(model: type[BaseModel], place: Place) -> str | None:
    """The key that an unknown one is most like."""
    return next(iter(difflib.get_close_matches(str(place[-1]), _keys_at(model, place[:-1]), n=1)), None)


def _keys_at(root: type[BaseModel], place: Place) -> list[str]:
    """The keys that a schema knows at a place."""
    model: type[BaseModel] | None = root
    for part in place:
        if model is None:
            return []
        field = model.model_fields.get(str(part))
        if field is not None:
            model = next(_models(field.annotation), None)
    return list(model.model_fields) if model is not None else []


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
