"""Where workspaces come from, with the real git: directories, commits, servers, and repositories that mean harm."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest

from gloveport.errors import BackendUnavailable, Conflict, InvalidRequest, NotFound, PermissionDenied
from gloveport.model import Source
from gloveport.sandbox.host_git import find_git, run_git
from gloveport.sandbox.source import PreparedSource, prepare_source

pytestmark = pytest.mark.anyio

SECONDS = 120


def git(*arguments: str, cwd: Path, **env: str) -> str:
    """Plain git, as a developer runs it."""
    identity = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in WHO.items()}
    own = {"HOME": str(cwd), "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        cwd=cwd,
        env=own | identity | env,
        capture_output=True,
        check=True,
        timeout=SECONDS,
    )
    return done.stdout.decode().strip()


WHO = {"NAME": "Ada", "EMAIL": "ada@example.org", "DATE": "2020-01-01T00:00:00Z"}


class Upstream:
    """A small repository: two commits, a branch, a light and an annotated tag."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        git("init", "-q", "-b", "trunk", cwd=path)
        (path / "script").write_text("#!/bin/sh\n")
        (path / "script").chmod(0o755)
        (path / "link").symlink_to("/etc/passwd")
        self.first = self.commit("file", "one\n")
        git("tag", "light", cwd=path)
        git("tag", "-a", "v1", "-m", "one", cwd=path)
        git("branch", "topic/sub", cwd=path)
        self.second = self.commit("file", "two\n")

    def commit(self, name: str, content: str) -> str:
        (self.path / name).write_text(content)
        git("add", "-A", cwd=self.path)
        git("commit", "-q", "-m", name, cwd=self.path)
        return git("rev-parse", "HEAD", cwd=self.path)


class Prepare:
    def __init__(self, root: Path) -> None:
        self.cache = root / "cache"
        self.scratch = root / "scratch"

    async def __call__(self, repo: Path | str, commit: str | None = None) -> PreparedSource:
        with anyio.fail_after(SECONDS):
            source = Source(repo=str(repo), commit=commit)
            return await prepare_source(source, cache=self.cache, scratch=self.scratch)


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    return Prepare(tmp_path)


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path / "upstream")


# Directories as they are


async def test_a_directory_without_a_commit_is_taken_as_it_is(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "way").symlink_to("plain")
    found = await prepare(tmp_path / "way")
    assert found == PreparedSource(
        lower=str(tmp_path / "plain"), description=str(tmp_path / "plain"), commit=None, is_git=False
    )
    assert not prepare.cache.exists()


async def test_a_relative_path_is_meant_from_here(
    prepare: Prepare, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(upstream.path)
    assert (await prepare(".")).lower == str(upstream.path)
    assert (await prepare(".")).is_git


async def test_a_linked_worktree_is_taken_without_its_repository(prepare: Prepare, upstream: Upstream) -> None:
    git("worktree", "add", "-q", "../linked", "topic/sub", cwd=upstream.path)
    found = await prepare(upstream.path.parent / "linked")
    assert not found.is_git


@pytest.mark.parametrize(
    ("repo", "error", "words"),
    [
        ("", InvalidRequest, "empty"),
        ("missing", NotFound, "no such directory"),
        ("file.txt", InvalidRequest, "not a directory"),
        ("bare.git", InvalidRequest, "bare repository"),
        ("loop", NotFound, "no such directory"),
        ("-oops", InvalidRequest, "not a repository"),
        ("a\0b", InvalidRequest, "empty"),
        ("line\nbreak", InvalidRequest, "not a repository"),
        ("ext::sh -c touch% x", InvalidRequest, "transport helpers"),
        ("fd::7", InvalidRequest, "transport helpers"),
        ("ftp://host/name", InvalidRequest, "ftp://"),
        ("javascript://host/name", InvalidRequest, "javascript://"),
        ("https://", InvalidRequest, "not an address"),
        ("https://host", InvalidRequest, "not an address"),
        ("https://ho st/x", InvalidRequest, "not an address"),
        ("https://host:port/x", InvalidRequest, "not an address"),
        ("ssh://-oProxyCommand=touch/x", InvalidRequest, "not an address"),
        ("ssh://-luser@host/x", InvalidRequest, "not an address"),
        ("host:-oProxyCommand=x", NotFound, "no such directory"),
        ("-host:path", InvalidRequest, "not a repository"),
    ],
)
async def test_what_is_no_repository_is_refused_with_a_next_step(
    prepare: Prepare,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    repo: str,
    error: type[InvalidRequest | NotFound],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    (tmp_path / "loop").symlink_to("loop")
    git("init", "-q", "--bare", "bare.git", cwd=tmp_path)
    with pytest.raises(error, match=words) as refused:
        await prepare(repo)
    assert refused.value.hint
    assert not prepare.cache.exists() or not any(prepare.cache.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
async def test_an_unreadable_directory_is_refused_by_name(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "locked/inside").mkdir(parents=True)
    (tmp_path / "locked").chmod(0o000)
    for repo in ("locked", "locked/inside"):
        with pytest.raises(PermissionDenied, match="locked"):
            await prepare(tmp_path / repo)
    (tmp_path / "locked").chmod(0o700)


# Commits


async def test_every_way_to_name_a_commit_gives_its_tree(prepare: Prepare, upstream: Upstream) -> None:
    names = {
        upstream.first: None,
        upstream.first[:7]: None,
        upstream.first[:20]: None,
        "light": None,
        "v1": None,
        "refs/tags/v1": None,
        "topic/sub": "topic/sub",
    }
    for name, branch in names.items():
        found = await prepare(upstream.path, name)
        tree = Path(found.lower)
        assert (found.commit, found.is_git) == (upstream.first, True), name
        assert (tree / "file").read_text() == "one\n"
        assert git("rev-parse", "HEAD", cwd=tree) == upstream.first
        assert git("status", "--porcelain", cwd=tree) == ""
        assert git("rev-parse", "--abbrev-ref", "HEAD", cwd=tree) == (branch or "HEAD")


async def test_modes_links_and_history_are_those_of_the_commit(prepare: Prepare, upstream: Upstream) -> None:
    tree = Path((await prepare(upstream.path, upstream.second)).lower)
    assert (tree / "script").stat().st_mode & 0o111 == 0o111
    assert (tree / "link").readlink() == Path("/etc/passwd")
    assert git("rev-list", "HEAD", cwd=tree).split() == [upstream.second, upstream.first]
    assert not any((tree / ".git" / name).exists() for name in ("hooks", "FETCH_HEAD", "logs", "ORIG_HEAD"))


async def test_a_moved_branch_is_fetched_again_and_a_commit_never(prepare: Prepare, upstream: Upstream) -> None:
    before = await prepare(upstream.path, "trunk")
    third = upstream.commit("file", "three\n")
    after = await prepare(upstream.path, "trunk")
    assert (before.commit, after.commit) == (upstream.second, third)
    assert (Path(before.lower) / "file").read_text() == "two\n"
    known = await prepare(upstream.path, third)
    upstream.path.rename(upstream.path.with_name("away"))
    upstream.path.mkdir()
    assert await prepare(upstream.path, third) == known


async def test_a_branch_that_becomes_a_directory_of_branches_is_fetched(prepare: Prepare, upstream: Upstream) -> None:
    await prepare(upstream.path, upstream.first[:9])
    git("branch", "-m", "topic/sub", "topic", cwd=upstream.path)
    assert (await prepare(upstream.path, "topic")).commit == upstream.first
    upstream.commit("file", "four\n")
    assert (await prepare(upstream.path, git("rev-parse", "HEAD", cwd=upstream.path)[:9])).commit


async def test_a_shallow_clone_serves_what_it_has(prepare: Prepare, upstream: Upstream) -> None:
    git("clone", "-q", "--depth=1", f"file://{upstream.path}", "../shallow", cwd=upstream.path)
    found = await prepare(upstream.path.parent / "shallow", "HEAD")
    assert found.commit == upstream.second
    assert git("status", "--porcelain", cwd=Path(found.lower)) == ""


async def test_a_bare_repository_and_a_file_url_are_fetched(prepare: Prepare, upstream: Upstream) -> None:
    bare = upstream.path.parent / "bare.git"
    git("clone", "-q", "--bare", str(upstream.path), str(bare), cwd=upstream.path.parent)
    assert (await prepare(bare, "v1")).commit == upstream.first
    by_url = await prepare(f"file://{bare}")
    assert by_url.commit == upstream.second
    assert by_url.description == f"file://{bare} at {upstream.second[:12]} (trunk)"


@pytest.mark.parametrize("commit", ["nothing", "0123456", "0" * 40, "refs/heads/none"])
async def test_an_unknown_commit_is_not_found_by_name(prepare: Prepare, upstream: Upstream, commit: str) -> None:
    with pytest.raises(NotFound, match=commit) as refused:
        await prepare(upstream.path, commit)
    assert "git ls-remote" in refused.value.hint


@pytest.mark.parametrize(
    "commit",
    ["", "--upload-pack=touch x", "-x", "a b", "a..b", "HEAD~1", "HEAD^{tree}", "x:file", "@{-1}", "a\nb", "a*", ".x"],
)
async def test_options_and_expressions_are_no_commits(prepare: Prepare, upstream: Upstream, commit: str) -> None:
    with pytest.raises(InvalidRequest, match="not a commit"):
        await prepare(upstream.path, commit)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_another_users_repository_is_fetched_all_the_same(prepare: Prepare, upstream: Upstream) -> None:
    for path in (upstream.path, *upstream.path.rglob("*")):
        os.lchown(path, 12345, 12345)
    assert (await prepare(upstream.path, "v1")).commit == upstream.first


async def test_a_commit_of_something_that_is_no_repository_is_refused(prepare: Prepare, upstream: Upstream) -> None:
    (upstream.path / "sub").mkdir()
    with pytest.raises(InvalidRequest, match="not a Git repository") as refused:
        await prepare(upstream.path / "sub", "v1")
    assert "top directory" in refused.value.hint


async def test_an_empty_repository_has_no_commit(prepare: Prepare, tmp_path: Path) -> None:
    git("init", "-q", "empty", cwd=tmp_path)
    with pytest.raises(NotFound, match="no commits"):
        await prepare(f"file://{tmp_path}/empty")


async def test_an_abbreviation_of_two_commits_is_a_conflict(prepare: Prepare, upstream: Upstream) -> None:
    tree = git("rev-parse", "HEAD^{tree}", cwd=upstream.path)
    seen: dict[str, bytes] = {}
    for number in range(1_000_000):
        body = f"tree {tree}\nauthor a <a@b.c> 0 +0000\ncommitter a <a@b.c> 0 +0000\n\n{number}\n".encode()
        begin = hashlib.sha1(b"commit %d\0" % len(body) + body).hexdigest()[:7]
        if begin in seen:
            break
        seen[begin] = body
    for branch, content in (("one", body), ("other", seen[begin])):
        (upstream.path / "raw").write_bytes(content)
        commit = git("hash-object", "-w", "-t", "commit", "raw", cwd=upstream.path)
        git("branch", branch, commit, cwd=upstream.path)
    with pytest.raises(Conflict, match="several"):
        await prepare(upstream.path, begin)
    assert (await prepare(upstream.path, commit[:12])).commit == commit


async def test_runs_that_start_together_share_one_fetch(prepare: Prepare, upstream: Upstream) -> None:
    found: list[PreparedSource] = []

    async def run() -> None:
        found.append(await prepare(upstream.path, "v1"))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(run)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(list((prepare.cache / "trees").iterdir())) == 1


async def test_a_fetch_that_is_cancelled_leaves_nothing_that_looks_finished(prepare: Prepare) -> None:
    with silent_server() as (address, asked):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(prepare, f"http://{address}/name.git")
            with anyio.fail_after(SECONDS):
                await anyio.to_thread.run_sync(asked.wait)
            tasks.cancel_scope.cancel()
    assert list((prepare.cache / "trees").iterdir()) == []


# Over HTTP


class GitHandler(BaseHTTPRequestHandler):
    """`git http-backend` by CGI, with a password when `password` is set."""

    root = ""
    password: str | None = None

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def answer(self, body: bytes) -> None:
        expected = base64.b64encode(f"ada:{self.password}".encode()).decode()
        if self.password is not None and self.headers.get("Authorization") != f"Basic {expected}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        url = urlsplit(self.path)
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": self.root,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": url.path,
            "QUERY_STRING": url.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=env, capture_output=True, timeout=SECONDS, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serve_git(root: Path, password: str | None = None) -> Iterator[str]:
    with serve(type("Handler", (GitHandler,), {"root": str(root), "password": password})) as address:
        yield address


@contextmanager
def silent_server() -> Iterator[tuple[str, threading.Event]]:
    """Takes a request and never answers, until the test is over."""
    asked, over = threading.Event(), threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            over.wait(SECONDS)

        def log_message(self, *args: object) -> None:
            pass

    with serve(Silent) as address:
        try:
            yield address, asked
        finally:
            over.set()


async def test_a_repository_is_fetched_over_http(prepare: Prepare, upstream: Upstream) -> None:
    with serve_git(upstream.path.parent) as address:
        url = f"http://{address}/upstream/.git"
        assert (await prepare(url)).commit == upstream.second
        assert (await prepare(url, "v1")).commit == upstream.first
        assert (await prepare(url, upstream.first[:8])).commit == upstream.first
        assert (await prepare(url, upstream.first)).commit == upstream.first
    assert (await prepare(url, upstream.first)).commit == upstream.first, "no server needed for what is here"


async def test_a_password_is_used_and_shown_nowhere(
    prepare: Prepare, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The git on the path notes its arguments and those of git's own helpers before it runs the real one."""
    listed = tmp_path / "listed"
    spy = tmp_path / "spy"
    spy.mkdir()
    (spy / "git").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >> {listed}\n'
        f'GIT_TRACE_SETUP={listed} GIT_TRACE={listed} exec {find_git()} "$@"\n'
    )
    (spy / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy}:{os.environ['PATH']}")
    with serve_git(upstream.path.parent, password="s3cr3t/pass") as address:
        found = await prepare(f"http://ada:s3cr3t%2Fpass@{address}/upstream/.git")
        assert found.commit == upstream.second
        assert "s3cr3t" not in found.description
        with pytest.raises(BackendUnavailable) as refused:
            await prepare(f"http://ada:wr0ng@{address}/upstream/.git")
    assert "wr0ng" not in str(refused.value.body())
    assert "remote-http" in listed.read_text()
    assert not any(secret in listed.read_text() for secret in ("s3cr3t", "wr0ng"))
    stored = b"".join(path.read_bytes() for path in prepare.cache.rglob("config"))
    assert b"s3cr3t" not in stored


async def test_a_failed_fetch_says_what_git_said(prepare: Prepare, upstream: Upstream) -> None:
    with serve_git(upstream.path.parent) as address, pytest.raises(BackendUnavailable, match="not found") as refused:
        await prepare(f"http://{address}/nothing/.git")
    assert refused.value.hint
    with pytest.raises(BackendUnavailable, match="onnect"):
        await prepare(f"http://{address}/upstream/.git")


async def test_without_git_the_next_step_is_to_install_it(
    prepare: Prepare, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="git is not installed") as refused:
        await prepare(upstream.path, "v1")
    assert "apt-get install git" in refused.value.hint


# Repositories that mean harm


class Trap:
    """A command that leaves a trace when anything runs it."""

    def __init__(self, root: Path) -> None:
        self.trace = root / "sprung"
        self.program = root / "trap"
        self.program.write_text(f'#!/bin/sh\necho "$0 $*" >> {self.trace}\ncat\n')
        self.program.chmod(0o755)

    @property
    def sprung(self) -> bool:
        return self.trace.exists()


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


HOOKS = [
    "applypatch-msg",
    "commit-msg",
    "fsmonitor-watchman",
    "post-applypatch",
    "post-checkout",
    "post-commit",
    "post-index-change",
    "post-merge",
    "post-receive",
    "post-rewrite",
    "post-update",
    "pre-applypatch",
    "pre-auto-gc",
    "pre-commit",
    "pre-merge-commit",
    "pre-push",
    "pre-rebase",
    "pre-receive",
    "prepare-commit-msg",
    "proc-receive",
    "push-to-checkout",
    "reference-transaction",
    "sendemail-validate",
    "update",
]


def rig(upstream: Upstream, trap: Trap) -> None:
    """Everything that a served repository can hold to make somebody's git run something."""
    (upstream.path / ".gitattributes").write_text("* filter=evil diff=evil merge=evil\n")
    (upstream.path / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = x\n\turl = ext::{trap.program}\n')
    (upstream.path / ".lfsconfig").write_text(f"[lfs]\n\turl = file://{trap.program}\n")
    hooks = upstream.path / "hooks"
    hooks.mkdir()
    for place in (hooks, upstream.path / ".git/hooks"):
        place.mkdir(exist_ok=True)
        for name in HOOKS:
            (place / name).unlink(missing_ok=True)
            (place / name).symlink_to(trap.program)
    upstream.second = upstream_commit_untouched(upstream)
    with (upstream.path / ".git/config").open("a") as file:
        file.write(
            f"[core]\n\tfsmonitor = {trap.program}\n\tsshCommand = {trap.program}\n\taskPass = {trap.program}\n"
            f"\tgitProxy = {trap.program}\n\talternateRefsCommand = {trap.program}\n\tpager = {trap.program}\n"
            f'[filter "evil"]\n\tclean = {trap.program}\n\tsmudge = {trap.program}\n\tprocess = {trap.program}\n'
            f'[diff "evil"]\n\tcommand = {trap.program}\n\ttextconv = {trap.program}\n'
            f"[diff]\n\texternal = {trap.program}\n"
            f"[uploadpack]\n\tpackObjectsHook = {trap.program}\n[credential]\n\thelper = !{trap.program}\n"
            f'[remote "origin"]\n\turl = ext::{trap.program}\n\tuploadpack = {trap.program}\n\tpromisor = true\n'
            f"[gpg]\n\tprogram = {trap.program}\n[extensions]\n\tpartialClone = origin\n"
        )


def upstream_commit_untouched(upstream: Upstream) -> str:
    tree_env = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.hooksPath", "GIT_CONFIG_VALUE_0": "/dev/null"}
    git("add", "-A", cwd=upstream.path, **tree_env)
    git("commit", "-q", "-m", "rigged", cwd=upstream.path, **tree_env)
    return git("rev-parse", "HEAD", cwd=upstream.path)


async def test_nothing_that_a_hostile_repository_holds_runs_on_the_host(
    prepare: Prepare, upstream: Upstream, trap: Trap
) -> None:
    rig(upstream, trap)
    for repo in (upstream.path, f"file://{upstream.path}"):
        found = await prepare(repo, "HEAD")
        assert found.commit == upstream.second
        tree = Path(found.lower)
        assert (tree / "file").read_text() == "two\n"
        assert not (tree / "x").exists()
        assert "evil" not in (tree / ".git/config").read_text()
    assert (await prepare(upstream.path)).is_git
    with serve_git(upstream.path.parent) as address:
        assert (await prepare(f"http://{address}/upstream/.git")).commit == upstream.second
    assert not trap.sprung


def test_the_same_repository_springs_the_trap_of_a_careless_git(upstream: Upstream, trap: Trap) -> None:
    rig(upstream, trap)
    (upstream.path / "file").touch()
    subprocess.run(["git", "status"], cwd=upstream.path, capture_output=True, timeout=SECONDS, check=False)
    assert trap.sprung


async def test_a_missing_object_of_a_partial_clone_is_not_fetched_by_its_own_settings(
    prepare: Prepare, upstream: Upstream, trap: Trap
) -> None:
    rig(upstream, trap)
    blob = git("rev-parse", "HEAD:file", cwd=upstream.path)
    (upstream.path / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(BackendUnavailable):
        await prepare(upstream.path, "HEAD")
    assert not trap.sprung


async def test_a_submodule_that_names_a_command_is_not_fetched(
    prepare: Prepare, upstream: Upstream, trap: Trap
) -> None:
    upstream.commit(".gitmodules", f'[submodule "x"]\n\tpath = x\n\turl = --upload-pack={trap.program}\n')
    with pytest.raises(BackendUnavailable, match="gitmodulesUrl"):
        await prepare(upstream.path, "HEAD")
    assert not trap.sprung


@pytest.mark.parametrize("name", [".git", ".GIT", ".git ", "git~1", "..", "."])
async def test_a_tree_that_writes_into_the_repository_is_not_fetched(
    prepare: Prepare, upstream: Upstream, trap: Trap, name: str
) -> None:
    hook = git("hash-object", "-w", str(trap.program), cwd=upstream.path)
    inner = make_tree(upstream, b"100755 post-checkout", hook)
    outer = make_tree(upstream, b"40000 " + name.encode(), make_tree(upstream, b"40000 hooks", inner))
    commit = git("commit-tree", outer, "-m", "evil", cwd=upstream.path)
    git("branch", "evil", commit, cwd=upstream.path)
    with pytest.raises(BackendUnavailable):
        await prepare(upstream.path, "evil")
    assert list((prepare.cache / "trees").iterdir()) == []
    assert not trap.sprung


def make_tree(upstream: Upstream, entry: bytes, what: str) -> str:
    """A tree object that `git mktree` would refuse."""
    raw = upstream.path / "raw"
    raw.write_bytes(entry + b"\0" + bytes.fromhex(what))
    return git("hash-object", "-w", "-t", "tree", "--literally", str(raw), cwd=upstream.path)


async def test_a_repository_that_is_a_link_to_another_place_is_only_what_it_serves(
    prepare: Prepare, upstream: Upstream, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.git").symlink_to(upstream.path / ".git")
    assert not (await prepare(tmp_path / "other")).is_git
    assert (await prepare(tmp_path / "other", "v1")).commit == upstream.first


async def test_the_users_own_hooks_do_not_run_either(
    prepare: Prepare, upstream: Upstream, trap: Trap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in HOOKS:
        (hooks / name).symlink_to(trap.program)
    (tmp_path / ".gitconfig").write_text(f"[core]\n\thooksPath = {hooks}\n\tfsmonitor = {trap.program}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve_git(upstream.path.parent) as address:
        await prepare(f"http://{address}/upstream/.git")
    await prepare(upstream.path, "v1")
    assert not trap.sprung


async def test_a_git_inside_a_repository_is_never_run(
    prepare: Prepare, upstream: Upstream, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = upstream.path / "node_modules/.bin"
    inside.mkdir(parents=True)
    (inside / "git").symlink_to(trap.program)
    monkeypatch.setenv("PATH", f"{inside}:node_modules/.bin::{os.environ['PATH']}")
    monkeypatch.chdir(upstream.path)
    assert (await prepare(upstream.path, "v1")).commit == upstream.first
    assert not trap.sprung


async def test_a_directory_on_the_path_that_cannot_be_read_is_passed_over(
    prepare: Prepare, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked/bin").mkdir(parents=True)
    (tmp_path / "locked").chmod(0o000)
    monkeypatch.setenv("PATH", f"{tmp_path}/locked/bin:{os.environ['PATH']}")
    assert (await prepare(upstream.path, "v1")).commit == upstream.first
    (tmp_path / "locked").chmod(0o700)


async def test_git_sees_none_of_the_secrets_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "/evil")
    seen = await run_git(["-c", "alias.env=!env", "env"], cwd=tmp_path, repository=tmp_path)
    names = {line.split(b"=")[0] for line in seen.splitlines()}
    assert not names & {b"ANTHROPIC_API_KEY", b"GIT_EXTERNAL_DIFF"}
    assert b"/elsewhere" not in seen
