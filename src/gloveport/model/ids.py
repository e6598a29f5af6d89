"""Readable ids, and finding one by a unique prefix."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from gloveport.errors import Conflict, InvalidRequest, NotFound

__all__ = ["new_id", "new_trace", "resolve_id"]

_FIRST = [
    "amber",
    "azure",
    "bold",
    "brave",
    "brisk",
    "calm",
    "clear",
    "coral",
    "crisp",
    "deft",
    "eager",
    "early",
    "fair",
    "fleet",
    "fond",
    "gentle",
    "glad",
    "golden",
    "grand",
    "green",
    "hardy",
    "jade",
    "jolly",
    "keen",
    "kind",
    "light",
    "lively",
    "lucid",
    "lunar",
    "mellow",
    "merry",
    "mild",
    "misty",
    "neat",
    "noble",
    "opal",
    "patient",
    "plain",
    "polar",
    "proud",
    "quick",
    "quiet",
    "rapid",
    "ready",
    "rosy",
    "round",
    "royal",
    "sage",
    "sharp",
    "silver",
    "sleek",
    "snowy",
    "solar",
    "sound",
    "spry",
    "stable",
    "steady",
    "still",
    "sunny",
    "swift",
    "tidy",
    "vivid",
    "warm",
    "wise",
]
_SECOND = [
    "ant",
    "badger",
    "bat",
    "bear",
    "beaver",
    "bee",
    "bison",
    "bream",
    "carp",
    "cat",
    "cod",
    "crab",
    "crane",
    "crow",
    "deer",
    "dove",
    "duck",
    "eagle",
    "eel",
    "elk",
    "falcon",
    "finch",
    "fox",
    "frog",
    "gecko",
    "goat",
    "goose",
    "gull",
    "hare",
    "hawk",
    "heron",
    "ibex",
    "ibis",
    "jay",
    "kite",
    "koala",
    "lark",
    "lion",
    "lynx",
    "mink",
    "mole",
    "moth",
    "newt",
    "orca",
    "otter",
    "owl",
    "panda",
    "pike",
    "puma",
    "quail",
    "raven",
    "robin",
    "seal",
    "shrew",
    "skua",
    "snail",
    "stork",
    "swan",
    "tern",
    "toad",
    "trout",
    "viper",
    "wasp",
    "wolf",
    "wren",
    "yak",
]
_TAIL_BITS = 24


def new_id() -> str:
    """A readable id such as `brave-otter-3fa91c`: two words and 24 random bits."""
    return f"{secrets.choice(_FIRST)}-{secrets.choice(_SECOND)}-{secrets.randbits(_TAIL_BITS):06x}"


def new_trace() -> str:
    """A W3C trace id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def resolve_id(prefix: str, ids: Iterable[str], *, noun: str) -> str:
    """The one id that `prefix` names.

    Raises `InvalidRequest` for an empty prefix, `NotFound` when none starts with it, `Conflict` when several do.
    """
    if not prefix:
        raise InvalidRequest(f"an empty {noun} id", hint=f"name the {noun}: its id, or the first letters of it")
    known = sorted(ids)
    if prefix in known:
        return prefix
    found = [candidate for candidate in known if candidate.startswith(prefix)]
    if not found:
        listing = "gloveport runs" if noun == "run" else "gloveport list"
        raise NotFound(f"no {noun} {prefix!r}", hint=f"see what there is with: {listing}", id=prefix)
    if len(found) > 1:
        raise Conflict(
            f"{noun} {prefix!r} could be any of: {', '.join(found)}",
            hint="type more letters of the id",
            id=prefix,
            candidates=found,
        )
    return found[0]
