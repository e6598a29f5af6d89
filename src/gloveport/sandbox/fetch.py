"""Fetches one commit of a hostile repository into clean repositories of ours, and writes its tree out once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from gloveport.errors import Conflict, InvalidRequest, NotFound
from gloveport.sandbox.host_git import GitFailed, run_git
from gloveport.sandbox.location import Location, is_reference
from gloveport.store.layout import make_private, remove_tree, try_claim

__all__ = ["Fetched", "fetch_tree"]

_FETCH_SECONDS = 1800.0
_LOCK_POLL_SECONDS = 0.05
_FULL_ID = re.compile(r"^(?:[0-9a-f]{40}|[0-9a-f]{64})$")
_SHORT_ID = re.compile(r"^[0-9a-f]{7,63}$")
_EVERYTHING = ("+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*")

_FETCH = (
    "fetch",
    "--quiet",
    "--no-tags",
    "--no-write-fetch-head",
    "--no-recurse-submodules",
    "--update-shallow",
)
_STRICT = {
    "transfer.fsckObjects": "true",
    # Old and harmless: real projects have commits of 2010 with a broken time zone or a mode with a leading zero.
    "fetch.fsck.badTimezone": "ignore",
    "fetch.fsck.missingSpaceBeforeDate": "ignore",
    "fetch.fsck.zeroPaddedFilemode": "ignore",
    # Always a pack, never loose objects: an interrupted fetch leaves nothing that looks like a whole commit.
    "fetch.unpackLimit": "1",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A commit's tree on this host."""

    tree: Path
    """A repository with a working tree, shared between sandboxes and never written again."""
    commit: str
    """The full id."""
    branch: str | None
    """What `HEAD` is on; `None` is a detached one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mirror:
    """Our bare repository for one location."""

    location: Location
    path: Path
    scratch: Path

    async def local(self, *arguments: str) -> str:
        """Run git on what is here already."""
        said = await run_git(arguments, cwd=self.scratch, repository=self.path)
        return said.decode("utf-8", "surrogateescape").strip()

    async def remote(self, *arguments: str) -> str:
        """Run git against the location, with the user's credentials where it is another host."""
        own = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": str(_own_settings(self.scratch))}
        here = self.location.protocols == ("file",)
        said = await run_git(
            arguments,
            cwd=self.scratch,
            repository=self.path,
            env=dict(self.location.secret_env) | (own if here else {}),
            settings=_STRICT,
            personal=not here,
            protocols=self.location.protocols,
            timeout=_FETCH_SECONDS,
        )
        return said.decode("utf-8", "surrogateescape")

    async def peel(self, name: str) -> str | None:
        """The full id of the commit that `name` leads to, if it is here."""
        try:
            return await self.local("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
        except GitFailed as error:
            if "ambiguous" in error.said:
                raise Conflict(
                    f"{name!r} is the beginning of several commit ids",
                    hint="type more letters of it",
                    commit=name,
                ) from None
            return None


async def fetch_tree(location: Location, commit: str | None, *, cache: Path, scratch: Path) -> Fetched:
    """The tree of `commit` (the default branch's when `None`), fetched and written out only when it is not here yet.

    Raises `NotFound` naming an unknown commit, `Conflict` for an ambiguous one, `InvalidRequest` when a
    directory is no repository, `BackendUnavailable` when fetching fails.
    """
    trees = make_private(cache / "trees")
    name = location.digest()
    if commit is not None and _FULL_ID.match(commit):
        ready = trees / _tree_name(name, commit, None)
        if ready.is_dir():
            return Fetched(tree=ready, commit=commit, branch=None)
    mirror = _Mirror(location=location, path=make_private(cache / f"{name}.git"), scratch=scratch)
    async with _alone(mirror.path):
        if not (mirror.path / "HEAD").exists():
            await run_git(["init", "--quiet", "--bare", "--template="], cwd=scratch, repository=mirror.path)
        try:
            found, branch = await _resolve(mirror, commit)
        except GitFailed as error:
            raise _explained(error, location) from error
        tree = trees / _tree_name(name, found, branch)
        if not tree.is_dir():
            await _write_out(mirror, found, branch, tree)
        return Fetched(tree=tree, commit=found, branch=branch)


async def _resolve(mirror: _Mirror, commit: str | None) -> tuple[str, str | None]:
    """Full id and branch of what was asked for, its objects in the mirror."""
    if commit is not None and _FULL_ID.match(commit):
        found = await mirror.peel(commit) or await _fetch_id(mirror, commit)
        if found is None:
            raise _unknown(commit, mirror.location)
        return found, None
    reference = await _ask(mirror, commit)
    if reference is not None:
        return await _fetch_reference(mirror, *reference)
    if commit is not None and _SHORT_ID.match(commit):
        found = await mirror.peel(commit)
        if found is None:
            await mirror.remote(*_FETCH, "--prune", "--", mirror.location.address, *_EVERYTHING)
            found = await mirror.peel(commit)
        if found is not None:
            return found, None
    raise _unknown(commit, mirror.location)


async def _ask(mirror: _Mirror, commit: str | None) -> tuple[str, str] | None:
    """The reference that `commit` means and the id it has over there."""
    if commit is None or commit == "HEAD":
        wanted = ["HEAD"]
    elif commit.startswith("refs/"):
        wanted = [commit]
    else:
        wanted = [f"refs/tags/{commit}", f"refs/heads/{commit}"]
    answer = await mirror.remote("ls-remote", "--symref", "--", mirror.location.address, *wanted)
    ids: dict[str, str] = {}
    for line in answer.split("\n"):
        value, _, name = line.partition("\t")
        if value.startswith("ref: refs/heads/") and is_reference(value.removeprefix("ref: ")):
            wanted.insert(0, value.removeprefix("ref: "))
            ids.setdefault(wanted[0], "")
        elif _FULL_ID.match(value):
            ids[name] = value
    if "HEAD" in ids and ids.get(wanted[0]) == "":
        ids[wanted[0]] = ids["HEAD"]
    return next(((name, ids[name]) for name in wanted if ids.get(name)), None)


async def _fetch_reference(mirror: _Mirror, name: str, there: str) -> tuple[str, str | None]:
    found = await mirror.peel(there)
    if found is None:
        # A flat name of ours: theirs could be `a` today and `a/b` tomorrow.
        ours = f"refs/fetched/{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()}"
        await mirror.remote(*_FETCH, "--", mirror.location.address, f"+{name}:{ours}")
        found = await mirror.peel(ours)
    if found is None:
        raise _unknown(name, mirror.location)
    return found, name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else None


async def _fetch_id(mirror: _Mirror, commit: str) -> str | None:
    try:
        await mirror.remote(*_FETCH, "--", mirror.location.address, f"{commit}:refs/fetched/{commit}")
    except GitFailed:  # a server may give out only what its branches and tags reach
        await mirror.remote(*_FETCH, "--prune", "--", mirror.location.address, *_EVERYTHING)
    return await mirror.peel(commit)


async def _write_out(mirror: _Mirror, commit: str, branch: str | None, target: Path) -> None:
    """Make `target` in one step. No hook, no filter, no submodule: this repository's settings are ours alone."""
    part = target.with_name(f".{target.name}.part")
    remove = anyio.to_thread.run_sync
    await remove(remove_tree, part)
    git = part / ".git"
    head = ["--initial-branch", branch] if branch else []
    try:
        await run_git(["init", "--quiet", "--template=", *head, "--", str(part)], cwd=mirror.scratch)
        await run_git(
            [*_FETCH, "--", str(mirror.path), commit],
            cwd=mirror.scratch,
            repository=git,
            settings=_STRICT,
            protocols=("file",),
            timeout=_FETCH_SECONDS,
        )
        pointed = ["HEAD"] if branch else ["--no-deref", "HEAD"]
        await run_git(["update-ref", *pointed, commit], cwd=mirror.scratch, repository=git)
        await run_git(
            ["read-tree", "--reset", "-u", "HEAD"],
            cwd=part,
            repository=git,
            env={"GIT_WORK_TREE": str(part)},
            timeout=_FETCH_SECONDS,
        )
        part.rename(target)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await remove(remove_tree, part)
        raise


@asynccontextmanager
async def _alone(directory: Path) -> AsyncIterator[None]:
    """Hold a cache entry: runs that start together fetch once."""
    while (lock := try_claim(directory)) is None:  # noqa: ASYNC110 - another process's lock has no event
        await anyio.sleep(_LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _own_settings(scratch: Path) -> Path:
    """Settings for the serving side of a repository of this host, which may be another user's.

    git serves it without running anything of its own; a setting is the only way to say so to that process.
    """
    path = scratch / "fetch.gitconfig"
    path.write_text("[safe]\n\tdirectory = *\n")
    return path


def _tree_name(location: str, commit: str, branch: str | None) -> str:
    return hashlib.sha256(f"{location}\0{commit}\0{branch or ''}".encode("utf-8", "surrogateescape")).hexdigest()


def _unknown(commit: str | None, location: Location) -> NotFound:
    if commit is None:
        return NotFound(f"{location.shown} has no commits", hint="commit something first")
    return NotFound(
        f"no commit, tag or branch {commit!r} in {location.shown}",
        hint="give the whole commit id, or see what there is with: git ls-remote",
        commit=commit,
    )


def _explained(error: GitFailed, location: Location) -> GitFailed | InvalidRequest:
    if location.protocols == ("file",) and "does not appear to be a git repository" in error.said:
        return InvalidRequest(
            f"{location.shown} is not a Git repository, so it has no commits",
            hint="name the repository's top directory, or leave the commit out to use the directory as it is",
        )
    return error
