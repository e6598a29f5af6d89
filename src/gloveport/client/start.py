"""Starts the runner on first use and stops it: the client's only way to a process of the host."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from gloveport.client.connection import Connection, unreachable
from gloveport.errors import BackendUnavailable, GloveportError, PermissionDenied, TimedOut, error_from_body
from gloveport.settings import Settings
from gloveport.store import make_private

__all__ = ["READY", "connect", "runner_environment", "stop_runner"]

_ATTEMPTS = 3
"""A runner may stop for being idle between its start and the first call; not thrice in a row."""
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_LARGEST_LOG = 2**20
_PEER = struct.Struct("3i")
READY = b"ready\n"
"""What a runner started with `--announce` writes to stdout once it listens."""

_PASSED_ON = frozenset(
    {
        *("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "PYTHONPATH", "TMPDIR", "USER", "VIRTUAL_ENV"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        *("SSH_AUTH_SOCK", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    }
)
_PASSED_ON_PREFIXES = ("GLOVEPORT_", "XDG_")


def connect(settings: Settings) -> Connection:
    """A connection to this installation's runner, which is started when there is none."""
    connection = Connection.open(settings.socket)
    for _ in range(_ATTEMPTS):
        if connection is not None:
            return connection
        with _starting(settings.state):
            connection = Connection.open(settings.socket)
            if connection is None:
                _start(settings)
                connection = Connection.open(settings.socket)
    if connection is None:
        raise BackendUnavailable("the runner ends as soon as it starts", hint=f"see why in {settings.data}/runner.log")
    return connection


def stop_runner(path: Path) -> bool:
    """End the runner at `path`, whatever its version, and wait until it is gone; whether there was one.

    The kernel says who listens there, so the signal cannot reach another process.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        try:
            peer.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionError):
            return False
        except OSError as error:
            raise unreachable(path, error) from error
        pid, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid != os.geteuid():
            raise PermissionDenied(f"the runner belongs to uid {uid}", hint="stop it as that user")
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not select.select([handle], [], [], _STOP_SECONDS)[0]:
            raise TimedOut(f"the runner (pid {pid}) does not stop", hint=f"kill it with: kill -9 {pid}")
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
    return True


def runner_environment(variables: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """What a runner inherits: where things are and how to fetch repositories. No key, no token, nothing unknown."""
    inherited = {
        name: value for name, value in variables.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    return inherited | {
        "GLOVEPORT_STATE": str(settings.state.absolute()),
        "GLOVEPORT_DATA": str(settings.data.absolute()),
        "GLOVEPORT_IDLE_SECONDS": str(settings.idle_seconds),
    }


@contextmanager
def _starting(state: Path) -> Iterator[None]:
    """One starter at a time."""
    lock = make_private(state, mode=0o711) / "start.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _start(settings: Settings) -> None:
    """Start a runner that outlives this process; returns once it says that it listens."""
    log = make_private(settings.data) / "runner.log"
    with _opened(log) as written:
        runner = subprocess.Popen(
            [sys.executable, "-P", "-m", "gloveport.runner", "--announce"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=written,
            env=runner_environment(os.environ, settings),
            cwd="/",
            start_new_session=True,
        )
    # Whenever it ends, and if this process is still there then, it is not left a zombie.
    threading.Thread(target=runner.wait, daemon=True).start()
    with cast("IO[bytes]", runner.stdout) as said:
        if not select.select([said], [], [], _START_SECONDS)[0]:
            runner.kill()
            raise TimedOut("the runner does not start", hint=f"see why in {log}")
        word = said.readline()
    if word != READY:
        raise _failure(word, log)


def _failure(word: bytes, log: Path) -> GloveportError:
    try:
        return error_from_body(json.loads(word))
    except ValueError:
        return BackendUnavailable("the runner did not start", hint=f"see why in {log}")


@contextmanager
def _opened(log: Path) -> Iterator[int]:
    if log.exists() and log.stat().st_size > _LARGEST_LOG:
        log.replace(log.with_name(f"{log.name}.1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
