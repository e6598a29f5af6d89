"""What clients of a server may ask for: its owner says it, since a client does what a model says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

from gloveport.errors import InvalidRequest, PolicyDenied
from gloveport.mcp.shapes import CreateSandbox
from gloveport.model import Origin, Policy, PolicyLayer, Snapshot, Source, Spec, parse_size
from gloveport.policy.compile import is_fetched, is_sealed
from gloveport.policy.reading.load import load_policy

__all__ = ["MOST_SANDBOXES", "Bounds", "check_snapshot_id", "check_source", "default_roots", "make_spec"]

MOST_SANDBOXES = 32
_SHOWN = 100
_URL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_FILE_URL = re.compile(r"file:(?://[^/]*)?(.*)", re.IGNORECASE | re.DOTALL)
_SNAPSHOT = re.compile(r"sha256:[0-9a-f]{64}")
_SCP_LIKE = re.compile(r"[^/:]+:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the owner of a server leaves to its clients."""

    roots: tuple[Path, ...] = ()
    """Directories of this host, as they resolve: sandboxes may be made from what is in them, and from URLs."""
    policies: tuple[str, ...] = ()
    """Policy files and templates above whatever a client asks for, highest first."""
    most: int = MOST_SANDBOXES
    """Sandboxes at a time."""


def default_roots(here: Path, home: Path) -> tuple[Path, ...]:
    """The directory that a server was started in; none where that holds everything, as `/` and a home do."""
    place = here.resolve()
    return () if home.resolve().is_relative_to(place) else (place,)


def make_spec(asked: CreateSandbox, bounds: Bounds) -> Spec:
    """The spec of what a client asks for.

    Raises `PolicyDenied` for a directory outside the roots and for more than the owner's policy leaves open,
    `InvalidRequest` for what cannot be read; and what `load_policy` raises. Reads files: call it in a thread.
    """
    if asked.base_commit is not None and asked.repo_url is None:
        raise InvalidRequest("a commit of nothing", hint="name its repository as repo_url")
    if asked.snapshot is not None and asked.repo_url is not None:
        raise InvalidRequest("a snapshot has a source of its own", hint="leave repo_url or snapshot out")
    check_snapshot_id(asked.snapshot)
    policy = _policy(asked, bounds)
    source = None if asked.repo_url is None else Source(repo=_located(asked.repo_url, bounds), commit=asked.base_commit)
    return Spec(
        source=source,
        snapshot=asked.snapshot,
        image=None if asked.image is None else _inside(asked.image, bounds),
        language=asked.language,
        policy=policy,
        limits=policy.limits,
    )


def check_snapshot_id(name: str | None) -> None:
    """Raise `InvalidRequest` for anything but a whole id: nobody guesses one, so whoever has it was given it."""
    if name is not None and not _SNAPSHOT.fullmatch(name):
        raise InvalidRequest("not the id of a snapshot", hint="give the whole one, as snapshot_sandbox said it")


def check_source(snapshot: Snapshot, bounds: Bounds, data: Path) -> None:
    """Raise `PolicyDenied` for a snapshot of a directory outside the roots, unless that is the platform's own."""
    base = snapshot.base.path
    if base and not is_fetched(base, data / "repositories") and not is_sealed(base, data / "snapshots"):
        _inside(base, bounds)


def _policy(asked: CreateSandbox, bounds: Bounds) -> Policy:
    limits = _limits(asked)
    layer = PolicyLayer(origin=Origin(layer="command line"), limits=limits) if limits else None
    names = (*bounds.policies, *(() if asked.policy is None else (asked.policy,)))
    return load_policy(names, command_line=layer)


def _limits(asked: CreateSandbox) -> Mapping[str, float]:
    found = {
        "exec_seconds": asked.timeout,
        "memory_bytes": None if asked.memory is None else parse_size(asked.memory),
        "cpus": asked.cpu,
        "disk_bytes": None if asked.disk is None else parse_size(asked.disk),
    }
    return MappingProxyType({name: value for name, value in found.items() if value is not None})


def _located(repo: str, bounds: Bounds) -> str:
    """A directory as a whole path inside the roots; an address as it is."""
    if not repo.strip() or "\0" in repo:
        raise InvalidRequest("an empty repository", hint="leave repo_url out for an empty workspace")
    file = _FILE_URL.match(repo)
    if file is not None:
        _inside(unquote(file[1]), bounds)
        return repo
    is_remote = _URL.match(repo) or _SCP_LIKE.match(repo)
    return repo if is_remote and not os.path.lexists(repo) else _inside(repo, bounds)


def _inside(path: str, bounds: Bounds) -> str:
    """A path in full, as it resolves, since a link may lead anywhere; a relative one starts at the first root."""
    try:
        real = ((bounds.roots[0] if bounds.roots else Path("/")) / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a NUL byte
        raise InvalidRequest(f"not a path: {path[:_SHOWN]!r}", hint="name a directory") from error
    if not any(real.is_relative_to(root) for root in bounds.roots):
        allowed = ", ".join(map(str, bounds.roots)) or "none"
        raise PolicyDenied(
            f"{path} is not in a directory that this server may show ({allowed})",
            hint="name a directory below one of those, or a Git URL; whoever starts the server may add --root DIR",
            rule="mcp.roots",
            path=path,
        )
    return str(real)
