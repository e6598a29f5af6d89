"""A sandbox's whole life through separate processes, and what is left of it: nothing (as each kind of user)."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import termios
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import gloveport
from gloveport.settings import Settings

from ..conftest import PATIENCE, Cli, processes_below  # noqa: TID252 - tests are no package of ours

ORDINARY_UID = 61_184
"""A user that no system has, with no rights at all."""
SYSTEM_PYTHON = Path("/usr/bin/python3")
CODE = "from gloveport.cli import main; main()"


@pytest.fixture(params=["this user", "an ordinary user"])
def anybody(request: pytest.FixtureRequest, place: Path) -> Iterator[Cli]:
    """The command line as this user; for root also as one who may do nothing, with copies of what it imports."""
    settings = Settings(state=place / "state", data=place / "data", idle_seconds=PATIENCE)
    command = Cli(settings=settings)
    if request.param == "an ordinary user":
        command = as_ordinary_user(place)
    yield command
    command.ok("runner", "stop")


def as_ordinary_user(place: Path) -> Cli:
    if os.geteuid() != 0:
        pytest.skip("this user is an ordinary one")
    setpriv = shutil.which("setpriv")
    version = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    if setpriv is None or subprocess.run([SYSTEM_PYTHON, "-c", version], check=False).returncode:
        pytest.skip("no setpriv, or no system Python of this version that an ordinary user can run")
    libraries = place / "libraries"
    ignored = shutil.ignore_patterns(
        "__pycache__", "mypy*", "pip", "ruff*", "claude_agent_sdk*", "hypothesis", "cryptography", "zig*"
    )
    shutil.copytree(sysconfig.get_path("purelib"), libraries, symlinks=True, ignore=ignored)
    shutil.copytree(Path(gloveport.__file__).parent, libraries / "gloveport", dirs_exist_ok=True, ignore=ignored)
    home = place / "home"
    home.mkdir()
    for directory in (libraries, *libraries.rglob("*")):
        directory.chmod(directory.stat().st_mode | 0o444 | (0o111 if directory.is_dir() else 0))
    os.chown(home, ORDINARY_UID, ORDINARY_UID)
    ids = (f"--reuid={ORDINARY_UID}", f"--regid={ORDINARY_UID}", "--clear-groups", "--no-new-privs")
    return Cli(
        settings=Settings(state=home / "state", data=home / "data", idle_seconds=PATIENCE),
        argv=(setpriv, *ids, "--bounding-set=-all", str(SYSTEM_PYTHON), "-c", CODE),
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(libraries)},
    )


def test_a_sandbox_lives_across_processes_and_leaves_nothing(anybody: Cli, place: Path) -> None:
    name = anybody.create()
    use(anybody, name)
    anybody.ok("rm", name)
    assert anybody.ok("list").endswith("0 sandboxes\n")
    anybody.ok("runner", "stop")
    nothing_is_left(anybody, place)


def test_killing_the_runner_in_the_middle_leaves_nothing_after_the_next_command(anybody: Cli, place: Path) -> None:
    name = anybody.create()
    anybody.ok("exec", name, "--", "sh", "-c", "echo written > file; mkdir locked; chmod 0 locked")
    anybody.ok("exec", name, "--detach", "--", "sleep", "1000")
    running = anybody.start("exec", name, "--", "sh", "-c", "echo ready; setsid sleep 1000")
    with running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        pid = int(anybody.ok("runner", "status").split("pid ")[1].split(",")[0])
        os.kill(pid, signal.SIGKILL)
        assert running.wait(PATIENCE) == 69
    assert anybody.ok("list").endswith("0 sandboxes\n")
    use(anybody, anybody.create())
    anybody.ok("runner", "stop")
    nothing_is_left(anybody, place)


def use(cli: Cli, name: str) -> None:
    """Everything a person does with a sandbox, each from a process of its own."""
    assert cli.ok("exec", name, "--", "sh", "-c", "echo kept > file; id -u") == "1000\n"
    assert cli.ok("exec", name, "--", "cat", "file") == "kept\n"
    a_terminal_follows_its_size(cli, name)
    cli.ok("exec", name, "--detach", "--", "python3", "-m", "http.server", "--bind", "127.0.0.1", "8000")
    get = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/file').read().decode(), end='')"
    retry = f'until python3 -c "{get}" 2>/dev/null; do :; done'
    assert cli.ok("exec", name, "--timeout", str(PATIENCE), "--", "sh", "-c", retry) == "kept\n"
    with ThreadPoolExecutor(64) as pool:
        done = list(pool.map(lambda n: cli("exec", name, "--", "sh", "-c", f"echo {n}; exit {n}"), range(64)))
    assert [(one.returncode, one.stdout) for one in done] == [(n, f"{n}\n".encode()) for n in range(64)]


def a_terminal_follows_its_size(cli: Cli, name: str) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 70, 0, 0))
    person = subprocess.Popen(
        [*cli.argv, "shell", name],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=cli.environment,
        start_new_session=True,
    )
    read_until(ours, b"$ ")
    os.write(ours, b"stty size\r")
    read_until(ours, b"30 70")
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 90, 0, 0))
    person.send_signal(signal.SIGWINCH)
    os.write(ours, b"until stty size | grep '40 90'; do :; done; exit 0\r")
    read_until(ours, b"\r40 90\r")
    assert person.wait(PATIENCE) == 0
    os.close(ours)
    os.close(theirs)


def read_until(terminal: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        assert select.select([terminal], [], [], PATIENCE)[0], seen
        seen += os.read(terminal, 65_536)


def nothing_is_left(cli: Cli, place: Path) -> None:
    state = cli.settings.state
    assert not processes_below(place)
    assert str(place) not in Path("/proc/self/mountinfo").read_text()
    for directory in ("sandboxes", "trash", "scratch"):
        assert not list((state / directory).iterdir()), directory
    assert not cli.settings.socket.exists()
    names = {path.stem for path in (cli.settings.data / "audit").iterdir()}
    assert names
    # Not `rglob`, which fails where a group of another test goes meanwhile.
    groups = {group.removesuffix(".again") for _, groups, _ in os.walk("/sys/fs/cgroup") for group in groups}
    assert not groups & names
