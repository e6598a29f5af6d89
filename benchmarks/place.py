"""A throw-away installation for one benchmark: its own state and data directories, and its own runner."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gloveport.client import connect, stop_runner
from gloveport.settings import Settings

__all__ = ["cli_command", "cli_environment", "installation", "runner"]


@contextmanager
def installation() -> Iterator[Settings]:
    """Settings whose directories vanish afterwards. On a disk where there is one: sandboxes usually are."""
    # Root's sandboxes run as users of their own, who must be able to pass through.
    with tempfile.TemporaryDirectory(prefix="gloveport-bench-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Settings(state=Path(name) / "state", data=Path(name) / "data")


@contextmanager
def runner(settings: Settings) -> Iterator[int]:
    """A real runner, started as the command line starts it, stopped afterwards; its process number."""
    with connect(settings) as connection:
        pid = int(connection.call("info")["pid"])
    try:
        yield pid
    finally:
        stop_runner(settings.socket)


def cli_command() -> list[str]:
    """The installed `gloveport`, or what that script does where there is none."""
    script = shutil.which("gloveport", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-c", "from gloveport.cli import main; main()"]


def cli_environment(settings: Settings) -> dict[str, str]:
    """This process's environment, pointing at the installation. Compiled modules are kept, as an installer does."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return variables | {"GLOVEPORT_STATE": str(settings.state), "GLOVEPORT_DATA": str(settings.data)}
