"""Search in a workspace: ripgrep, run in the guest on the guest's files."""

from __future__ import annotations

import base64
import json
from typing import Any

from gloveport.errors import InvalidRequest, LimitExceeded, NotFound
from gloveport.model import MIB, ExecRequest, Grep, Match, OutputStream
from gloveport.policy.files.guest_places import RIPGREP
from gloveport.sandbox.files import Files
from gloveport.sandbox.finish import abandon, end
from gloveport.sandbox.manager import Held

__all__ = ["RIPGREP", "search"]

_NO_MATCH = 1
_LONGEST_OUTPUT = 64 * MIB
_LONGEST_LINE = 4096


async def search(held: Held, grep: Grep) -> list[Match]:
    """Matches in order of path and line; what cannot be read is passed over.

    `InvalidRequest` for a bad expression, `NotFound` for a missing path.
    """
    argv = [
        RIPGREP,
        "--json",
        "--sort=path",
        "--no-messages",
        "--no-config",
        f"--max-columns={_LONGEST_LINE}",
    ]
    if grep.hidden:
        argv.append("--hidden")
    if grep.ignore_case:
        argv.append("--ignore-case")
    if grep.glob is not None:
        argv.append(f"--glob={grep.glob}")
    # The exclusion comes last: of several globs that match a file the last one decides.
    argv += ["--glob=!.git", "--regexp", grep.pattern, "--", grep.path]
    process = await held.backend.exec(held.ref, ExecRequest(argv=tuple(argv), output_bytes=_LONGEST_OUTPUT))
    matches: list[Match] = []
    rest = b""
    stderr = b""
    try:
        async for chunk in process:
            if chunk.stream is OutputStream.STDERR:
                stderr = (stderr + chunk.data)[:_LONGEST_LINE]
                continue
            *lines, rest = (rest + chunk.data).split(b"\n")
            matches += [match for line in lines if (match := _match(line)) is not None]
            if len(matches) > grep.limit:
                await end(process)
                return matches[: grep.limit]
        ended = await process.wait()
    except BaseException:
        await abandon(process)
        raise
    if ended.truncated:
        raise LimitExceeded("the search found more than fits in one answer", hint="narrow the pattern or the path")
    if ended.signal is not None:
        raise LimitExceeded("the search was cut short", hint="narrow the pattern or the path", signal=ended.signal)
    if ended.status > _NO_MATCH and not matches:
        await _explain(held, grep, ended.status, stderr.decode("utf-8", "replace").strip())
    return matches


def _match(line: bytes) -> Match | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if record.get("type") != "match":
        return None
    data = record["data"]
    return Match(
        path=_text(data["path"]).removeprefix("./"),
        line=data["line_number"],
        text=_text(data["lines"]).rstrip("\n"),
    )


def _text(value: dict[str, Any]) -> str:
    """Ripgrep gives text, or base64 where it is not UTF-8."""
    if "text" in value:
        return str(value["text"])
    return base64.b64decode(value["bytes"]).decode("utf-8", "surrogateescape")


async def _explain(held: Held, grep: Grep, status: int, said: str) -> None:
    """Raise why a search failed. Nothing when ripgrep only met something unreadable on its way."""
    if status in (126, 127):
        raise NotFound(
            "ripgrep is not in this sandbox", hint="pip install ripgrep on the host, then make a new sandbox"
        )
    if said:
        raise InvalidRequest(
            f"not a regular expression: {said}", hint="ripgrep's syntax; escape special characters with \\"
        )
    if not await Files(held).exists(grep.path):
        raise NotFound(f"no such path: {grep.path}", hint="paths are relative to the workspace", path=grep.path)
