"""Skills as data: the shipped ones, a repository's own after validation, and where agent and guest find them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType

from gloveport.errors import GloveportError, InvalidRequest, NotFound
from gloveport.model import KIB, FileType
from gloveport.sandbox import Files

__all__ = ["SKILLS_HOME", "Skill", "install_skills", "repository_skills", "shipped_skills"]

SKILLS_HOME = "/home/guest/.claude/skills"
"""Where skills are, in the jail and in the sandbox alike: what the agent hears of their paths is true for its tools."""

_REPOSITORY_PLACE = ".claude/skills"
_HEADER_KEYS = ("name", "description", "license", "version")
"""All that a repository's skill may declare. Hooks, tool grants and models are the platform's to decide."""
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_HEADER_LINE = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):[ \t]+(\S.*)")
_PLAIN_SCALAR = re.compile(r"[^\s&*!|>%@`\"'#\[\]{},?:-][^#\n]*")
_LONGEST_DESCRIPTION = 1024
_MOST_SKILLS = 32
_MOST_FILES = 64
_LONGEST_SKILL = 512 * KIB
_DEEPEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """One skill: a name and its files."""

    name: str
    files: Mapping[str, bytes]
    """Path below the skill's directory → content. `SKILL.md` is always there."""


def shipped_skills() -> tuple[Skill, ...]:
    """The skills that come with Gloveport."""
    root = files("gloveport.agents") / "skills"
    return tuple(
        Skill(name=directory.name, files=MappingProxyType(dict(_tree(directory))))
        for directory in sorted(root.iterdir(), key=lambda entry: entry.name)
        if (directory / "SKILL.md").is_file()
    )


async def repository_skills(guest: Files) -> tuple[tuple[Skill, ...], tuple[str, ...]]:
    """The skills of the repository in the workspace, read through the sandbox, and why others are left out.

    The guest may change its files at any time, so what is returned is a copy: bounded, without links, and with a header
    that holds nothing but a name and a description, spelt anew.
    """
    try:
        entries = await guest.list(_REPOSITORY_PLACE)
    except GloveportError:
        return (), ()
    found: list[Skill] = []
    refused: list[str] = []
    for entry in entries[:_MOST_SKILLS]:
        try:
            found.append(await _repository_skill(guest, entry.path))
        except GloveportError as error:
            refused.append(f"skill {entry.path!r} of the repository is not offered: {error.message}")
    if len(entries) > _MOST_SKILLS:
        refused.append(f"only the first {_MOST_SKILLS} skills of the repository are considered")
    return tuple(found), tuple(refused)


async def install_skills(guest: Files, skills: Sequence[Skill]) -> None:
    """Write the skills below `SKILLS_HOME`; scripts are executable."""
    for skill in skills:
        for path, data in skill.files.items():
            mode = 0o755 if path.startswith("scripts/") else 0o644
            await guest.write(f"{SKILLS_HOME}/{skill.name}/{path}", data, mode=mode)


def _tree(directory: Traversable, prefix: str = "") -> list[tuple[str, bytes]]:
    found = []
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found += _tree(entry, f"{prefix}{entry.name}/")
        else:
            found.append((prefix + entry.name, entry.read_bytes()))
    return found


async def _repository_skill(guest: Files, name: str) -> Skill:
    if not _NAME.fullmatch(name):
        raise _unfit("its name is not lower-case letters, digits and hyphens")
    root = f"{_REPOSITORY_PLACE}/{name}"
    entries = [entry for entry in await guest.list(root, depth=_DEEPEST) if entry.type is not FileType.DIRECTORY]
    if any(entry.type is not FileType.FILE for entry in entries):
        raise _unfit("it holds something other than plain files, such as a symbolic link")
    if len(entries) > _MOST_FILES or sum(entry.size for entry in entries) > _LONGEST_SKILL:
        raise _unfit(f"it has more than {_MOST_FILES} files or {_LONGEST_SKILL // KIB} KiB")
    content = {}
    left = _LONGEST_SKILL
    for entry in entries:
        content[entry.path] = await guest.read(f"{root}/{entry.path}", length=left + 1)
        left -= len(content[entry.path])
        if left < 0:
            raise _unfit("it grew while it was read")
    if "SKILL.md" not in content:
        raise NotFound("it has no SKILL.md", hint="add one")
    content["SKILL.md"] = _with_own_header(name, content["SKILL.md"])
    return Skill(name=name, files=MappingProxyType(content))


def _with_own_header(name: str, document: bytes) -> bytes:
    """SKILL.md with a header of our own spelling, so that no two parsers can read two things in it."""
    try:
        text = document.decode()
    except UnicodeDecodeError as error:
        raise _unfit("SKILL.md is not UTF-8") from error
    header, body = _split_header(text.replace("\r\n", "\n"))
    if header.get("name", name) != name:
        raise _unfit(f"it calls itself {header['name']!r}")
    description = header.get("description", "")
    if not 0 < len(description) <= _LONGEST_DESCRIPTION or not description.isprintable():
        raise _unfit(f"its description is not 1 to {_LONGEST_DESCRIPTION} printable characters on one line")
    # A JSON string is a YAML string.
    spelt = json.dumps(description)
    return f"---\nname: {name}\ndescription: {spelt}\n---\n{body}".encode()


def _split_header(text: str) -> tuple[dict[str, str], str]:
    lines = text.split("\n")
    if lines[0].rstrip() != "---" or "---" not in (line.rstrip() for line in lines[1:]):
        raise _unfit("SKILL.md does not start with a header between two lines of ---")
    end = next(i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---")
    header: dict[str, str] = {}
    for line in lines[1:end]:
        if not line.strip():
            continue
        pair = _HEADER_LINE.fullmatch(line.rstrip())
        if pair is None:
            raise _unfit(f"its header has a line that is not `key: value`: {line[:60]!r}")
        key = pair[1]
        if key not in _HEADER_KEYS:
            raise _unfit(f"its header has `{key}`, which only the platform decides")
        if key in header:
            raise _unfit(f"its header has `{key}` twice")
        header[key] = _scalar(pair[2])
    return header, "\n".join(lines[end + 1 :])


def _scalar(text: str) -> str:
    if text.startswith('"'):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise _unfit(f"its header has a value that is not a plain string: {text[:60]!r}") from error
        return str(value)
    if text.startswith("'") and text.endswith("'") and len(text) > 1 and "'" not in text[1:-1].replace("''", ""):
        return text[1:-1].replace("''", "'")
    if _PLAIN_SCALAR.fullmatch(text) is None:
        raise _unfit(f"its header has a value that is not a plain string: {text[:60]!r}")
    return text


def _unfit(reason: str) -> InvalidRequest:
    return InvalidRequest(reason, hint="see the guide to skills for what a repository's skill may hold")
