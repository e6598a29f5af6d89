"""Which paths of a patch a host acts on or trusts by itself, so that applying them needs an explicit word."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import translate

from gloveport.errors import InvalidRequest, PolicyDenied
from gloveport.model import Policy
from gloveport.policy.files.protected_names import BUILT_IN

__all__ = [
    "ProtectedPath",
    "Protection",
    "ProtectionLevel",
    "Touched",
    "check_pattern",
    "check_protected",
    "find_protected",
    "protected_patterns",
]

_TOLD = 200
"""Paths that a message lists; the context has all of them."""
_SHORT_NAME = re.compile(r"(?P<stem>[^~]{1,8})~[0-9]{1,6}(?:\.(?P<suffix>.{1,3}))?")
_HASHED = re.compile(r"(?P<start>..)[0-9a-f]{4}")
_UNFIT = str.maketrans("+,;=[]", "______", ". ")
_SEPARATORS = re.compile(r"[/\\]")
"""A backslash separates on some file systems."""
_REPOSITORY = frozenset({"config", "objects", "refs"})
"""What stands beside `HEAD` in a repository without a working tree."""


class ProtectionLevel(StrEnum):
    """What a protected path in a patch means for applying it."""

    REFUSED = "refused"
    """Nothing is applied, unless the path is allowed by name."""
    WARNING = "warning"
    """It is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """One path that a patch adds, changes, removes, or renames from or to."""

    path: str
    """Relative to the tree."""
    link: str | None = None
    """The target, where it is a symbolic link afterwards."""
    known_as: str | None = None
    """A name outside the patch under which a link of the user's leads to it: `~/.bashrc` for `dotfiles/bashrc`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedPath:
    """One protected path that a patch touches."""

    path: str
    level: ProtectionLevel
    rule: str
    """The name or pattern that covers it."""
    reason: str

    def __str__(self) -> str:
        return f"{self.path!r}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What is protected beside the built-in names, and what of it all somebody has looked at and allows."""

    patterns: tuple[str, ...] = ()
    """A policy's `files.protected`."""
    allowed: frozenset[str] = frozenset()
    """Paths exactly as a refusal names them. There is no word for all: it would be said without looking."""


def protected_patterns(policy: Policy) -> tuple[str, ...]:
    """Every layer's `files.protected`: a lower layer adds to those above and cannot take from them."""
    found = (pattern for layer in policy.layers if layer.files is not None for pattern in layer.files.protected)
    return tuple(dict.fromkeys(found))


def check_pattern(pattern: str) -> None:
    """Raise `InvalidRequest` for a pattern that covers nothing a patch can name, or that hides what it covers.

    A pattern is names with `/` between; `*`, `?` and `[…]` match within one name, `**` any number of directories. It
    stands at any depth, or with a leading `/` at the top of the tree, and covers what is below.
    """
    names = pattern.removeprefix("/").removesuffix("/").split("/")
    if any(name in ("", ".", "..") for name in names) or any(ord(char) < 0x20 for char in pattern):
        raise InvalidRequest(
            f"not a pattern of paths in a tree: {pattern!r}",
            hint="names with / between, such as deploy/*.pem; a leading / is the top of the tree",
        )
    if all(name == "**" for name in names):
        raise InvalidRequest(f"{pattern!r} protects every path", hint="name what is to be protected")


def find_protected(touched: Iterable[Touched], patterns: Sequence[str] = ()) -> tuple[ProtectedPath, ...]:
    """The protected paths among `touched`, in their order: by the built-in names and by `patterns`, which refuse.

    Names are compared as a file system might that ignores case, normalises Unicode, skips invisible characters, cuts
    off trailing dots, blanks and streams, or gives short names. A link counts by its target, too.

    Raises `InvalidRequest` for a pattern that `check_pattern` does not take.
    """
    everything = list(touched)
    finder = _Finder(patterns, everything)
    return tuple(found for one in everything if (found := finder.judge(one)) is not None)


def check_protected(touched: Iterable[Touched], protection: Protection) -> None:
    """Raise `PolicyDenied`, naming every path with its reason, where a patch needs an allowance that it lacks.

    Raises `InvalidRequest` for an allowance that the patch has no use for: nobody can have looked at that path.
    """
    found = find_protected(touched, protection.patterns)
    refused = [one for one in found if one.level is ProtectionLevel.REFUSED]
    _check_allowed(protection.allowed, {one.path for one in refused})
    left = [one for one in refused if one.path not in protection.allowed]
    if left:
        lines = [str(one) for one in left[:_TOLD]] + ([f"and {len(left) - _TOLD} more"] if len(left) > _TOLD else [])
        raise PolicyDenied(
            "the patch changes what this host acts on by itself:\n" + "\n".join(lines),
            hint="look at them in the diff; where they are what you want, name each with --allow-protected PATH",
            rule="built-in: protected paths" if not protection.patterns else "built-in and files.protected",
            paths=[one.path for one in left],
        )


def _check_allowed(allowed: Collection[str], refused: Collection[str]) -> None:
    idle = sorted(set(allowed) - set(refused))
    if idle:
        raise InvalidRequest(
            f"nothing in the patch needs {idle[0]!r} to be allowed",
            hint="name a path exactly as the refusal does; directories and patterns are not taken",
            paths=idle,
        )


@dataclass(frozen=True, slots=True)
class _Rule:
    names: tuple[str, ...]
    level: ProtectionLevel
    reason: str

    @property
    def title(self) -> str:
        return f"built-in: {'/'.join(self.names)}"


_Alternatives = Sequence[frozenset[str]]
"""A path: of each component, every name that it may stand for."""


class _Finder:
    """Judges the paths of one patch: literal names by a look into a table, because a patch may hold a million."""

    def __init__(self, patterns: Sequence[str], touched: Iterable[Touched]) -> None:
        self._rules: dict[str, list[_Rule]] = {}
        self._short: dict[tuple[str, str], set[str]] = {}
        self._known: dict[str, frozenset[str]] = {}
        for rule in _built_in():
            self._rules.setdefault(rule.names[0], []).append(rule)
            for name in rule.names:
                self._note_short_names(name)
        for pattern in patterns:
            check_pattern(pattern)
        self._patterns = [(pattern, _Pattern(pattern)) for pattern in patterns]
        self._repositories = set(_repositories(touched))

    def judge(self, one: Touched) -> ProtectedPath | None:
        """The strictest that can be said of a path."""
        found = sorted(self._objections(one), key=lambda said: said.level is not ProtectionLevel.REFUSED)
        return found[0] if found else None

    def _objections(self, one: Touched) -> Iterator[ProtectedPath]:
        yield from self._about(one.path, one.path, is_link=one.link is not None)
        if _is_head(one.path) and (_has_capitals(one.path) or _place(one.path) in self._repositories):
            yield ProtectedPath(
                path=one.path,
                level=ProtectionLevel.REFUSED,
                rule="built-in: HEAD",
                reason="with it the directory is a Git repository, and git commands inside obey its settings",
            )
        if one.known_as is not None:
            prefix = f"the link {one.known_as} leads here: "
            yield from self._about(one.path, one.known_as, is_link=False, prefix=prefix)
        if one.link is not None:
            yield from self._about_link(one.path, one.link)

    def _about_link(self, path: str, link: str) -> Iterator[ProtectedPath]:
        whole = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        if set(whole.split("/")) <= {"", ".", ".."}:
            reason = f"a link to {link!r}: it leads to everything in this tree, its repository included"
            yield ProtectedPath(path=path, level=ProtectionLevel.REFUSED, rule="built-in: links", reason=reason)
        for spelling in dict.fromkeys((link, whole)):
            yield from self._about(path, spelling, is_link=True, prefix=f"a link to {link!r}: ")

    def _about(self, path: str, spelling: str, *, is_link: bool, prefix: str = "") -> Iterator[ProtectedPath]:
        """What covers `spelling`. A link may also stand for a directory above something protected."""
        names = [found for name in _SEPARATORS.split(spelling) if (found := self._alternatives(name))]
        for rule in self._matching(names, is_link=is_link):
            yield ProtectedPath(path=path, level=rule.level, rule=rule.title, reason=prefix + rule.reason)
        for text, pattern in self._patterns:
            if pattern.covers(names, is_link=is_link):
                reason = f"{prefix}the policy protects {text}"
                refused = ProtectionLevel.REFUSED
                yield ProtectedPath(path=path, level=refused, rule=f"files.protected: {text}", reason=reason)

    def _matching(self, names: _Alternatives, *, is_link: bool) -> Iterator[_Rule]:
        for start, first in enumerate(names):
            for name in sorted(first, reverse=True):  # the name itself before its ending
                for rule in self._rules.get(name, ()):
                    rest = names[start : start + len(rule.names)]
                    is_whole = len(rest) == len(rule.names) or is_link
                    if is_whole and all(part in given for part, given in zip(rule.names, rest, strict=False)):
                        yield rule

    def _alternatives(self, name: str) -> frozenset[str]:
        found = self._known.get(name)
        if found is None:
            folded = _fold(name)
            found = self._known[name] = frozenset(self._stands_for(folded)) if folded else frozenset()
        return found

    def _stands_for(self, name: str) -> Iterator[str]:
        yield name
        _, dot, suffix = name.rpartition(".")
        if dot:
            yield f"*.{suffix}"
        short = _SHORT_NAME.fullmatch(name)
        if short is not None:
            key = (short["stem"], short["suffix"] or "")
            yield from self._short.get(key, ())
            hashed = _HASHED.fullmatch(key[0])
            if hashed is not None:
                yield from self._short.get((f"{hashed['start']}????", key[1]), ())

    def _note_short_names(self, name: str) -> None:
        """As Windows makes them: six letters and a number, or two letters, four of a checksum and a number."""
        stem, _, suffix = name.lstrip(".").rpartition(".")
        if not stem:
            stem, suffix = suffix, ""
        stem = stem.translate(_UNFIT)
        for start in (stem[:6], f"{stem[:2]}????"):
            self._short.setdefault((start, suffix[:3]), set()).add(name)


class _Pattern:
    """One pattern, matched in one pass over a path, whatever it says."""

    def __init__(self, text: str) -> None:
        names = text.strip("/").split("/")
        self._anchored = text.startswith("/")
        self._matches = [
            None if name == "**" else re.compile(translate(_fold(name, cut=False))).match for name in names
        ]
        self._start = self._closed({0})

    def covers(self, path: _Alternatives, *, is_link: bool) -> bool:
        """The states are how many names of the pattern have been met so far."""
        states = self._start
        for given in path:
            states = self._closed(set(self._met(states if self._anchored else states | self._start, given)))
            if len(self._matches) in states:
                return True
        return is_link and any(state > 0 and self._matches[state - 1] is not None for state in states)

    def _met(self, states: Collection[int], given: Collection[str]) -> Iterator[int]:
        for state in states:
            matches = self._matches[state]
            if matches is None:
                yield state
            elif any(matches(name) for name in given):
                yield state + 1

    def _closed(self, states: set[int]) -> set[int]:
        """With those that `**` reaches by standing for nothing."""
        for state in sorted(states):
            following = state
            while following < len(self._matches) and self._matches[following] is None:
                following += 1
                states.add(following)
        return states


def _built_in() -> Iterator[_Rule]:
    for names, reason, refused in BUILT_IN:
        level = ProtectionLevel.REFUSED if refused else ProtectionLevel.WARNING
        for name in names.split():
            yield _Rule(tuple(name.split("/")), level, reason)


def _components(path: str) -> list[str]:
    return [name for part in _SEPARATORS.split(path) if (name := _fold(part))]


def _fold(name: str, *, cut: bool = True) -> str:
    """One name for all that some file system takes for the same: HFS+, APFS, NTFS, FAT, ext4 and ZFS, each its way."""
    if not name.isascii():
        visible = "".join(char for char in unicodedata.normalize("NFKC", name) if not _is_ignorable(char))
        name = unicodedata.normalize("NFKC", visible.upper().casefold())
    name = name.lower()
    return name.partition(":")[0].rstrip(". ") if cut else name


def _is_ignorable(char: str) -> bool:
    """Formatting, and variation selectors: they are not seen, and HFS+ leaves them out when it compares."""
    return unicodedata.category(char) == "Cf" or char == "\u034f" or "\ufe00" <= char <= "\ufe0f"


def _is_head(path: str) -> bool:
    if path.isascii() and "head" not in path.rpartition("/")[2].lower():
        return False  # quickly: it is asked of every path
    return _components(path)[-1:] == ["head"]


def _has_capitals(path: str) -> bool:
    """Whether the name itself has: `head` alone, in small letters, is the name of many a program and directory."""
    name = _SEPARATORS.split(path)[-1]
    return name != name.lower()


def _place(path: str) -> tuple[str, ...]:
    return tuple(_components(path)[:-1])


def _repositories(touched: Iterable[Touched]) -> Iterator[tuple[str, ...]]:
    """Directories in which a patch puts what stands beside `HEAD`; found only where there is a `head`."""
    everything = list(touched)
    if not any(_is_head(one.path) for one in everything):
        return
    for one in everything:
        names = _components(one.path)
        for position, name in enumerate(names):
            if name in _REPOSITORY:
                yield tuple(names[:position])
