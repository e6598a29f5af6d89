"""A rubric: what a trajectory is scored by, as a file says it. Strict: what is not here is an error.

A file is TOML, or JSON by the name `.json`. YAML would need a library that nothing else here needs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator
from pydantic_core import SchemaError, SchemaValidator, core_schema

from gloveport.errors import InvalidRequest
from gloveport.policy.reading.document import Mistake, check_object, read_file, read_object, refuse
from gloveport.policy.reading.lines import Place

__all__ = [
    "CHECKS",
    "LAST_EDIT",
    "LONGEST_PATTERN",
    "MOST_CRITERIA",
    "CommandCheck",
    "Criterion",
    "Rubric",
    "compile_pattern",
    "parse_rubric",
    "read_rubric",
]

LAST_EDIT = "last-edit"
LONGEST_PATTERN = 1_000
"""Characters of a regular expression."""
MOST_CRITERIA = 200
_MOMENTS = ("start", LAST_EDIT)
_HINT = "correct the rubric; nothing is scored by one that is not understood whole"


def compile_pattern(pattern: str) -> SchemaValidator:
    """What finds a regular expression of Rust's syntax in texts, in a time that grows with a text's length only.

    The texts are anybody's, and Python's own engine can be kept busy for years by one of thirty characters.
    Raises `ValueError` that says what is wrong with the expression.
    """
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as error:
        said = str(error).strip().splitlines()
        raise ValueError(f"no regular expression: {said[-1].strip().removeprefix('error: ')}") from error


def _expression(pattern: str) -> str:
    compile_pattern(pattern)
    return pattern


def _moment(text: str) -> str:
    if text not in _MOMENTS:
        near = difflib.get_close_matches(text, _MOMENTS, n=1)
        raise ValueError(f"did you mean {near[0]!r}?" if near else f"none of: {', '.join(_MOMENTS)}")
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Text = Annotated[str, Field(min_length=1, max_length=200)]
Tools = Annotated[list[Text], Field(min_length=1, max_length=100)]
Share = Annotated[float, Field(ge=0, le=1)]


class CommandCheck(_Strict):
    """A command that ran."""

    matches: Annotated[str, Field(min_length=1, max_length=LONGEST_PATTERN), AfterValidator(_expression)]
    """A regular expression that is found in its command line."""
    succeeded: bool = True
    """Whether it must have ended with status 0."""
    after: Annotated[str, AfterValidator(_moment)] = "start"
    """`start`: at any time. `last-edit`: of such commands the last one counts, and no file was changed after it."""


class Criterion(_Strict):
    """One thing that is looked at: a name, a weight, and one check."""

    name: Text
    weight: Annotated[float, Field(gt=0, le=1_000)] = 1.0
    tool_used: Tools | None = None
    """One of these tools was called."""
    tool_unused: Tools | None = None
    """None of these tools was called."""
    command: CommandCheck | None = None
    max_steps: NonNegativeInt | None = None
    max_errors: Share | None = None
    """Share of the tool calls that ended as errors, of those of which that is known."""
    max_refused: NonNegativeInt | None = None
    """Tool calls that were not carried out."""
    max_repeats: PositiveInt | None = None
    """The same call with the same parameters, so often in a row."""
    reads_before_edit: Literal[True] | None = None
    """Each file is looked at before it is first edited. The only check that is met in part: by its share of files."""

    @model_validator(mode="after")
    def _one_check(self) -> Self:
        if sum(getattr(self, name) is not None for name in CHECKS) != 1:
            raise ValueError(f"say one of: {', '.join(CHECKS)}")
        return self

    @property
    def check(self) -> str:
        """The name of its check."""
        return next(name for name in CHECKS if getattr(self, name) is not None)


CHECKS: Sequence[str] = tuple(name for name in Criterion.model_fields if name not in ("name", "weight"))
"""The names of the checks."""


class Rubric(_Strict):
    """A whole rubric."""

    criteria: Annotated[list[Criterion], Field(min_length=1, max_length=MOST_CRITERIA)]


def read_rubric(path: Path) -> Rubric:
    """Read a rubric file. Raises `NotFound`, or `InvalidRequest` with every mistake, its line and what is near it."""
    if path.suffix not in (".toml", ".json"):
        raise InvalidRequest(f"{path} is no rubric", hint="a rubric is TOML (.toml) or JSON (.json)", file=str(path))
    data = read_file(path, "the rubric", hint=_HINT)
    try:
        raw, lines = read_object(data, str(path), is_json=path.suffix == ".json")
    except InvalidRequest as error:
        raise InvalidRequest(error.message, hint=_HINT, **error.context) from error
    rubric, mistakes = _check(raw, lines)
    if rubric is None:
        refuse(str(path), mistakes, hint=_HINT)
    return rubric


def parse_rubric(raw: Mapping[str, Any]) -> Rubric:
    """The same from a value. Raises `InvalidRequest` with every mistake."""
    rubric, mistakes = _check(raw, {})
    if rubric is None:
        raise InvalidRequest("\n".join(f"rubric: {mistake.what}" for mistake in mistakes), hint=_HINT)
    return rubric


def _check(raw: Mapping[str, Any], lines: Mapping[Place, int]) -> tuple[Rubric | None, Sequence[Mistake]]:
    rubric, mistakes = check_object(Rubric, raw, lines)
    if rubric is None:
        return None, mistakes
    twins = []
    names: set[str] = set()
    for number, criterion in enumerate(rubric.criteria):
        if criterion.name in names:
            line = lines.get(("criteria", number, "name"), 1)
            twins.append(Mistake(line=line, what=f"criteria.{number}.name: {criterion.name!r} stands twice"))
        names.add(criterion.name)
    return (None, twins) if twins else (rubric, [])
