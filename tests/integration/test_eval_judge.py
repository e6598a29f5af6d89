"""The judge: the agent's patch, the hidden files and the check, where nothing else of the agent's is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gloveport.evaluate.judge import Judgement, Question, judge
from gloveport.evaluate.prepare import HiddenFiles
from gloveport.evaluate.schema import KEEP
from gloveport.model import Source, Spec
from gloveport.sandbox import Manager

pytestmark = [pytest.mark.anyio, pytest.mark.needs("git")]

UNITTEST = "python3 -W ignore -m unittest -q tests.test_calc"
TEST = (
    "import unittest, calc\nclass T(unittest.TestCase):\n    def test_add(self):\n"
    "        self.assertEqual(calc.add(2, 2), 4)\n"
)
RIGHT = {"calc.py": "def add(a, b):\n    return a + b\n"}
EASY = {"tests/test_calc.py": "", "tests/test_none.py": "raise SystemExit(0)\n"}
SHADOW = {"unittest.py": "raise SystemExit(0)\n"}


@pytest.fixture
def repository(make_repository: Callable[[Mapping[str, str]], Path]) -> Path:
    return make_repository(
        {
            "calc.py": "def add(a, b):\n    return a - b\n",
            "tests/__init__.py": "",
            "tests/test_calc.py": "import unittest\n",
            "tests/test_old.py": "",
        }
    )


@pytest.fixture
def later(place: Path) -> HiddenFiles:
    """The tests that the agent does not see."""
    tests = place / "later" / "tests"
    tests.mkdir(parents=True)
    (tests / "__init__.py").write_text("")
    (tests / "test_calc.py").write_text(TEST)
    tests.joinpath("run.sh").write_text("#!/bin/sh\nexec true\n")
    tests.joinpath("run.sh").chmod(0o755)
    return HiddenFiles(root=place / "later", paths=("tests",))


async def judged(
    manager: Manager,
    repository: Path,
    hidden: HiddenFiles | None,
    changes: Mapping[str, str],
    check: str = UNITTEST,
    *,
    keep: tuple[str, ...] = KEEP,
    patch: bytes | None = None,
) -> Judgement:
    """What the judge says of an agent that made these changes."""
    for name, text in changes.items():
        (repository / name).write_text(text)
    subprocess.run(["git", "add", "--all"], cwd=repository, check=True)
    made = subprocess.check_output(["git", "diff", "--cached", "--binary"], cwd=repository)
    subprocess.run(["git", "reset", "--quiet", "--hard"], cwd=repository, check=True)
    question = Question(
        spec=Spec(source=Source(repo=str(repository))),
        patch=made if patch is None else patch,
        hidden=hidden,
        keep=keep,
        check=check,
        seconds=20.0,
    )
    found = await judge(question, manager)
    assert not manager.held
    return found


async def test_the_right_patch_passes_and_no_patch_does_not(
    manager: Manager, repository: Path, later: HiddenFiles
) -> None:
    right = await judged(manager, repository, later, RIGHT)
    assert right.status == 0, right.output
    assert right.seconds > 0
    untouched = await judged(manager, repository, later, {})
    assert untouched.status == 1
    assert b"test_add" in untouched.output


async def test_hidden_files_replace_what_is_at_their_place_whatever_the_agent_put_there(
    manager: Manager, repository: Path, later: HiddenFiles
) -> None:
    found = await judged(manager, repository, later, RIGHT | EASY, "ls tests && tests/run.sh && " + UNITTEST)
    assert found.status == 0, found.output
    assert found.output.split()[:3] == [b"__init__.py", b"run.sh", b"test_calc.py"]
    cheated = await judged(manager, repository, later, EASY)
    assert cheated.status == 1


async def test_what_runs_the_check_is_kept_from_the_agent(
    manager: Manager, repository: Path, later: HiddenFiles
) -> None:
    fooled = await judged(manager, repository, later, SHADOW, keep=())
    assert fooled.status == 0, "without the guard the attack works"
    assert (await judged(manager, repository, later, SHADOW)).status == 1
    assert (await judged(manager, repository, later, SHADOW | RIGHT)).status == 0


async def test_a_patch_that_does_not_fit_is_said_to(manager: Manager, repository: Path, later: HiddenFiles) -> None:
    patch = b"--- a/calc.py\n+++ b/calc.py\n@@ -1 +1 @@\n-not there\n+x\n"
    for keep in (KEEP, ()):
        found = await judged(manager, repository, later, {}, keep=keep, patch=patch)
        assert found.status is None
        assert "calc.py" in found.remark


async def test_a_check_that_does_not_end_has_failed(manager: Manager, repository: Path, later: HiddenFiles) -> None:
    question = Question(
        spec=Spec(source=Source(repo=str(repository))), patch=b"", hidden=later, keep=(), check="sleep 999", seconds=0.2
    )
    found = await judge(question, manager)
    assert found.status != 0
    assert found.remark == "timed out"


async def test_a_task_without_hidden_files_is_judged_by_what_is_there(manager: Manager, repository: Path) -> None:
    assert (await judged(manager, repository, None, {}, "test -f tests/test_old.py")).status == 0
    assert (await judged(manager, repository, None, {"made": ""}, "test -f made")).status == 0
