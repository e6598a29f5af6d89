"""Make a virtual environment with the locked dependencies and Gloveport itself, from nothing but `python3`."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "dev.lock"
COMPILER_LOCK = ROOT / "requirements" / "ziglang.lock"
OLDEST = (3, 11)


def say(what: str) -> None:
    """One line of progress."""
    print(f"==> {what}", flush=True)


def fail(why: str, remedy: str) -> None:
    """End with the reason and the next step."""
    sys.exit(f"error: {why}\n  next: {remedy}")


def pip(python: Path, *arguments: str) -> None:
    """Run the environment's own pip; its output is shown only when it fails."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.stdout.buffer.write(done.stdout)
        fail(
            f"`{' '.join(command[1:])}` exited {done.returncode}",
            "read pip's message above; is the package index reachable?",
        )


def main(target: str) -> None:
    """Make or refresh the environment at `target`."""
    if sys.version_info < OLDEST:
        fail(
            f"Python {sys.version.split()[0]} is too old",
            "install Python 3.11 or newer and run: make PYTHON=python3.11 …",
        )
    environment = ROOT / target
    python = environment / "bin" / "python"
    if not python.exists():
        say(f"making {target} with Python {sys.version.split()[0]}")
        shutil.rmtree(environment, ignore_errors=True)
        try:
            __import__("ensurepip")
        except ImportError:
            fail(
                "this Python comes without `venv`",
                "apt-get install python3-venv (or use another Python: make PYTHON=…)",
            )
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    say("installing the locked dependencies (about 120 MB the first time: the Claude Code CLI is in it)")
    pip(python, "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK))
    sys.path.insert(0, str(ROOT / "build_backend"))
    if importlib.import_module("guest_programs").find_compiler(zig=False) is None:
        say("no C compiler that links statically here: installing ziglang to compile guestd")
        pip(python, "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r", str(COMPILER_LOCK))
    say("compiling guestd and installing gloveport")
    os.environ["PATH"] = f"{environment / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    pip(python, "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")


if __name__ == "__main__":
    main(sys.argv[1])
