"""The five standard tools, on a real sandbox."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

from gloveport.errors import InvalidRequest
from gloveport.model import Source, Spec
from gloveport.sandbox import Manager, Sandbox
from gloveport.tools.standard import LONGEST_OUTPUT, TOOLS, ToolResult, call_tool

pytestmark = pytest.mark.anyio

PATIENCE = 120


async def call(sandbox: Sandbox, name: str, **params: Any) -> ToolResult:
    with anyio.fail_after(PATIENCE):
        return await call_tool(sandbox, name, params)


@pytest.fixture
async def lines(sandbox: Sandbox) -> Sandbox:
    await sandbox.files.write("it's lines.txt", "one\ntwo\nthree\n")
    return sandbox


async def test_lines_count_from_one_and_both_ends_are_included(lines: Sandbox) -> None:
    for given, expected in (
        ({}, "one\ntwo\nthree\n"),
        ({"start_line": 2}, "two\nthree\n"),
        ({"end_line": 2}, "one\ntwo"),
        ({"start_line": 2, "end_line": 2}, "two"),
        ({"start_line": 9}, ""),
    ):
        assert await call(lines, "file_read", path="it's lines.txt", **given) == ToolResult(output=expected)


async def test_only_a_line_feed_ends_a_line(sandbox: Sandbox) -> None:
    await sandbox.files.write("odd", "a\x0cb\u2028c\nd\n")
    assert (await call(sandbox, "file_read", path="odd", start_line=2, end_line=2)).output == "d"


async def test_what_cannot_be_read_is_a_result_that_says_why(sandbox: Sandbox) -> None:
    await sandbox.files.write("binary", bytes(range(256)))
    missing = await call(sandbox, "file_read", path="missing")
    binary = await call(sandbox, "file_read", path="binary")
    directory = await call(sandbox, "file_read", path=".")
    assert (missing.exit_code, binary.exit_code, directory.exit_code) == (4, 2, 2)
    assert not missing.success
    assert "No such file" in (missing.error or "")
    assert "binary (256 bytes)" in (binary.error or "")
    assert "Is a directory" in (directory.error or "")
    backwards = await call(sandbox, "file_read", path="binary", start_line=3, end_line=2)
    assert (backwards.exit_code, "not a range of lines: 3 to 2" in (backwards.error or "")) == (2, True)


async def test_a_relative_path_is_written_in_the_workspace_literally_with_its_directories(sandbox: Sandbox) -> None:
    path = "new dir/$(touch evil)/it's"
    assert (await call(sandbox, "file_write", path=path, content="x")).success
    assert await sandbox.files.read_text(f"/workspace/{path}") == "x"
    assert not await sandbox.files.exists("evil")
    refused = await call(sandbox, "file_write", path="other/file", content="x", create_dirs=False)
    assert (refused.exit_code, await sandbox.files.exists("other")) == (4, False)


async def test_a_place_outside_the_writable_ones_is_refused(sandbox: Sandbox) -> None:
    refused = await call(sandbox, "file_write", path="/workspace/../etc/profile", content="x")
    assert refused.exit_code == 78
    assert "only /workspace" in (refused.error or "")


async def test_a_command_runs_in_bash_where_it_is_told(sandbox: Sandbox) -> None:
    await sandbox.files.mkdir("sub")
    result = await call(sandbox, "shell", command="[[ -d . ]] && pwd; echo oops >&2; exit 3", work_dir="sub")
    assert result == ToolResult(output="/workspace/sub\n", error="oops\n", exit_code=3)


async def test_a_command_is_killed_with_all_it_started_when_its_time_is_over(sandbox: Sandbox) -> None:
    result = await call(sandbox, "shell", command="sleep 98765 & sleep 98765", timeout=0.2)
    assert (result.exit_code, result.timed_out, result.success) == (124, True, False)
    assert "timed out" in (result.error or "")
    left = await call(sandbox, "shell", command="ps -A -o args | grep -c '[s]leep 98765'")
    assert left.output == "0\n"


async def test_long_output_is_bounded_and_keeps_its_beginning_and_its_end(sandbox: Sandbox) -> None:
    result = await call(sandbox, "shell", command="echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo last")
    assert result.success
    assert len(result.output) < LONGEST_OUTPUT + 100
    assert result.output.startswith("first\n")
    assert result.output.endswith("last\n")
    assert "characters left out" in result.output


async def test_output_beyond_the_sandboxs_limit_is_counted_and_the_status_kept(sandbox: Sandbox) -> None:
    result = await call(sandbox, "shell", command="head -c 20000000 /dev/zero | tr '\\0' x; exit 5")
    assert result.exit_code == 5
    assert "bytes of output beyond the limit were dropped" in (result.error or "")


async def test_binary_output_is_named_and_not_shown(sandbox: Sandbox) -> None:
    assert (await call(sandbox, "shell", command="head -c 300 /dev/zero")).output.startswith(
        "[binary output, 300 bytes"
    )


async def test_a_search_takes_expressions_and_names_as_they_are(lines: Sandbox) -> None:
    await lines.files.write(".git/one", "one")
    await lines.files.write("-e.py", "it's -one\n")
    assert (await call(lines, "search", pattern="^(one|three)$")).output == (
        "it's lines.txt:1:one\nit's lines.txt:3:three"
    )
    assert (await call(lines, "search", pattern="-one")).output == "-e.py:1:it's -one"
    assert (await call(lines, "search", pattern="it's")).output == "-e.py:1:it's -one"
    assert (await call(lines, "search", pattern="^one", file_pattern="*")).output == "it's lines.txt:1:one"
    assert await call(lines, "search", pattern="nowhere") == ToolResult()
    assert (await call(lines, "search", pattern="(")).exit_code == 2
    assert (await call(lines, "search", pattern="one", path="missing")).exit_code == 4


async def test_git_looks_without_a_shell_and_does_nothing_else(manager: Manager, place: Path) -> None:
    repository = place / "repository"
    repository.mkdir()
    (repository / "file").write_text("one\n")
    for words in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@l", "commit", "-qm", "m"],
    ):
        subprocess.run(["git", *words], cwd=repository, check=True)
    sandbox = Sandbox(await manager.create(Spec(source=Source(repo=str(repository)))))
    await sandbox.files.write("file", "two\n")

    assert "-one\n+two" in (await call(sandbox, "git", subcommand="diff")).output
    assert (await call(sandbox, "git", subcommand="log", args='--format="%s of it"')).output == "m of it\n"
    assert not (await call(sandbox, "git", subcommand="log", args="--oneline; touch evil")).success
    assert not await sandbox.files.exists("evil")
    assert not (await call(sandbox, "git", subcommand="branch", args="-D main")).success
    assert (await call(sandbox, "git", subcommand="branch")).output == "* main\n"
    for subcommand in ("push", "commit", "status; id", "-c"):
        refused = await call(sandbox, "git", subcommand=subcommand)
        assert refused.exit_code == 78
        assert "status" in (refused.error or "")
    assert (await call(sandbox, "git", subcommand="log", args="'open")).exit_code == 2


MISFITS: list[tuple[str, object, str]] = [
    ("shell", ["ls"], "must be a JSON object, not array"),
    ("shell", None, "must be a JSON object, not null"),
    ("shell", {}, "`command` is missing"),
    ("shell", {"command": 1}, "`command` must be of type string, not integer"),
    ("shell", {"command": "ls", "timeout": True}, "`timeout` must be of type number, not boolean"),
    ("shell", {"command": "ls", "timeout": 0}, "`timeout` must be at least"),
    ("shell", {"command": "ls", "timeout": float("nan")}, "`timeout` must be at least"),
    ("shell", {"command": "ls", "cwd": "x"}, "unexpected parameter `cwd`"),
    ("file_read", {"path": "x", "start_line": -1}, "`start_line` must be at least 0"),
    ("rm", {}, "no tool 'rm'"),
]


async def test_a_call_that_does_not_fit_is_refused_and_told_what_would(sandbox: Sandbox) -> None:
    for name, params, problem in MISFITS:
        with pytest.raises(InvalidRequest) as caught:
            await call_tool(sandbox, name, params)
        assert problem in caught.value.message
        expected = "file_read, file_write, shell, search, git" if name == "rm" else f"expected {name}("
        assert expected in caught.value.hint


def test_schemas_are_closed_and_name_what_is_required() -> None:
    required = {name: tool.schema()["required"] for name, tool in TOOLS.items()}
    assert required == {
        "file_read": ["path"],
        "file_write": ["path", "content"],
        "shell": ["command"],
        "search": ["pattern"],
        "git": ["subcommand"],
    }
    for tool in TOOLS.values():
        schema = tool.schema()
        assert (schema["type"], schema["additionalProperties"]) == ("object", False)
        assert all({"type", "description"} <= value.keys() for value in schema["properties"].values())
    assert TOOLS["shell"].schema()["properties"]["timeout"]["default"] == 300


async def test_half_a_character_is_refused_with_a_next_step(sandbox: Sandbox) -> None:
    for name, params in (
        ("file_write", {"path": "a", "content": "\ud800"}),
        ("file_write", {"path": "\ud800", "content": "a"}),
        ("file_read", {"path": "\ud800"}),
        ("shell", {"command": "echo \ud800"}),
        ("search", {"pattern": "\ud800"}),
    ):
        refused = await call(sandbox, name, **params)
        assert not refused.success
        assert "half a character" in (refused.error or "")
