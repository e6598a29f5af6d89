"""Where a workspace's first content comes from: a directory as it is, or a commit fetched by the host."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from gloveport.errors import InvalidRequest, PermissionDenied
from gloveport.model import Source
from gloveport.sandbox.fetch import fetch_tree
from gloveport.sandbox.location import check_commit, local_location, parse_location
from gloveport.store.layout import make_private

__all__ = ["PreparedSource", "prepare_source"]

_SHORT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSource:
    """A directory of this host that becomes the layer under a workspace."""

    lower: str
    """Absolute, links resolved; only ever read."""
    description: str
    """For people: what it is and of which commit."""
    commit: str | None
    """The full id where one was checked out; `None` for a directory as it is."""
    is_git: bool
    """Whether git works in it. (A linked worktree's or a submodule's repository is elsewhere, out of sight.)"""


async def prepare_source(source: Source, *, cache: Path, scratch: Path) -> PreparedSource:
    """Make the first content of a workspace ready.

    A directory without a commit is taken as it is, uncommitted changes included. Everything else is fetched
    into `cache` (kept, shared by all sandboxes, never collected here) and checked out there once. `scratch`
    is a directory of the caller's for small files.

    Raises `InvalidRequest`, `NotFound`, `PermissionDenied`, `Conflict` or `BackendUnavailable`, each with
    what to do.
    """
    commit = None if source.commit is None else check_commit(source.commit)
    directory, prepared = await anyio.to_thread.run_sync(_look, source)
    if prepared is not None:
        return prepared
    location = parse_location(source.repo) if directory is None else local_location(directory)
    fetched = await fetch_tree(location, commit, cache=make_private(cache), scratch=make_private(scratch))
    place = f" ({fetched.branch})" if fetched.branch else ""
    return PreparedSource(
        lower=str(fetched.tree),
        description=f"{location.shown} at {fetched.commit[:_SHORT]}{place}",
        commit=fetched.commit,
        is_git=True,
    )


def _look(source: Source) -> tuple[Path | None, PreparedSource | None]:
    """The directory that a source names, and where that is to be taken as it is, what there is to know of it."""
    directory = _directory(source.repo)
    return directory, _as_it_is(directory) if directory is not None and source.commit is None else None


def _directory(repo: str) -> Path | None:
    """The directory that `repo` names, or `None` when it can only be an address."""
    if not repo or "\0" in repo:
        raise InvalidRequest(
            "an empty repository name", hint="name a directory or a Git URL; `.` is the current directory"
        )
    path = Path(repo).absolute()
    try:
        found = path.resolve(strict=True)
    except PermissionError as error:
        raise _unreadable(path) from error
    except (OSError, RuntimeError):  # missing, a name too long, a loop of links
        return None
    if not found.is_dir():
        raise InvalidRequest(
            f"{repo} is not a directory",
            hint="name the directory that holds the files; unpack an archive first",
        )
    if not os.access(found, os.R_OK | os.X_OK):
        raise _unreadable(found)
    return found


def _as_it_is(directory: Path) -> PreparedSource:
    git = directory / ".git"
    if not git.exists() and all((directory / name).exists() for name in ("HEAD", "objects", "refs")):
        raise InvalidRequest(
            f"{directory} is a bare repository: it has no files",
            hint="name a commit too, for example --commit HEAD",
        )
    return PreparedSource(
        lower=str(directory),
        description=str(directory),
        commit=None,
        is_git=git.is_dir() and not git.is_symlink(),
    )


def _unreadable(path: Path) -> PermissionDenied:
    return PermissionDenied(
        f"{path} cannot be read by this user",
        hint="make it readable (chmod, chown), or run gloveport as its owner",
        path=str(path),
    )
