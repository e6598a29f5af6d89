"""A ladder of fixtures: `settings` → `manager` → `sandbox`; and `cli`, the real command line on those settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from gloveport.model import Spec
from gloveport.sandbox import Manager, Sandbox
from gloveport.settings import Settings

PATIENCE = 20.0
"""Seconds any one command or wait may take before a test gives up."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def place() -> Iterator[Path]:
    """A short private path (socket paths are short) that sandboxes of other uids can pass through."""
    path = Path(tempfile.mkdtemp(prefix="gp-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def settings(place: Path) -> Settings:
    return Settings(state=place / "state", data=place / "data", idle_seconds=PATIENCE)


@pytest.fixture
def state(settings: Settings) -> Path:
    return settings.state


@pytest.fixture
async def manager(settings: Settings) -> AsyncIterator[Manager]:
    async with Manager(settings) as manager:
        yield manager


@pytest.fixture
async def sandbox(manager: Manager) -> Sandbox:
    """Running, with an empty workspace."""
    with anyio.fail_after(PATIENCE):
        return Sandbox(await manager.create(Spec()))


@dataclass(frozen=True, kw_only=True)
class Cli:
    """The command line, as a process of its own, on one installation's directories."""

    settings: Settings
    argv: tuple[str, ...] = (sys.executable, "-c", "from gloveport.cli import main; main()")
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": os.environ["PATH"], "HOME": "/nonexistent"})

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.env,
            "GLOVEPORT_STATE": str(self.settings.state),
            "GLOVEPORT_DATA": str(self.settings.data),
            "GLOVEPORT_IDLE_SECONDS": str(self.settings.idle_seconds),
        }

    def __call__(self, *words: str | bytes, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run one command to its end."""
        return subprocess.run(
            [*self.argv, *words], input=given, capture_output=True, env=self.environment, timeout=PATIENCE, check=False
        )

    def ok(self, *words: str | bytes, given: bytes = b"") -> str:
        """Run one command that must succeed; what it printed."""
        done = self(*words, given=given)
        assert done.returncode == 0, (words, done)
        return done.stdout.decode()

    def start(self, *words: str, stdin: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        """Start one command."""
        return subprocess.Popen(
            [*self.argv, *words], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment
        )

    def create(self, *options: str) -> str:
        """The id of a new sandbox, empty unless the options say otherwise."""
        return self.ok("create", *(options or ("--empty",))).strip()


@pytest.fixture
def cli(settings: Settings) -> Iterator[Cli]:
    """Ends with its runner stopped."""
    command = Cli(settings=settings)
    yield command
    command.ok("runner", "stop")


def processes_below(place: Path) -> Sequence[str]:
    """Command lines of this host's processes that name a path below `place`: those of its runner and sandboxes."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(place) in words:
            found.append(f"{entry.name} {words[:200]!r}")
    return found
