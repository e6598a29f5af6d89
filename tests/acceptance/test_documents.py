"""The commands and programs of the README, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall((ROOT / document).read_text("utf-8")) if kind == language]


def block(document: str, language: str, containing: str) -> str:
    (found,) = [body for body in blocks(document, language) if containing in body]
    return found


@pytest.fixture
def repository(make_repository: Callable[[Mapping[str, str]], Path]) -> Path:
    return make_repository({"test_one.py": "# TODO: more\ndef test_one():\n    pass\n"})


@pytest.mark.parametrize("document", ["README.md", "README.zh.md"])
def test_the_sandbox_commands_run_as_written(cli, repository: Path, document: str) -> None:
    script = block(document, "sh", "gloveport create").replace("gloveport shell $ID", "")  # wants a terminal: test_life
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=repository,
        env={**cli.environment, "PATH": path},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done
    assert b"nothing to commit" in done.stdout
    assert b"TODO" in done.stdout
    assert cli.ok("list", "--json").strip() == "[]"


def test_the_commands_about_snapshots_run_as_written(cli, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", block("docs/reference/snapshots.md", "sh", "gloveport fork")],
        cwd=tmp_path,
        env={**cli.environment, "PATH": path},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done
    assert b"\ngood\n" in done.stdout
    assert cli.ok("list", "--json").strip() == cli.ok("snapshots", "--json").strip() == "[]"


@pytest.mark.parametrize("document", ["README.md", "README.zh.md"])
def test_the_python_program_runs_as_written(settings, repository: Path, document: str) -> None:
    body = block(document, "python", "Sandbox.create")
    imports, _, rest = body.partition("\n\n")
    indented = "".join(f"    {line}\n" for line in rest.splitlines())
    program = (
        f"import anyio\n{imports}\n\nasync def main():\n{indented}    print(patch.data.decode())\n\nanyio.run(main)\n"
    )
    env = {**os.environ, "GLOVEPORT_STATE": str(settings.state), "GLOVEPORT_DATA": str(settings.data)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, env=env, capture_output=True, timeout=120, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "+seen" in done.stdout


def test_the_policy_page_says_what_its_commands_print(cli, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(block("docs/reference/policy.md", "toml", "# policy.toml"))
    console = block("docs/reference/policy.md", "console", "gloveport policy check")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for example in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, shown = example.partition("\n")
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=tmp_path,
            env={**cli.environment, "PATH": path},
            capture_output=True,
            timeout=120,
            text=True,
        )
        assert done.returncode == 0, done
        assert re.match(re.escape(shown).replace("…", ".*"), done.stdout, re.DOTALL), (command, done.stdout)


def test_the_trajectories_page_says_what_a_score_looks_like(cli, tmp_path: Path) -> None:
    def step(tool: str, status: int, **params: str) -> dict[str, object]:
        outcome = {"status": status, "is_error": status != 0}
        return {"tool_name": tool, "params": params, "gloveport": {"outcome": outcome}}

    steps = [
        step("Read", 0, file_path="/workspace/calc.py"),
        step("Edit", 0, file_path="/workspace/calc.py", old_string="-", new_string="+"),
        step("Edit", 0, file_path="/workspace/test_calc.py", old_string="-", new_string="+"),
        step("Bash", 1, command="python -m pytest tests"),
        step("Bash", 0, command="python -m pytest"),
    ]
    (tmp_path / "trajectory.json").write_text(json.dumps({"steps": steps, "metadata": {}}))
    (tmp_path / "rubric.toml").write_text(block("docs/reference/trajectories.md", "toml", "# rubric.toml"))
    command, _, shown = block("docs/reference/trajectories.md", "console", "gloveport score").partition("\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", command.removeprefix("$ ")],
        cwd=tmp_path,
        env={**cli.environment, "PATH": path},
        capture_output=True,
        timeout=120,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, shown), done


def test_both_readmes_have_the_same_commands() -> None:
    def commands(document: str) -> list[str]:
        return re.findall(r"^(?:\w+=\$\()?(gloveport \w+|make \w+)", "\n".join(blocks(document, "sh")), re.MULTILINE)

    assert commands("README.md") == commands("README.zh.md") != []


@pytest.mark.parametrize(
    "document", sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert ((ROOT / document).parent / target).exists(), f"{document} → {target}"
