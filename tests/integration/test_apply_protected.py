"""What a host acts on by itself: free in the sandbox, told in the diff, refused by `apply` until it is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from gloveport.errors import Conflict, InvalidRequest, PolicyDenied
from gloveport.jobs import RunDirectory, make_run_directory
from gloveport.model import FileRules, Origin, Policy, PolicyLayer, RunState, RunSummary, Source, Spec, new_id
from gloveport.policy.files.protected import Protection
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.sandbox.apply import apply_patch
from gloveport.sandbox.patch import Patch
from gloveport.settings import Settings

from ..conftest import PATIENCE, Cli  # noqa: TID252 - tests are no package of ours

pytestmark = [pytest.mark.anyio, pytest.mark.needs("git")]

LINK = "120000"
FILE = "100644"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's tree, in a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    made = tmp_path / "tree"
    made.mkdir()
    (made / "a.txt").write_text("one\n")
    return made


def added(path: str, text: str = "x\n", mode: str = FILE) -> str:
    body = "".join(f"+{line}\n" for line in text.splitlines())
    end = "" if text.endswith("\n") else "\\ No newline at end of file\n"
    count = len(text.splitlines())
    return (
        f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n"
        f"@@ -0,0 +1,{count} @@\n{body}{end}"
    )


def look(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_text("latin-1")
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


async def apply(patch: str | bytes, tree: Path, *allowed: str, patterns: tuple[str, ...] = ()) -> tuple[str, ...]:
    data = patch if isinstance(patch, bytes) else patch.encode()
    with anyio.fail_after(PATIENCE):
        return await apply_patch(data, tree, Protection(patterns=patterns, allowed=frozenset(allowed)))


async def refused(patch: str | bytes, tree: Path, **fields: tuple[str, ...]) -> list[str]:
    """The paths for which a patch is refused; nothing of it is applied."""
    before = look(tree)
    with pytest.raises(PolicyDenied) as denied:
        await apply(patch, tree, **fields)  # type: ignore[arg-type]
    assert look(tree) == before
    return list(denied.value.context["paths"])


# Attacks, which succeed where the guard is off


async def test_a_patch_that_makes_git_run_a_program_is_refused_and_would_have_run_it(tree: Path) -> None:
    """A directory that looks like a repository: whoever asks git anything in it obeys its settings."""
    sprung = tree.parent / "sprung"
    settings = f"[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = .\n\tfsmonitor = touch {sprung};\n"
    patch = (
        added("fixture/HEAD", "ref: refs/heads/main\n")
        + added("fixture/config", settings)
        + added("fixture/objects/x")
        + added("fixture/refs/x")
    )
    assert await refused(patch, tree) == ["fixture/HEAD"]
    await apply(patch, tree, "fixture/HEAD")
    await anyio.to_thread.run_sync(
        lambda: subprocess.run(["git", "status"], cwd=tree / "fixture", capture_output=True, check=False)
    )
    assert sprung.exists()


async def test_a_patch_that_a_login_shell_would_run_is_refused_and_would_have_been_run(tree: Path) -> None:
    sprung = tree.parent / "sprung"
    patch = added(".bash_profile", f"touch {sprung}\n")
    assert await refused(patch, tree) == [".bash_profile"]

    def log_in() -> None:
        env = {"HOME": str(tree), "PATH": os.environ["PATH"]}
        subprocess.run(["/bin/bash", "--login", "-c", ":"], env=env, check=False, capture_output=True)

    await anyio.to_thread.run_sync(log_in)
    assert not sprung.exists()
    await apply(patch, tree, ".bash_profile")
    await anyio.to_thread.run_sync(log_in)
    assert sprung.exists()


async def test_a_file_that_the_users_home_links_to_is_protected_under_any_name(tree: Path) -> None:
    """A repository of settings: the patch names `shell/rc`, and the next shell runs it."""
    (tree / "shell").mkdir()
    (tree / "shell" / "rc").write_text("old\n")
    patch = "diff --git a/shell/rc b/shell/rc\n--- a/shell/rc\n+++ b/shell/rc\n@@ -1 +1 @@\n-old\n+evil\n"
    (Path.home() / ".zshrc").symlink_to(tree / "shell" / "rc")
    with pytest.raises(PolicyDenied, match=r"'shell/rc': the link ~/\.zshrc leads here"):
        await apply(patch, tree)
    (Path.home() / ".zshrc").unlink()
    (tree / ".vscode").symlink_to("shell")
    assert await refused(patch, tree) == ["shell/rc"]
    (tree / ".vscode").unlink()
    assert await apply(patch, tree) == ("shell/rc",)


# What a patch can do to a protected path


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("added", added(".envrc")),
        ("changed", "diff --git a/.envrc b/.envrc\n--- a/.envrc\n+++ b/.envrc\n@@ -1 +1 @@\n-o\n+new\n"),
        (
            "removed",
            "diff --git a/.envrc b/.envrc\ndeleted file mode 100644\n--- a/.envrc\n+++ /dev/null\n@@ -1 +0,0 @@\n-o\n",
        ),
        ("mode", "diff --git a/.envrc b/.envrc\nold mode 100644\nnew mode 100755\n"),
        (
            "renamed from",
            "diff --git a/.envrc b/plain\nsimilarity index 100%\nrename from .envrc\nrename to plain\n",
        ),
        ("renamed to", "diff --git a/a.txt b/.envrc\nsimilarity index 100%\nrename from a.txt\nrename to .envrc\n"),
        ("copied to", "diff --git a/a.txt b/.envrc\nsimilarity index 100%\ncopy from a.txt\ncopy to .envrc\n"),
        ("a link in its place", added(".envrc", "a.txt", LINK)),
    ],
)
async def test_whatever_is_done_to_a_protected_path_needs_the_word(tree: Path, name: str, patch: str) -> None:
    if name not in ("added", "renamed to", "copied to", "a link in its place"):
        (tree / ".envrc").write_text("o\n")
    assert await refused(patch, tree) == [".envrc"]
    before = look(tree), (tree / ".envrc").lstat().st_mode if (tree / ".envrc").exists() else 0
    assert ".envrc" in await apply(patch, tree, ".envrc")
    after = look(tree), (tree / ".envrc").lstat().st_mode if (tree / ".envrc").exists() else 0
    assert before != after


@pytest.mark.parametrize("target", [".git/hooks", "../.ssh", ".vscode/tasks.json", ".", ".."])
async def test_a_link_at_a_protected_name_needs_the_word_however_the_patch_says_it(tree: Path, target: str) -> None:
    assert await refused(added("way", target, LINK), tree) == ["way"]
    # A mode is an octal number to git, with or without zeros before it; other bits of it are ignored.
    assert await refused(added("way", target, "0120000"), tree) == ["way"]
    # A patch that says nothing of modes keeps the one there is.
    (tree / "way").symlink_to("a.txt")
    end = "\\ No newline at end of file\n"
    silent = f"diff --git a/way b/way\n--- a/way\n+++ b/way\n@@ -1 +1 @@\n-a.txt\n{end}+{target}\n{end}"
    assert await refused(silent, tree) == ["way"]
    await apply(silent, tree, "way")
    assert os.readlink(tree / "way") == target


async def test_a_harmless_link_needs_none(tree: Path) -> None:
    assert await apply(added("latest", "a.txt", LINK), tree) == ("latest",)
    assert os.readlink(tree / "latest") == "a.txt"


async def test_a_policys_patterns_are_protected_too(tree: Path) -> None:
    patch = added("deploy/key.pem") + added("b.txt")
    assert await refused(patch, tree, patterns=("*.pem",)) == ["deploy/key.pem"]
    assert await apply(patch, tree, "deploy/key.pem", patterns=("*.pem",)) == ("deploy/key.pem", "b.txt")


async def test_one_word_does_not_stand_for_another_path(tree: Path) -> None:
    patch = added(".envrc") + added("sub/.envrc")
    with pytest.raises(PolicyDenied) as denied:
        await apply(patch, tree, ".envrc")
    assert denied.value.context["paths"] == ["sub/.envrc"]
    with pytest.raises(InvalidRequest, match="needs"):
        await apply(patch, tree, ".envrc", "sub/.envrc", "a.txt")
    assert look(tree) == {"a.txt": "one\n"}


async def test_a_patch_that_does_not_fit_is_a_conflict_first(tree: Path) -> None:
    (tree / ".envrc").write_text("mine\n")
    with pytest.raises(Conflict):
        await apply(added(".envrc"), tree, ".envrc")


async def test_a_copy_of_what_is_out_of_the_tree_is_refused(tree: Path) -> None:
    (tree.parent / "secret").write_text("s\n")
    patch = "diff --git a/../secret b/b\nsimilarity index 100%\ncopy from ../secret\ncopy to b\n"
    with pytest.raises((InvalidRequest, Conflict)):
        await apply(patch, tree)
    assert look(tree) == {"a.txt": "one\n"}


# The whole way, from a real guest


GUEST = r"""
set -e
export GIT_AUTHOR_NAME=g GIT_AUTHOR_EMAIL=g@localhost GIT_COMMITTER_NAME=g GIT_COMMITTER_EMAIL=g@localhost
printf '#!/bin/sh\necho hooked > ran-by-hook\n' > .git/hooks/pre-commit
chmod +x .git/hooks/pre-commit
mkdir -p .vscode .claude sub
echo '{}' > .vscode/tasks.json
echo '{}' > .claude/settings.json
echo 'echo hi' > .bashrc
git mv .envrc sub/plain
git add .
git commit -qm work
git worktree add -q /tmp/tree HEAD
test -f /tmp/tree/.bashrc
git worktree remove --force /tmp/tree
mv .vscode sub/.idea && mv sub/.idea .vscode
ln -s .git/hooks way
mkdir -p .github/workflows && echo 'on: push' > .github/workflows/ci.yml
echo '*.c filter=evil' > .gitattributes
echo 2 > calc.py
"""
NEEDED = [".bashrc", ".claude/settings.json", ".envrc", ".vscode/tasks.json", "way"]


async def work_in(manager: Manager, repository: Path, policy: Policy | None = None) -> Patch:
    with anyio.fail_after(PATIENCE):
        spec = Spec(source=Source(repo=str(repository)), policy=policy or Policy())
        sandbox = Sandbox(await manager.create(spec))
        done = await sandbox.exec(shell_request(GUEST))
        assert done.ok, done.stderr
        return await sandbox.diff()


@pytest.fixture
def repository(make_repository: Callable[[Mapping[str, str]], Path]) -> Path:
    return make_repository({"calc.py": "1\n", ".envrc": "export A=1\n"})


@pytest.mark.needs("bubblewrap")
async def test_inside_everything_works_the_diff_warns_and_apply_asks(manager: Manager, repository: Path) -> None:
    patch = await work_in(manager, repository)
    assert {entry.path for entry in patch.paths} == {
        *NEEDED,
        ".gitattributes",
        ".github/workflows/ci.yml",
        "calc.py",
        "ran-by-hook",
        "sub/plain",
    }
    asked = [warning for warning in patch.warnings if warning.endswith("needs --allow-protected")]
    assert [warning.split("'")[1] for warning in asked] == NEEDED
    told = {warning.split("'")[1] for warning in patch.warnings} - set(NEEDED)
    assert told == {".gitattributes", ".github/workflows/ci.yml"}
    fresh = Path(shutil.copytree(repository, repository.with_name("fresh"), symlinks=True))
    assert sorted(await refused(patch.data, fresh)) == NEEDED
    await apply(patch.data, fresh, *NEEDED)
    assert (fresh / ".bashrc").read_text() == "echo hi\n"
    assert not (fresh / ".envrc").exists()
    assert os.readlink(fresh / "way") == ".git/hooks"
    assert not (fresh / ".git/hooks/pre-commit").exists()


@pytest.mark.needs("bubblewrap")
async def test_the_diff_warns_of_what_the_policy_protects(manager: Manager, repository: Path) -> None:
    layer = PolicyLayer(origin=Origin(layer="project"), files=FileRules(protected=("/calc.py",)))
    patch = await work_in(manager, repository, Policy(layers=(layer,)))
    assert "'calc.py': the policy protects /calc.py; applying it needs --allow-protected" in patch.warnings


# From the command line


@pytest.fixture
def run(settings: Settings, tree: Path) -> RunDirectory:
    """What a run leaves that changed two protected files, one of them by its policy."""
    directory = make_run_directory(settings.data, new_id())
    directory.patch.write_text(added(".envrc") + added("keys/a") + added("b.txt"))
    directory.trajectory.touch()
    summary = RunSummary(
        id=directory.id,
        state=RunState.SUCCEEDED,
        repo=str(tree),
        changed=(".envrc", "b.txt", "keys/a"),
        warnings=("'.envrc': direnv runs it",),
        protected=("keys",),
    )
    directory.save(summary)
    return directory


def test_the_command_line_asks_for_each_path_by_name(settings: Settings, run: RunDirectory, tree: Path) -> None:
    command = Cli(settings=settings)
    plain = command("apply", run.id)
    assert plain.returncode == 78
    said = plain.stderr.decode()
    assert "'.envrc': direnv or its like runs it" in said
    assert "'keys/a': the policy protects keys" in said
    assert "--allow-protected PATH" in said
    one = command("apply", run.id, "--allow-protected", ".envrc", "--json")
    assert json.loads(one.stdout)["error"]["context"]["paths"] == ["keys/a"]
    assert look(tree) == {"a.txt": "one\n"}
    idle = command("apply", run.id, "--allow-protected", "keys")
    assert idle.returncode == 2
    done = command("apply", run.id, "--allow-protected", ".envrc", "--allow-protected", "keys/a")
    assert done.returncode == 0, done
    assert set(look(tree)) == {"a.txt", ".envrc", "keys/a", "b.txt"}


def test_the_warnings_of_a_run_are_in_its_diff_and_at_its_end(settings: Settings, run: RunDirectory) -> None:
    command = Cli(settings=settings)
    assert b"gloveport: '.envrc': direnv runs it\n" in command("diff", run.id).stderr
    assert json.loads(command("diff", run.id, "--json").stdout)["warnings"] == ["'.envrc': direnv runs it"]
    assert "Look at  '.envrc': direnv runs it" in command.ok("show", run.id)
