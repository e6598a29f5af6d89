"""The one way to a git process on the host: a known binary, a reduced environment, nothing of a repository trusted."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from types import MappingProxyType
from typing import BinaryIO

import anyio
from anyio.abc import ByteReceiveStream, Process

from gloveport.errors import BackendUnavailable, LimitExceeded, TimedOut
from gloveport.model import MIB

__all__ = ["GitFailed", "find_git", "run_git"]

_SETTINGS = {
    "core.attributesFile": "/dev/null",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.logAllRefUpdates": "false",  # a reflog names the host and its user
    "gc.auto": "0",
    "init.defaultBranch": "main",
    "maintenance.auto": "false",
}
_FIXED = {
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
_OWN_SETTINGS_ONLY = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
_KEPT = (
    "HOME",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
)
_KEPT_IN_BOTH_CASES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_SAID_BYTES = 16 * 1024
_USER_IN_URL = re.compile(r"://[^/\s@]+@")
_PREFIXES = ("fatal:", "error:", "ssh:", "remote:")


class GitFailed(BackendUnavailable):
    """git ended with an error; `said` is the end of its standard error, printable."""

    def __init__(self, arguments: Sequence[str], status: int, said: str) -> None:
        super().__init__(
            f"git {arguments[0]} failed: {_telling_line(said) or f'status {status}'}",
            hint="check the network, the address and your access to it",
            stderr=said,
        )
        self.said = said


def find_git() -> Path:
    """The git binary: the first on `PATH` outside any repository, because one inside could be anybody's."""
    for directory in _search_path():
        candidate = Path(directory) / "git"
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise BackendUnavailable("git is not installed on this host", hint="install it: apt-get install git")


async def run_git(
    arguments: Sequence[str],
    *,
    cwd: Path,
    repository: Path | None = None,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
    env: Mapping[str, str] = MappingProxyType({}),
    settings: Mapping[str, str] = MappingProxyType({}),
    personal: bool = False,
    protocols: Sequence[str] = (),
    limit: int = 64 * MIB,
    timeout: float = 120.0,
) -> bytes:
    """Run git to its end and return its standard output. `arguments` begin with the verb.

    `repository` is the Git directory; only `init` goes without. With `personal` the user's own and the
    system's settings apply (credential helpers, proxies), otherwise ours only. `protocols` are the transports
    it may use. With `stdout`, a file, the output goes there and nothing is returned; otherwise `limit` bounds it,
    in bytes. `timeout` is in seconds. Cancelling kills git and all it started.

    Raises `GitFailed`, `BackendUnavailable` (no git), `TimedOut`, `LimitExceeded`.
    """
    assignments = [f"{name}={value}" for name, value in (*_SETTINGS.items(), *settings.items())]
    command = [str(find_git()), *(part for text in assignments for part in ("-c", text)), *arguments]
    process = await anyio.open_process(
        command,
        stdin=DEVNULL if stdin is None else stdin,
        stdout=PIPE if stdout is None else stdout,
        stderr=PIPE,
        cwd=cwd,
        env=_environment(personal=personal)
        | {"GIT_ALLOW_PROTOCOL": ":".join(protocols), **({"GIT_DIR": str(repository)} if repository else {})}
        | dict(env),
        start_new_session=True,  # no terminal for ssh to ask on, and one group to kill
    )
    try:
        with anyio.fail_after(timeout):
            output, said = await _collect(process, limit, arguments[0])
            status = await process.wait()
    except TimeoutError:
        raise TimedOut(
            f"git {arguments[0]} took longer than {timeout:g} s", hint="check the network, or try again"
        ) from None
    finally:
        await _end(process)
    if status != 0:
        raise GitFailed(arguments, status, said)
    return output


async def _collect(process: Process, limit: int, verb: str) -> tuple[bytes, str]:
    output = bytearray()
    said = bytearray()

    async def listen(stream: ByteReceiveStream) -> None:
        async for part in stream:
            said.extend(part)
            del said[:-_SAID_BYTES]

    if process.stderr is None:
        raise AssertionError  # it is a pipe
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen, process.stderr)
        if process.stdout is not None:
            async for part in process.stdout:
                output += part
                if len(output) > limit:
                    tasks.cancel_scope.cancel()
    if len(output) > limit:
        raise LimitExceeded(
            f"git {verb} said more than {limit // MIB} MiB", hint="leave large files out", limit="git_output"
        )
    return bytes(output), _printable(bytes(said))


async def _end(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.aclose()


def _environment(*, personal: bool) -> dict[str, str]:
    names = [*_KEPT, *_KEPT_IN_BOTH_CASES, *(name.upper() for name in _KEPT_IN_BOTH_CASES)]
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | _FIXED | {"PATH": ":".join(_search_path())} | ({} if personal else _OWN_SETTINGS_ONLY)


def _search_path() -> list[str]:
    """The entries of `PATH` that are absolute and outside every repository."""
    return [entry for entry in os.get_exec_path() if entry.startswith("/") and not _in_repository(Path(entry))]


def _in_repository(directory: Path) -> bool:
    """Places that this user may not look into (another's home on `PATH`) count as outside: nothing is found there."""
    ways = {directory, directory.resolve()}
    places = {place for way in ways for place in (way, *way.parents)} - {Path("/")}
    return any(os.path.lexists(place / ".git") for place in places)


def _telling_line(said: str) -> str:
    """The first complaint: those that follow it are about its consequences."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith(_PREFIXES)), lines[-1] if lines else "")


def _printable(said: bytes) -> str:
    """A server's words reach a person's terminal: no control characters but line ends, and nobody's token."""
    text = _USER_IN_URL.sub("://***@", said.decode("utf-8", "replace").replace("\r", "\n"))
    return "".join(char for char in text if char == "\n" or char.isprintable())
