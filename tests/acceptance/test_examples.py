"""Every program in examples/ does what it says, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gloveport.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SAYS = {
    "attempts.py": ["attempt 1: 'echo wrong > answer.txt' ended with 1", "attempt 2:", "+42"],
    "blocking.py": ["hello world from /workspace/deep/down"],
    "own_agent.py": ["search(pattern", "one.py:1:", "shell -> 3: nothing left", "?? done.txt"],
    "server.py": ["the server said: hello from the guest", "changed: hello.txt"],
}


def test_every_example_is_here() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(SAYS)


@pytest.mark.needs("bubblewrap")
@pytest.mark.parametrize("name", sorted(SAYS))
def test_an_example_does_what_it_says(
    settings: Settings, make_repository: Callable[[Mapping[str, str]], Path], name: str
) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name],
        cwd=make_repository({"one.py": "# TODO: more\n"}),
        env={**os.environ, "GLOVEPORT_STATE": str(settings.state), "GLOVEPORT_DATA": str(settings.data)},
        capture_output=True,
        timeout=120,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [said for said in SAYS[name] if said not in done.stdout] == [], done.stdout
