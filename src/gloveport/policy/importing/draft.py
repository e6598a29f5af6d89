"""A policy in the making, out of other people's settings: rules with their lines, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

from gloveport.policy.files.host import HostView
from gloveport.policy.reading.document import Mistake, refuse
from gloveport.policy.reading.lines import Place

__all__ = ["Draft", "Effect", "Note", "as_object", "as_texts", "refuse_here"]

_SHOWN = 120


class Effect(StrEnum):
    """What an imported line comes to where it is no rule of the policy."""

    KEPT = "kept"
    """It holds anyway, or limits nothing."""
    NARROWER = "narrower"
    """It would allow more than a sandbox here ever may, or more than it asks for here."""
    LOST = "lost"
    """It restricts, and nothing here does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Why something in an imported file is no rule of the policy."""

    key: str
    """Where it stands, with dots."""
    line: int
    """From 1."""
    effect: Effect
    reason: str
    value: str = ""
    """The path or host it is about; empty where the whole key is meant."""

    def __str__(self) -> str:
        about = f"{self.key} ({self.value})" if self.value else self.key
        return f"{self.line}: {about}: {self.effect}: {self.reason}"


@dataclass(slots=True, kw_only=True)
class Draft:
    """Rules and notes as they are found."""

    file: str
    lines: Mapping[Place, int]
    host: HostView
    directory: str
    home: str
    notes: list[Note] = field(default_factory=list)
    placed: dict[Place, int] = field(default_factory=dict)
    """The line in the imported file of each part of the policy."""
    _body: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, section: str, key: str, value: object, place: Place) -> None:
        """Append to a list of the policy, once."""
        items = self._body.setdefault(section, {}).setdefault(key, [])
        if value not in items:
            self.placed[section, key, len(items)] = self.line(place)
            items.append(value)

    def put(self, section: str, key: str, value: object) -> None:
        """Set a value of the policy."""
        self._body.setdefault(section, {})[key] = value

    def section(self, name: str) -> None:
        """An empty section: it speaks, and allows nothing."""
        self._body.setdefault(name, {})

    def body(self) -> Mapping[str, Any]:
        """What there is so far, in the shape of a policy file."""
        return self._body

    def note(self, place: Place, effect: Effect, reason: str, value: str = "") -> None:
        """Say why something is no rule."""
        key = ".".join(str(part) for part in place if isinstance(part, str))
        shown = "".join(char if char.isprintable() else "?" for char in value[:_SHOWN])
        self.notes.append(Note(key=key, line=self.line(place), effect=effect, reason=reason, value=shown))

    def unknown(self, place: Place) -> None:
        """A key that is not understood may be a restriction."""
        self.note(place, Effect.LOST, "not a key that is understood here")

    def line(self, place: Place) -> int:
        """The line of a part, or of the nearest part around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def as_object(draft: Draft, value: object, place: Place) -> Mapping[str, Any]:
    """`value` if it is an object. Raises `InvalidRequest`."""
    if not isinstance(value, dict):
        refuse_here(draft, place, "not an object")
    return value


def as_texts(draft: Draft, value: object, place: Place) -> list[str]:
    """`value` if it is a list of strings that say something. Raises `InvalidRequest`."""
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        refuse_here(draft, place, "not a list of strings")
    return value


def refuse_here(draft: Draft, place: Place, what: str) -> NoReturn:
    """Raise `InvalidRequest` for one part of the file."""
    where = ".".join(str(part) for part in place)
    refuse(draft.file, [Mistake(line=draft.line(place), what=f"{where}: {what}" if where else what)])
