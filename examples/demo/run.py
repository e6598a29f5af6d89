"""`make demo`: an agent repairs a real project in a sandbox, and the project's next release judges the repair.

Every wall is on, and one host is open: the project's issue tracker, which the demo plays on this machine.

With ANTHROPIC_API_KEY set a real model does it. Without, a script plays the model; everything else is real: the Agent
SDK, the Claude Code CLI, the sandbox, the edits, the tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import anyio.to_thread
from releases import AFTER, BEFORE, unpack
from script import PROMPT, turns

from gloveport.testing import ScriptedModel, serve

ROOT = Path(__file__).resolve().parent.parent.parent
PLACE = ROOT / ".demo"
GLOVEPORT = str(Path(sys.executable).parent / "gloveport")
TRACKER = "127.0.0.2"
PYTEST = "python3 -m pytest -q -p no:cacheprovider -W ignore tests"
GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (
        ("NAME", "Demo"), ("EMAIL", "demo@localhost"), ("DATE", "2020-04-29T00:00:00Z"))},
}  # fmt: skip


def say(text: str) -> None:
    print(f"\n==> {text}", flush=True)


def note(text: str) -> None:
    print(f"    {text}", flush=True)


def run(*command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None, quiet: bool = False) -> bytes:
    """A command that must succeed; what it prints is shown, or with `quiet` returned."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE if quiet else None,
        check=False,
    )
    if done.returncode:
        sys.exit(f"error: {' '.join(str(part) for part in command)} ended with {done.returncode}")
    return done.stdout or b""


def fingerprint(tree: Path) -> str:
    """One digest over names, modes and contents of everything below `tree`."""
    digest = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        digest.update(f"{path.relative_to(tree)}\0{path.lstat().st_mode:o}\0".encode())
        if path.is_symlink():
            digest.update(os.fsencode(path.readlink()))
        elif path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def make_repository(source: Path) -> Path:
    """The user's copy: a Git repository of the earlier release."""
    repository = PLACE / "repository"
    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(source, repository, symlinks=True)
    run("git", "init", "--quiet", "--initial-branch=main", cwd=repository, env=GIT)
    run("git", "add", "--all", cwd=repository, env=GIT)
    run("git", "commit", "--quiet", "-m", BEFORE.directory, cwd=repository, env=GIT)
    return repository


def make_toolchain() -> Path:
    """A virtual environment with pytest, shown to the sandbox read-only."""
    toolchain = PLACE / "toolchain"
    stamp = toolchain / ".installed"
    if not stamp.exists():
        shutil.rmtree(toolchain, ignore_errors=True)
        run(sys.executable, "-m", "venv", toolchain)
        lock = ROOT / "requirements" / "demo.lock"
        pip = toolchain / "bin" / "python"
        run(pip, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", lock)
        stamp.touch()
    return toolchain


class Tracker(BaseHTTPRequestHandler):
    """The project's issue tracker, with one issue."""

    def do_GET(self) -> None:
        """Tell it."""
        body = PROMPT.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
        """Nothing: what passes is in the audit trail."""


@contextmanager
def open_tracker() -> Iterator[int]:
    """Its port, on an address of this machine."""
    with ThreadingHTTPServer((TRACKER, 0), Tracker) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def write_policy(port: int) -> Path:
    """What the repair needs, and nothing else."""
    policy = PLACE / "policy.toml"
    policy.write_text((Path(__file__).parent / "policy.toml").read_text().replace("PORT", str(port)))
    return policy


def repair(repository: Path, toolchain: Path, policy: Path, model: Mapping[str, str]) -> None:
    """The main job, as a user would type it."""
    shown = ("--read-only", toolchain, "--env", "PYTHONDONTWRITEBYTECODE=1", "--policy", policy)
    said = f"--repo {repository.relative_to(ROOT)} --commit HEAD --policy {policy.relative_to(ROOT)} --test '{PYTEST}'"
    print(f"    gloveport run {said} '…'", flush=True)
    run(GLOVEPORT, "run", "--repo", repository, "--commit", "HEAD", *shown, "--test", PYTEST, PROMPT, env=model)


async def repair_with_a_script(repository: Path, toolchain: Path, policy: Path, port: int) -> None:
    async with serve(ScriptedModel.of(*turns(f"http://{TRACKER}:{port}/issues/1"))) as endpoint:
        model = {"ANTHROPIC_BASE_URL": endpoint.url, "ANTHROPIC_API_KEY": "scripted-no-key", "NO_PROXY": "127.0.0.1"}
        await anyio.to_thread.run_sync(repair, repository, toolchain, policy, model)


def check_egress(audit: Path) -> None:
    """Everything that went out, or tried to, is in the audit trail: nothing but the tracker was reached."""
    events = [json.loads(line) for line in audit.read_text().splitlines()]
    tried = [event["data"] for event in events if event["kind"] == "egress"]
    reached = {each["host"] for each in tried if each["allowed"]}
    if not reached <= {TRACKER}:
        sys.exit(f"error: the agent reached {', '.join(sorted(reached))}")
    note(f"its whole egress: {', '.join(sorted(reached)) or 'none'}")
    for each in tried:
        if not each["allowed"]:
            note(f"refused: {each['host']} ({each['reason']})")


def judge(repository: Path, toolchain: Path, later: Path) -> None:
    """The later release's own tests against the repaired tree, in a sandbox that the agent has never seen."""
    judged = PLACE / "judged"
    shutil.rmtree(judged, ignore_errors=True)
    shutil.copytree(repository, judged, ignore=shutil.ignore_patterns(".git"))
    shutil.rmtree(judged / "tests")
    shutil.copytree(later / "tests", judged / "tests")
    created = run(GLOVEPORT, "create", "--repo", judged, "--read-only", toolchain, quiet=True)
    sandbox = created.decode().split()[-1]
    try:
        run(GLOVEPORT, "exec", sandbox, "--", "/bin/bash", "-c", PYTEST)
    finally:
        run(GLOVEPORT, "rm", sandbox, quiet=True)


def main() -> None:
    scripted = not (os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_AUTH_TOKEN"))
    if scripted:
        print("This demo is SCRIPTED: no ANTHROPIC_API_KEY is set, so a script plays the model. The rest is real.")
    else:
        print("This demo uses your ANTHROPIC_API_KEY: a real model works on the repository (a few cents).")
    PLACE.mkdir(exist_ok=True)
    say(f"Fetching {BEFORE.directory} (known bug) and {AFTER.directory} (whose tests show the fix), pinned by hash")
    earlier, later = unpack(BEFORE, PLACE), unpack(AFTER, PLACE)
    repository, toolchain = make_repository(earlier), make_toolchain()
    before = fingerprint(repository)

    say(
        "The agent works on a copy-on-write view of the repository, in a sandbox whose one way out is the issue tracker"
    )
    with open_tracker() as port:
        policy = write_policy(port)
        if scripted:
            anyio.run(repair_with_a_script, repository, toolchain, policy, port)
        else:
            repair(repository, toolchain, policy, {})

    say("The patch (gloveport diff last)")
    run(GLOVEPORT, "diff", "last")
    shown = json.loads(run(GLOVEPORT, "show", "last", "--json", quiet=True))
    patch = Path(shown["directory"]) / "patch.diff"

    say("Checks")
    if fingerprint(repository) != before:
        sys.exit("error: the user's repository was changed before `gloveport apply`")
    note("the user's repository is byte-identical to what it was")
    clone = PLACE / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    run("git", "clone", "--quiet", repository, clone, env=GIT)
    run("git", "apply", "--check", patch, cwd=clone)
    note("git apply --check succeeds on a fresh clone")
    check_egress(Path(shown["directory"]) / "audit.jsonl")
    run(GLOVEPORT, "verify", "last")

    say("The run again from its record, twice side by side, with no network (gloveport replay last)")
    for level in ("R2", "R3"):
        run(GLOVEPORT, "replay", "last", "--level", level, "--times", "2")

    say("Applying the patch to the user's repository (gloveport apply last)")
    run(GLOVEPORT, "apply", "last")

    say(f"The tests of {AFTER.directory} against the repaired {BEFORE.directory}, in a fresh sandbox")
    judge(repository, toolchain, later)
    run(GLOVEPORT, "runner", "stop", quiet=True)
    print(f"\nDone: repaired, and judged by the next release's own tests. See {shown['directory']}", flush=True)


if __name__ == "__main__":
    main()
