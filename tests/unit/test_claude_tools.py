"""Claude Code's working tools, on a real sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from gloveport.errors import BackendUnavailable, InvalidRequest
from gloveport.model import Limits, Spec
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.tools.claude import CLAUDE_TOOLS, Answer, ClaudeTools, open_claude_tools

pytestmark = pytest.mark.anyio

PATIENCE = 120
UNREAD = "File has not been read yet. Read it first before writing to it."


class Caller:
    """Calls tools by their names, with a bound on time."""

    def __init__(self, tools: ClaudeTools, sandbox: Sandbox) -> None:
        self.tools = tools
        self.files = sandbox.files

    async def __call__(self, name: str, **params: Any) -> Answer:
        with anyio.fail_after(PATIENCE):
            return await self.tools.call(name, params)

    async def bash(self, command: str, **params: Any) -> Answer:
        return await self("Bash", command=command, **params)


@pytest.fixture
async def call(sandbox: Sandbox) -> AsyncIterator[Caller]:
    async with open_claude_tools(sandbox) as tools:
        yield Caller(tools, sandbox)


async def test_lines_come_numbered_after_a_tab(call: Caller) -> None:
    await call.files.write("a.py", "one\n\ttwo\r\nthree")
    assert await call("Read", file_path="/workspace/a.py") == Answer("1\tone\n2\t\ttwo\n3\tthree")
    assert await call("Read", file_path="a.py", offset=2, limit=1) == Answer("2\t\ttwo")


async def test_two_thousand_lines_of_two_thousand_characters_are_the_default(call: Caller) -> None:
    await call.files.write("many", "".join(f"{number}\n" for number in range(1, 2502)))
    text = (await call("Read", file_path="many")).text
    assert text.endswith("2000\t2000\n\n[Lines 1 to 2000 of 2502. Read on with offset 2001.]")
    assert (await call("Read", file_path="many", offset=2501)).text == "2501\t2501\n2502\t"
    await call.files.write("long", "x" * 5000)
    assert (await call("Read", file_path="long")).text == f"1\t{'x' * 2000}... [3000 more characters]"


async def test_a_large_file_is_read_in_parts_only(call: Caller) -> None:
    await call.files.write("large", ("y" * 79 + "\n") * 5000)
    whole = await call("Read", file_path="large")
    assert (whole.is_error, "exceeds maximum allowed size (256KB)" in whole.text) == (True, True)
    part = await call("Read", file_path="large", limit=2000)
    assert not part.is_error
    assert len(part.text) < 101_000
    assert "Read on with offset" in part.text


async def test_what_has_no_lines_to_show_is_said(call: Caller) -> None:
    await call.files.write("empty", "")
    await call.files.write("short", "one\n")
    await call.files.write("binary", b"\x7fELF\0")
    assert "contents are empty" in (await call("Read", file_path="empty")).text
    assert "shorter than the provided offset (7)" in (await call("Read", file_path="short", offset=7)).text
    binary, missing, directory = [await call("Read", file_path=path) for path in ("binary", "missing", "/workspace")]
    assert binary.is_error
    assert missing == Answer("File does not exist. Note: your current working directory is /workspace.", True)
    assert (directory.is_error, "Is a directory" in directory.text) == (True, True)


async def test_a_new_file_is_written_and_an_unread_one_is_not(call: Caller) -> None:
    created = await call("Write", file_path="/workspace/sub/new", content="one\n")
    assert created.text.startswith("File created successfully at: /workspace/sub/new")
    assert not (await call("Write", file_path="/workspace/sub/new", content="two\n")).is_error
    await call.files.write("old", "mine\n")
    assert await call("Write", file_path="old", content="x") == Answer(UNREAD, True)
    assert await call("Edit", file_path="old", old_string="mine", new_string="x") == Answer(UNREAD, True)
    assert await call.files.read_text("old") == "mine\n"
    await call("Read", file_path="old")
    assert not (await call("Write", file_path="old", content="x")).is_error


async def test_a_file_that_changed_since_it_was_read_is_not_overwritten_but_can_be_edited(call: Caller) -> None:
    await call.files.write("shared", "one\n")
    await call("Read", file_path="shared")
    await call.bash("echo two >> shared")
    refused = await call("Write", file_path="shared", content="x")
    assert (refused.is_error, refused.text.startswith("File has been modified since read")) == (True, True)
    edited = await call("Edit", file_path="shared", old_string="one", new_string="ONE")
    assert "modified on disk since you last read it" in edited.text
    assert await call.files.read_text("shared") == "ONE\ntwo\n"


async def test_an_edit_must_be_exact_different_and_unique(call: Caller) -> None:
    await call.files.write("file", "a b a\n")
    await call("Read", file_path="file")
    missing = await call("Edit", file_path="file", old_string="c", new_string="d")
    assert missing == Answer("String to replace not found in file.\nString: c", True)
    same = await call("Edit", file_path="file", old_string="a", new_string="a")
    assert same.text == "No changes to make: old_string and new_string are exactly the same."
    many = await call("Edit", file_path="file", old_string="a", new_string="c")
    assert many.text.startswith("Found 2 matches of the string to replace, but replace_all is false.")
    assert await call.files.read_text("file") == "a b a\n"
    everything = await call("Edit", file_path="file", old_string="a", new_string="c", replace_all=True)
    assert "All occurrences were successfully replaced" in everything.text
    assert await call.files.read_text("file") == "c b c\n"


async def test_an_edit_keeps_what_it_does_not_touch(call: Caller) -> None:
    await call.files.write("dos", b"\xef\xbb\xbfa\r\nb\r\ncaf\xe9\r\nunix\n")
    await call.files.write("script", "#!/bin/sh\n", mode=0o755)
    await call("Read", file_path="dos")
    await call("Read", file_path="script")
    assert not (await call("Edit", file_path="dos", old_string="a\nb\n", new_string="A\nB\n")).is_error
    assert await call.files.read("dos") == b"\xef\xbb\xbfA\r\nB\r\ncaf\xe9\r\nunix\n"
    await call("Edit", file_path="script", old_string="sh", new_string="bash")
    assert (await call.files.stat("script")).mode == 0o755


async def test_an_empty_old_string_makes_a_file_and_never_replaces_one(call: Caller) -> None:
    assert not (await call("Edit", file_path="new", old_string="", new_string="made\n")).is_error
    assert await call.files.read_text("new") == "made\n"
    again = await call("Edit", file_path="new", old_string="", new_string="x")
    assert again == Answer("Cannot create new file - file already exists.", True)


async def test_the_policys_refusal_reaches_the_model(call: Caller) -> None:
    refused = await call("Write", file_path="/etc/profile", content="x")
    assert (refused.is_error, "only /workspace" in refused.text) == (True, True)


async def test_output_and_errors_come_in_order_and_failure_names_its_status(call: Caller) -> None:
    assert await call.bash("echo out; echo err >&2; echo out") == Answer("out\nerr\nout")
    assert await call.bash("echo out; exit 3") == Answer("Exit code 3\nout", True)
    assert await call.bash("true") == Answer("(Bash completed with no output)")
    assert (await call.bash("nosuchcommand")).text == "Exit code 127\nbash: line 1: nosuchcommand: command not found"
    assert (await call.bash("echo before; kill -9 $$")) == Answer("Exit code 137\nbefore", True)
    assert (await call.bash("echo 'open")).text.startswith("Exit code 2\nbash: eval: line 1: unexpected EOF")


async def test_the_directory_carries_over_and_nothing_else(call: Caller) -> None:
    await call.files.mkdir("sub")
    assert (await call.bash("cd sub; X=1; pwd")).text == "/workspace/sub"
    assert (await call.bash('pwd; echo "X=$X"')).text == "/workspace/sub\nX="
    assert (await call("Write", file_path="here", content="x")).text.startswith(
        "File created successfully at: /workspace/sub/here"
    )
    assert (await call.bash("cd /tmp; exit 1")).is_error
    assert (await call.bash("pwd")).text == "/tmp"


async def test_a_directory_that_is_gone_is_left_with_a_word_of_explanation(call: Caller) -> None:
    assert (await call.bash("mkdir gone; cd gone; rmdir ../gone; echo bye")).text == "bye"
    await call.bash("mkdir gone; cd gone")
    await call.bash("rmdir ../gone")
    lost = await call.bash("pwd")
    assert (lost.is_error, "Shell cwd was reset to /workspace" in lost.text) == (True, True)
    assert (await call.bash("pwd")).text == "/workspace"


@pytest.mark.parametrize("said", [r"'/a\0b'", "$(printf /%05000d 0)", "nowhere"])
async def test_a_directory_that_cannot_be_one_is_not_believed(call: Caller, said: str) -> None:
    await call.bash("cd /tmp")
    await call.bash(f"pwd() {{ printf {said}; }}")
    assert await call.bash("pwd") == Answer("/tmp")
    assert not (await call("Glob", pattern="*")).is_error


async def test_a_command_that_takes_too_long_is_killed_with_all_it_started(call: Caller) -> None:
    late = await call.bash("echo hi; sleep 98765 & sleep 98765", timeout=300)
    assert late == Answer("Command timed out after 0.3s\nhi", True)
    assert (await call.bash("ps -A -o args | grep -c '[s]leep 98765'")).text == "Exit code 1\n0"


async def test_cancelling_a_call_kills_its_command(call: Caller, sandbox: Sandbox) -> None:
    async with sandbox.files.watch(".") as changes, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: call.bash("touch started; sleep 98765"))
        async for change in changes:
            if change.path == "started":
                break
        tasks.cancel_scope.cancel()
    assert (await call.bash("ps -A -o args | grep -c '[s]leep 98765'")).text == "Exit code 1\n0"


async def test_long_output_is_shortened_in_its_middle(call: Caller) -> None:
    text = (await call.bash("seq 100000")).text
    assert len(text) < 30_100
    assert text.startswith("1\n2\n")
    assert text.endswith("\n99999\n100000")
    assert "characters left out" in text


async def test_a_background_command_writes_to_a_file_and_its_end_is_told(call: Caller) -> None:
    await call.bash("mkfifo go")
    answer = await call.bash("echo working; read -r line < go; echo $line; exit 4", run_in_background=True)
    assert "Output is being written to: /tmp/tasks/bash_1.output" in answer.text
    told = (await call.bash("echo enough > go")).text
    while "ended" not in told:
        told = (await call.bash("true")).text
    assert told.endswith("[Background command bash_1 ended with exit code 4]")
    assert (await call.bash("cat /tmp/tasks/bash_1.output")).text == "working\nenough"


async def test_background_commands_end_with_their_session(sandbox: Sandbox) -> None:
    async with open_claude_tools(sandbox) as tools:
        await tools.call("Bash", {"command": "sleep 98765 & sleep 98765", "run_in_background": True})
    left = await sandbox.exec(shell_request("ps -A -o args | grep -c '[s]leep 98765'"))
    assert left.text == "0\n"


@pytest.fixture
async def tree(call: Caller) -> Caller:
    await call.files.write("src/a.py", "import os\n\n\ndef f():\n    return 1\n")
    await call.files.write("src/b.ts", "function f() { return 1 }\n")
    await call.files.write(".github/ci.yml", "return: 1\n")
    await call.files.write(".git/config.py", "return 1\n")
    await call.bash("touch -d 2001-01-01 src/b.ts; touch -d 2002-01-01 .github/ci.yml; touch -d 2003-01-01 src/a.py")
    return call


async def test_glob_lists_by_time_below_the_place_it_is_told(tree: Caller) -> None:
    assert (await tree("Glob", pattern="**/*")).text.splitlines() == ["src/b.ts", ".github/ci.yml", "src/a.py"]
    assert (await tree("Glob", pattern="*.py", path="src")).text == "src/a.py"
    assert (await tree("Glob", pattern="/workspace/src/*.{py,ts}")).text.splitlines() == ["src/b.ts", "src/a.py"]
    assert (await tree("Glob", pattern="**/*.zig")).text == "No files found"
    missing = await tree("Glob", pattern="*", path="nowhere")
    assert (missing.is_error, missing.text.startswith("Directory does not exist: /workspace/nowhere")) == (True, True)


async def test_glob_shows_a_hundred(call: Caller) -> None:
    await call.bash("touch $(seq 130)")
    lines = (await call("Glob", pattern="*")).text.splitlines()
    assert len(lines) == 101
    assert lines[-1].startswith("(Showing 100 of 130 matching files")


async def test_grep_shows_files_lines_or_counts(tree: Caller) -> None:
    assert (await tree("Grep", pattern="return")).text.splitlines() == [
        "Found 3 files",
        "src/a.py",
        ".github/ci.yml",
        "src/b.ts",
    ]
    content = {"output_mode": "content", "path": "src"}
    assert (await tree("Grep", pattern="RETURN 1$", **content)).text == "No matches found"
    assert (await tree("Grep", pattern="RETURN 1$", **content, **{"-i": True})).text == "src/a.py:5:    return 1"
    around = await tree("Grep", pattern="^def", **content, **{"-B": 1, "-A": 1})
    assert around.text == "src/a.py-3-\nsrc/a.py:4:def f():\nsrc/a.py-5-    return 1"
    bare = await tree("Grep", pattern="ret", output_mode="content", path="src/a.py", **{"-n": False, "-o": True})
    assert bare.text == "ret"
    assert (await tree("Grep", pattern="f", output_mode="count", type="py")).text == (
        "src/a.py:1\n\nFound 1 total occurrences across 1 file."
    )
    lines = await tree("Grep", pattern=r"def f\(\):\n    return", output_mode="content", glob="*.py", multiline=True)
    assert lines.text == "src/a.py:4:def f():\nsrc/a.py:5:    return 1"


async def test_names_of_files_may_hold_line_feeds(call: Caller) -> None:
    await call.files.write("odd\nname", "x\nx\n")
    await call.files.write("plain:7", "x\n")
    counts = await call("Grep", pattern="x", output_mode="count")
    assert counts == Answer("odd\nname:2\nplain:7:1\n\nFound 3 total occurrences across 2 files.")
    assert (await call("Grep", pattern="x", path="odd\nname")).text == "Found 1 file\nodd\nname"
    assert (await call("Grep", pattern="x")).text.startswith("Found 2 files\n")
    assert (await call("Glob", pattern="odd*")).text == "odd\nname"


async def test_grep_pages(call: Caller) -> None:
    await call.files.write("many", "".join(f"line {number}\n" for number in range(300)))
    default = (await call("Grep", pattern="line", output_mode="content")).text
    assert default.endswith("many:250:line 249\n\n[Showing results with pagination = limit: 250]")
    page = await call("Grep", pattern="line", output_mode="content", head_limit=2, offset=10)
    assert page.text == "many:11:line 10\nmany:12:line 11\n\n[Showing results with pagination = limit: 2, offset: 10]"
    everything = await call("Grep", pattern="line", output_mode="content", head_limit=0)
    assert len(everything.text.splitlines()) == 300


async def test_grep_says_what_ripgrep_does_not_accept(tree: Caller) -> None:
    for params in ({"pattern": "("}, {"pattern": "x", "type": "klingon"}):
        answer = await tree("Grep", **params)
        assert (answer.is_error, answer.text.startswith("Search failed")) == (True, True)
    missing = await tree("Grep", pattern="x", path="nowhere")
    assert (missing.is_error, missing.text.startswith("Path does not exist: /workspace/nowhere")) == (True, True)
    assert (await tree("Grep", pattern="--files")).text == "No files found"


async def test_wrong_parameters_are_told_to_the_model(call: Caller) -> None:
    for params, problem in (
        ({}, "the required parameter `command` is missing"),
        ({"command": "ls", "foo": 1}, "an unexpected parameter `foo` was provided"),
        ({"command": "ls", "timeout": "1"}, "the parameter `timeout` must be of type number, not string"),
        (["ls"], "parameters must be a JSON object, not array"),
    ):
        answer = await call.tools.call("Bash", params)
        assert answer.is_error
        assert answer.text.startswith("InputValidationError: Bash")
        assert problem in answer.text


async def test_an_unknown_tool_is_the_callers_mistake(call: Caller) -> None:
    with pytest.raises(InvalidRequest, match="no tool 'WebFetch'"):
        await call.tools.call("WebFetch", {})


async def test_a_sandbox_whose_time_is_over_is_no_answer_of_a_tool(manager: Manager) -> None:
    short = Sandbox(await manager.create(Spec(limits=Limits(sandbox_seconds=0.5))))
    async with open_claude_tools(short) as tools:

        async def use_it_up() -> None:
            while True:
                await tools.call("Bash", {"command": "sleep 98765"})

        with anyio.fail_after(PATIENCE), pytest.raises(BackendUnavailable):
            await use_it_up()


def test_the_tools_have_claude_codes_names_and_parameters() -> None:
    parameters = {name: list(tool.schema()["properties"]) for name, tool in CLAUDE_TOOLS.items()}
    assert parameters == {
        "Bash": ["command", "timeout", "description", "run_in_background"],
        "Read": ["file_path", "offset", "limit"],
        "Write": ["file_path", "content"],
        "Edit": ["file_path", "old_string", "new_string", "replace_all"],
        "Glob": ["pattern", "path"],
        "Grep": [
            "pattern", "path", "glob", "output_mode", "-B", "-A", "-C", "context", "-n", "-i", "-o", "type",
            "head_limit", "offset", "multiline",
        ],
    }  # fmt: skip
    required = {name: tool.schema()["required"] for name, tool in CLAUDE_TOOLS.items()}
    assert required == {
        "Bash": ["command"],
        "Read": ["file_path"],
        "Write": ["file_path", "content"],
        "Edit": ["file_path", "old_string", "new_string"],
        "Glob": ["pattern"],
        "Grep": ["pattern"],
    }
