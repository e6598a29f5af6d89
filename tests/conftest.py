"""A ladder of fixtures: `settings` → `manager` → `sandbox`; and `cli`, the real command line on those settings."""

from __future__ import annotations

import functools
import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import hypothesis
import pytest

from gloveport.backends.bubblewrap.cgroups import Cgroups
from gloveport.backends.bubblewrap.probe import probe_host
from gloveport.model import Spec
from gloveport.sandbox import Manager, Sandbox
from gloveport.settings import Settings
from gloveport.store import remove_tree

PATIENCE = 60.0
"""Seconds any one command or wait may take before a test gives up."""


# A machine under load is no reason to fail: examples take as long as they take.
hypothesis.settings.register_profile(
    "gloveport", deadline=None, max_examples=40, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("gloveport")


def pytest_configure() -> None:
    """Take Ctrl-C as whoever started the tests would: a shell's background job hands it on as ignored, for good."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason printed, what this machine lacks; fail where `GLOVEPORT_REQUIRE` says it must be there."""
    required = set(os.environ.get("GLOVEPORT_REQUIRE", "").split(","))
    for marker in item.iter_markers("needs"):
        for part in marker.args:
            missing = PARTS[part]()
            if missing and part in required:
                pytest.fail(f"{part} is required here: {missing}")
            elif missing:
                pytest.skip(f"{part}: {missing}")


@functools.cache
def _lacks_bubblewrap() -> str:
    probe = probe_host("bubblewrap", Cgroups(version=2, roots={}))
    return "; ".join(finding.problem for finding in probe.findings if finding.fatal)


@functools.cache
def _lacks_agent() -> str:
    return "" if importlib.util.find_spec("claude_agent_sdk") else "claude-agent-sdk is not installed"


@functools.cache
def _lacks_index() -> str:
    demo = Path(__file__).parent.parent / ".demo"
    if len(list(demo.glob("*.tar.gz"))) == 2:
        return ""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        tempfile.gettempdir(),
        "iniconfig",
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    return "" if done.returncode == 0 else "no package index answers"


PARTS = {
    "agent": _lacks_agent,
    "bubblewrap": _lacks_bubblewrap,
    "git": lambda: "" if shutil.which("git") else "git is not installed",
    "index": _lacks_index,
    "root": lambda: "" if os.geteuid() == 0 else "only root can do this",
}
"""What a test may need → why this machine lacks it, or an empty text."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def place() -> Iterator[Path]:
    """A short private path (socket paths are short) that sandboxes of other uids can pass through."""
    path = Path(tempfile.mkdtemp(prefix="gp-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    remove_tree(path)


@pytest.fixture
def on_overlay(place: Path) -> Iterator[Path]:
    """A directory on an overlay file system, which cannot hold the upper layer of another."""
    for name in ("lower", "upper", "work", "merged"):
        (place / name).mkdir()
    layers = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, place / "merged"], check=True)
    yield place / "merged"
    subprocess.run(["umount", place / "merged"], check=True)


@pytest.fixture(scope="session")
def kept_helpers() -> Iterator[Path]:
    """Where the programs of an installation wait for the next test: a thousand files that are the same for all."""
    path = Path(tempfile.mkdtemp(prefix="gp-helpers-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    remove_tree(path)


@pytest.fixture
def settings(place: Path, kept_helpers: Path) -> Iterator[Settings]:
    settings = Settings(state=place / "state", data=place / "data", idle_seconds=PATIENCE)
    kept, own = kept_helpers / "helpers", settings.state / "helpers"
    if kept.exists():
        settings.state.mkdir(mode=0o711)
        kept.rename(own)
    yield settings
    if own.exists():
        own.rename(kept)


MakeRepository = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def make_repository(place: Path) -> MakeRepository:
    """Makes a Git repository of the given files, with one commit."""

    def make(files: Mapping[str, str]) -> Path:
        path = place / "repository"
        for name, text in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        git = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")
        for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "first"]):
            subprocess.run([*git, *words], cwd=path, check=True)
        return path

    return make


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

    def __call__(
        self, *words: str | bytes, given: bytes = b"", patience: float = PATIENCE
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command to its end."""
        return subprocess.run(
            [*self.argv, *words], input=given, capture_output=True, env=self.environment, timeout=patience, check=False
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
    """Ends with its runner stopped, if it started one."""
    command = Cli(settings=settings)
    yield command
    if settings.socket.exists():
        command.ok("runner", "stop")


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """This process, and what it starts, writes no file larger: the kernel takes what fits and refuses the rest."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
