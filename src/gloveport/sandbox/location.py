"""The address of a repository to fetch from: what it may be, and how it is shown without its password."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from gloveport.errors import InvalidRequest, NotFound

__all__ = ["Location", "check_commit", "is_reference", "local_location", "parse_location"]

_SCHEMES = ("https", "http", "ssh", "git", "file")
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_HELPER = re.compile(r"^[A-Za-z0-9][A-Za-z0-9+.-]*::")
_SCP = re.compile(r"^(?:[A-Za-z0-9_][\w.+-]*@)?(?:[A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.%]+\]):(?!-)[^:].*$")
_HOST = re.compile(r"^(?:[A-Za-z0-9_][\w.-]*|[0-9A-Fa-f:.%]+)$")
_UNFIT_IN_REFS = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(?:/|$)|(?:^|/)\.|[./]$")
_KINDS = "a directory, or an address such as https://host/name.git, ssh://host/name.git or user@host:name.git"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where git fetches from."""

    address: str = field(repr=False)
    """What git is given; no password in it."""
    shown: str
    """What a person is shown."""
    protocols: tuple[str, ...]
    """Transports that git may use for it: this one, and for `http` the redirection to `https`."""
    secret_env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Variables that hand git the password, where nobody can list it."""

    def digest(self) -> str:
        """A name for the cache: SHA-256 in hexadecimal, another one for another password."""
        told = "\0".join((self.address, *(value for _, value in self.secret_env)))
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()


def local_location(directory: Path) -> Location:
    """A repository in a directory of this host; an absolute path is never taken for an option or a host."""
    return Location(address=str(directory), shown=str(directory), protocols=("file",))


def parse_location(repo: str) -> Location:
    """The location that `repo` names. `NotFound` for what looks like a missing directory, else `InvalidRequest`."""
    if repo.startswith("-") or any(ord(char) < 0x20 or ord(char) == 0x7F for char in repo):
        raise InvalidRequest(f"not a repository: {repo!r}", hint=f"name {_KINDS}")
    scheme = _URL.match(repo)
    if scheme:
        return _from_url(repo, scheme.group(1))
    if _HELPER.match(repo):
        raise InvalidRequest(f"transport helpers are not used: {repo!r}", hint=f"name {_KINDS}")
    if _SCP.match(repo):
        return Location(address=repo, shown=repo, protocols=("ssh",))
    raise NotFound(f"no such directory: {repo}", hint=f"name {_KINDS}", path=repo)


def is_reference(name: str) -> bool:
    """Whether git could have a reference of this name."""
    return bool(name) and not name.startswith("-") and _UNFIT_IN_REFS.search(name) is None


def check_commit(commit: str) -> str:
    """A commit's name as it may be given to git: an id, a tag or a branch, never an option or an expression."""
    if not is_reference(commit):
        raise InvalidRequest(
            f"not a commit: {commit!r}",
            hint="name a commit id (7 letters or more), a tag or a branch",
            commit=commit,
        )
    return commit


def _from_url(repo: str, scheme: str) -> Location:
    if scheme not in _SCHEMES:
        raise InvalidRequest(f"{scheme}:// is not used to fetch", hint=f"name {_KINDS}")
    try:
        parts = urlsplit(repo)
        host, user = parts.hostname or "", parts.username or ""
        parts.port  # noqa: B018 - reading it checks it
    except ValueError as error:
        raise InvalidRequest(f"not an address: {_without_user(repo)}", hint=f"name {_KINDS}") from error
    local = scheme == "file" and not host
    if not (local or _HOST.match(host)) or user.startswith("-") or " " in repo or not parts.path.strip("/"):
        raise InvalidRequest(f"not an address: {_without_user(repo)}", hint=f"name {_KINDS}")
    protocols = ("http", "https") if scheme == "http" else (scheme,)
    if scheme in ("http", "https") and parts.password is not None:
        address = _without_user(repo, mark="")
        return Location(
            address=address,
            shown=address,
            protocols=protocols,
            secret_env=_basic_authorization(parts, address),
        )
    return Location(
        address=repo,
        shown=_without_user(repo) if parts.password or scheme != "ssh" else repo,
        protocols=protocols,
    )


def _without_user(url: str, mark: str = "***@") -> str:
    """The URL without what stands before the host; a name alone can be a token too."""
    return re.sub(r"(?<=://)[^/]*@", mark, url, count=1)


def _basic_authorization(parts: SplitResult, address: str) -> tuple[tuple[str, str], ...]:
    """An argument can be listed by every user of the host; the environment of a process only by its own."""
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    host = urlsplit(address)
    return (
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", f"http.{host.scheme}://{host.netloc}/.extraHeader"),
        ("GIT_CONFIG_VALUE_0", f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}"),
    )
