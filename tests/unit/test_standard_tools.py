"""The five standard tools, on a real sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from gloveport.errors import InvalidRequest
from gloveport.model import Source, Spec
from gloveport.sandbox import Manager, Sandbox, shell_request
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


PROGRAM = "#!/bin/sh\ntouch /workspace/evil\ncat\n"
"""Whoever runs it is found out."""
SUBCOMMANDS = TOOLS["git"].description.removesuffix(".").rpartition(": ")[2].split(", ")


SIGNED_MERGE = r"""
with_file() { echo "$1" > file; git update-index file; git write-tree; }
commit() { git -c user.name=t -c user.email=t@l commit-tree -m m "$@"; }
sign() { sed '/^committer/a gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----'; }
left=$(commit $(with_file left) -p HEAD)
right=$(commit $(with_file right) -p HEAD)
merge=$(commit $(with_file both) -p $left -p $right)
git update-ref HEAD $(git cat-file commit $merge | sign | git hash-object -t commit -w --stdin)
echo two > file
"""
"""Makes the last commit a merge of a conflict, with what looks like a signature."""


@pytest.fixture
async def history(manager: Manager, make_repository: Callable[[Mapping[str, str]], Path]) -> Sandbox:
    """A repository of one commit and one uncommitted change, with a program that tells when it is run."""
    files = {"file": "one\n", ".gitattributes": "* diff=evil merge=evil\n", "evil.sh": PROGRAM}
    sandbox = Sandbox(await manager.create(Spec(source=Source(repo=str(make_repository(files))))))
    await sandbox.files.write("file", "two\n")
    await sandbox.files.write("evil.sh", PROGRAM, mode=0o755)
    return sandbox


async def test_git_looks_without_a_shell_and_does_nothing_else(history: Sandbox) -> None:
    assert "-one\n+two" in (await call(history, "git", subcommand="diff")).output
    assert (await call(history, "git", subcommand="log", args='--format="%s of it"')).output == "first of it\n"
    assert not (await call(history, "git", subcommand="log", args="--oneline; touch evil")).success
    assert not await history.files.exists("evil")
    assert (await call(history, "git", subcommand="branch")).output == "* main\n"
    assert (await call(history, "git", subcommand="branch", args="--show-current")).output == "main\n"
    for subcommand in ("push", "commit", "status; id", "-c", "--exec-path=/workspace", "--config-env=a=b"):
        refused = await call(history, "git", subcommand=subcommand)
        assert refused.exit_code == 78
        assert "status" in (refused.error or "")
    assert (await call(history, "git", subcommand="log", args="'open")).exit_code == 2


REFUSED = [
    *("log -1 -p --output=/workspace/evil", "log --outp evil", "rev-list --output evil HEAD", "shortlog --o=evil HEAD"),
    *("diff --output=evil", "show --output evil", "diff -- --output=evil", "blame --output=evil file"),
    *("grep -O/workspace/evil.sh one", "grep -nO/workspace/evil.sh one", "grep -inwO one", "grep -e -- -O./evil.sh"),
    *("grep --open-files-in-pager=/workspace/evil.sh one", "grep --open one", "grep --textconv one"),
    *("diff --ext-diff", "log -p --ext", "show --textconv", "diff --textc", "cat-file --textconv HEAD:file"),
    *("cat-file --filters HEAD:file", "cat-file --fil HEAD:file", "log --alternate-refs", "rev-list --alt"),
    *("log -p --remerge-diff", "log -p --diff-merges=r", "diff --submodule=diff", "show --submod"),
    *("branch --no-list new", "branch --no-l -D main", "branch --show-current --no-show-current new", "tag --no-li x"),
    *("describe --dirty", "describe --broken=x", "status -v", "status -sbv", "status --verb"),
]
HARMLESS = [
    *("log --oneline --all --stat -p", "log -p --output-indicator-new=*", "diff --no-ext-diff -Ofile", "diff --stat"),
    *("grep -n one HEAD", "grep -eO", "grep --only-matching one HEAD", "show --format=%G? HEAD", "blame file"),
    *("rev-list --filter=blob:none --objects HEAD", "status -uno --short", "tag -n1 -l", "branch -avv --sort=refname"),
    *("describe --all", "cat-file -p HEAD:file", "ls-files --stage", "merge-base HEAD HEAD", "rev-parse --verify HEAD"),
    *("log --show-signature", "shortlog -sn HEAD", "diff --no-index file evil.sh", "show --stat"),
    *("status --ignore-submodules=none", "diff --ignore-submodules=none", "ls-files --recurse-submodules"),
]


async def test_options_that_write_or_run_are_refused_however_they_are_spelt(history: Sandbox) -> None:
    for line in REFUSED:
        subcommand, _, args = line.partition(" ")
        refused = await call(history, "git", subcommand=subcommand, args=args)
        assert refused.exit_code == 78, line
    for line in HARMLESS:
        subcommand, _, args = line.partition(" ")
        done = await call(history, "git", subcommand=subcommand, args=args)
        assert done.exit_code in (0, 1), (line, done)
    assert not await history.files.exists("evil")


async def test_branches_and_tags_are_only_listed(history: Sandbox) -> None:
    for subcommand in ("branch", "tag"):
        for args in ("new", "-f new", "-d main", "-D main", "-m main new", "-c main new", "-a new -m message"):
            await call(history, "git", subcommand=subcommand, args=args)
    for args in ("--edit-description", "-u main", "--unset-upstream", "-t main", "--delete main", "-v main"):
        await call(history, "git", subcommand="branch", args=args)
    assert (await history.git.exec(["for-each-ref", "--format=%(refname)"])).text == "refs/heads/main\n"


SETTINGS = [
    *("core.pager", "core.fsmonitor", "core.editor", "diff.external", "diff.evil.command", "diff.evil.textconv"),
    *("gpg.program", "gpg.ssh.program", "core.alternateRefsCommand", "merge.evil.driver", "core.sshCommand"),
    *("pager.log", "pager.diff", "pager.status", "pager.branch", "pager.grep", "alias.log", "alias.status"),
]
SWITCHES = {"log.showSignature": "true", "log.diffMerges": "remerge", "status.submoduleSummary": "true"}


async def test_a_repositorys_settings_run_no_program_of_theirs(history: Sandbox) -> None:
    """Neither do the hooks, nor a submodule's own settings."""
    script = [SIGNED_MERGE, *(f"git config {name} /workspace/evil.sh" for name in SETTINGS)]
    script += [f"git config {name} {value}" for name, value in SWITCHES.items()]
    script += ["cp evil.sh .git/hooks/post-index-change", "cp -r .git /tmp/other"]
    script += ["mkdir sub && mv /tmp/other sub/.git && cp evil.sh file sub"]
    script += ["git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),sub", "touch evil.sh"]
    script += ["printf '[submodule \"sub\"]\\npath = sub\\nurl = ./sub\\n' > .gitmodules", "rm -f evil"]
    made = await history.exec(shell_request("\n".join(script)))
    assert not await history.files.exists("evil"), made
    for line in (
        *SUBCOMMANDS,
        *HARMLESS,
        "grep one",
        "log -p -m",
        "diff HEAD",
        "show HEAD",
        "branch -vv",
        "blame file",
    ):
        subcommand, _, args = line.partition(" ")
        done = await call(history, "git", subcommand=subcommand, args=args)
        assert not await history.files.exists("evil"), (line, done)
    await history.exec(shell_request("git status; git diff"))
    assert await history.files.exists("evil"), "without the tool's care they do run"


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
