"""`make demo` as a newcomer runs it, without a key: a script plays the model, everything else is real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.needs("index")
def test_the_demo_repairs_a_real_project_and_is_judged_by_its_next_release(place: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "CLAUDE"))}
    env |= {"GLOVEPORT_STATE": str(place / "state"), "GLOVEPORT_DATA": str(place / "data")}
    done = subprocess.run(
        [sys.executable, ROOT / "examples/demo/run.py"],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert said.splitlines()[0].startswith("This demo is SCRIPTED")
    assert "+                    return Range(Range.OP_GTE, target) & Range(Range.OP_LT, target.next_minor())" in said
    assert "byte-identical" in said
    assert "git apply --check succeeds" in said
    assert "unbroken" in said
    assert "its whole egress: 127.0.0.2\n" in said
    assert "refused: elsewhere.example (no rule names elsewhere.example:80" in said
    replays = [line for line in said.splitlines() if line.startswith("11 of 11 steps, 10 compared, in ")]
    assert len(replays) == 4, "R2 and R3, each twice side by side"
    assert all(line.endswith(": no divergence") for line in replays)
    assert "51 passed" in said.split("==> ")[-1]
    (run,) = (place / "data" / "runs").iterdir()
    assert {path.name for path in run.iterdir()} >= {
        "run.json", "patch.diff", "junit.xml", "test.log", "trajectory.jsonl", "audit.jsonl", "model.jsonl",
        "egress.jsonl",
    }  # fmt: skip
    subprocess.run([Path(sys.executable).parent / "gloveport", "runner", "stop"], env=env, check=True)
