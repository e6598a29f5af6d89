"""Glob and Grep as Claude Code has them, by ripgrep in the guest."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Any

from gloveport.errors import NotFound
from gloveport.model import MIB, ExecRequest, ExecResult
from gloveport.sandbox.search import RIPGREP
from gloveport.tools.claude_catalogue import DEFAULT_HEAD
from gloveport.tools.claude_session import Answer, ToolSession, refuse
from gloveport.tools.text import shorten

__all__ = ["glob", "grep"]

_MOST_FILES = 100
_LONGEST_ANSWER = 30_000
_OUTPUT_BYTES = 16 * MIB
_LONGEST_LINE = 500
_COMMON = ("--no-config", "--color=never", "--hidden")
_NEVER = ("--glob=!.git", "--glob=!.hg", "--glob=!.svn")
"""Comes last: of several globs that match a file the last one decides."""
_NO_MATCH = 1
_COUNT = re.compile(r"([^\0]+)\0(\d+)\n")
_GLOB_CHARACTERS = frozenset("*?[{")


async def glob(session: ToolSession, arguments: dict[str, Any]) -> Answer:
    """Files whose path matches, oldest change first."""
    base, pattern = _split_pattern(arguments["pattern"])
    directory = session.resolve(posixpath.join(arguments["path"] or "", base))
    argv = [*_COMMON, "--files", "--null", "--no-ignore", "--sort=modified", f"--glob={pattern}", *_NEVER]
    if not await session.sandbox.files.exists(directory):
        return refuse(f"Directory does not exist: {directory}. {session.where}")
    result = await _ripgrep(session, argv, directory)
    if result.exit.status > _NO_MATCH:
        return _rejected(result)
    names = [_relative(f"{directory}/{name}", session.cwd) for name in _ended_by("\0", result)]
    if not names:
        return Answer("No files found")
    shown = names[:_MOST_FILES]
    if len(names) > _MOST_FILES:
        shown.append(
            f"(Showing {_MOST_FILES} of {len(names)} matching files; {len(names) - _MOST_FILES} more are not listed. "
            "Narrow the pattern or path to see the rest.)"
        )
    return Answer("\n".join(shown))


async def grep(session: ToolSession, arguments: dict[str, Any]) -> Answer:
    """Matching lines, files with matches, or counts of matches."""
    mode = arguments["output_mode"] or "files_with_matches"
    argv = [*_COMMON, *_filters(arguments), *_NEVER, *_shape(mode, arguments), "--regexp", arguments["pattern"]]
    path = arguments["path"]
    if path is not None:
        try:
            await session.sandbox.files.stat(session.resolve(path))
        except NotFound:
            return refuse(f"Path does not exist: {session.resolve(path)}. {session.where}")
    argv += ["--", session.resolve(path) if path is not None else "."]
    result = await _ripgrep(session, argv, session.cwd)
    if result.exit.status > _NO_MATCH:
        return _rejected(result)
    lines = [_relative(line, session.cwd) for line in _found(mode, result)]
    return Answer(shorten(_present(mode, lines, arguments), _LONGEST_ANSWER))


def _filters(arguments: dict[str, Any]) -> list[str]:
    argv = []
    if arguments["glob"]:
        argv.append(f"--glob={arguments['glob']}")
    if arguments["type"]:
        argv.append(f"--type={arguments['type']}")
    if arguments["-i"]:
        argv.append("--ignore-case")
    if arguments["multiline"]:
        argv += ["--multiline", "--multiline-dotall"]
    return argv


def _shape(mode: str, arguments: dict[str, Any]) -> list[str]:
    if mode == "files_with_matches":
        return ["--files-with-matches", "--null", "--sortr=modified"]
    if mode == "count":
        return ["--count", "--null", "--with-filename", "--sort=path"]
    argv = ["--no-heading", "--sort=path", f"--max-columns={_LONGEST_LINE}"]
    argv.append("--no-line-number" if arguments["-n"] is False else "--line-number")
    if arguments["-o"]:
        argv.append("--only-matching")
    around = arguments["context"] if arguments["context"] is not None else arguments["-C"]
    if around is not None:
        return [*argv, f"--context={int(around)}"]
    if arguments["-B"] is not None:
        argv.append(f"--before-context={int(arguments['-B'])}")
    if arguments["-A"] is not None:
        argv.append(f"--after-context={int(arguments['-A'])}")
    return argv


def _present(mode: str, lines: Sequence[str], arguments: dict[str, Any]) -> str:
    skipped = int(arguments["offset"] or 0)
    most = DEFAULT_HEAD if arguments["head_limit"] is None else int(arguments["head_limit"])
    rest = lines[skipped:]
    shown = rest[:most] if most else rest
    parts = []
    if len(shown) < len(rest):
        parts.append(f"limit: {most}")
    if skipped:
        parts.append(f"offset: {skipped}")
    page = ", ".join(parts)
    match mode:
        case "content":
            body = "\n".join(shown) if shown else "No matches found"
            return f"{body}\n\n[Showing results with pagination = {page}]" if page else body
        case "count":
            total = sum(int(line.rpartition(":")[2]) for line in lines)
            body = "\n".join(shown) if shown else "No matches found"
            found = f"Found {total} total occurrences across {_files(len(lines))}."
            return f"{body}\n\n{found}" + (f" with pagination = {page}" if page else "")
        case _:
            if not shown:
                return "No files found"
            return "\n".join([f"Found {_files(len(shown))}" + (f" {page}" if page else ""), *shown])


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


async def _ripgrep(session: ToolSession, argv: Sequence[str], directory: str) -> ExecResult:
    request = ExecRequest(argv=(RIPGREP, *argv), cwd=directory, output_bytes=_OUTPUT_BYTES, shown_as="")
    return await session.sandbox.exec(request)


def _found(mode: str, result: ExecResult) -> list[str]:
    """One text for each file, count or line found. A file's name may hold any byte but NUL."""
    match mode:
        case "content":
            return _ended_by("\n", result)
        case "count":
            return [f"{name}:{count}" for name, count in _COUNT.findall(result.text)]
        case _:
            return _ended_by("\0", result)


def _ended_by(end: str, result: ExecResult) -> list[str]:
    text = result.text
    if result.exit.dropped_stdout:
        text = text[: text.rfind(end) + 1]
    return [part for part in text.split(end) if part]


def _rejected(result: ExecResult) -> Answer:
    said = result.stderr.decode("utf-8", "replace").strip()
    return refuse(f"Search failed — ripgrep rejected the pattern, glob, or file type without searching:\n{said[:2000]}")


def _relative(line: str, directory: str) -> str:
    return line.removeprefix("./").removeprefix(f"{directory}/")


def _split_pattern(pattern: str) -> tuple[str, str]:
    """The directory that an absolute pattern starts with, and the pattern below it."""
    if not pattern.startswith("/"):
        return "", pattern
    parts = pattern.split("/")
    fixed = next((i for i, part in enumerate(parts) if _GLOB_CHARACTERS & set(part)), len(parts) - 1)
    return "/".join(parts[:fixed]) or "/", "/".join(parts[fixed:])
