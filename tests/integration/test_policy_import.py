"""Other programs' settings, taken over on the command line: a policy that is kept, and a word about all the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Cli  # noqa: TID252 - tests are no package of ours

CLAUDE: dict[str, Any] = {
    "model": "x",
    "permissions": {"deny": ["Read(.env)"]},
    "sandbox": {
        "enabled": True,
        "excludedCommands": ["docker"],
        "network": {"allowedDomains": ["api.example.com", "*.example.org:443"], "deniedDomains": ["bad.example.org"]},
        "filesystem": {"denyRead": ["/opt/private"], "denyWrite": ["./deploy"]},
    },
}
SEED: dict[str, Any] = {
    "sandbox": {
        "permissions": {
            "fs": {"write": {"allow": ["."]}, "read": {"deny": ["~/.ssh"]}},
            "network": {"allow": ["api.example.com"]},
        },
        "allowUnsandboxedCommands": True,
    }
}
SRT: dict[str, Any] = {
    "network": {"allowedDomains": ["api.example.com"], "deniedDomains": []},
    "filesystem": {"denyRead": [], "allowWrite": ["/tmp"], "denyWrite": []},
}


@pytest.fixture
def settings_file(place: Path) -> Path:
    path = place / "settings.json"
    path.write_text(json.dumps(CLAUDE, indent=1))
    return path


def host(cli: Cli, policy: Path, name: str) -> str:
    done = cli("policy", "explain", "host", name, "--policy", str(policy), "--json")
    return str(json.loads(done.stdout)["verdict"])


@pytest.mark.parametrize(
    ("said", "unnamed"), [(CLAUDE, "ask"), (SEED, "deny"), (SRT, "deny")], ids=("claude", "seed", "srt")
)
def test_what_is_written_is_checked_explained_and_kept_by_the_plan(
    cli: Cli, place: Path, said: Mapping[str, Any], unnamed: str
) -> None:
    (place / "s.json").write_text(json.dumps(said))
    output = place / "policy.toml"
    assert cli.ok("policy", "import", str(place / "s.json"), "--output", str(output)) == ""
    assert "project" in cli.ok("policy", "check", "--policy", str(output))
    assert [host(cli, output, name) for name in ("api.example.com", "else.example")] == ["allow", unnamed]
    if said is CLAUDE:
        assert host(cli, output, "bad.example.org") == "deny"
        read = cli("policy", "test", "read", "/opt/private/x", "--policy", str(output), "--json")
        assert json.loads(read.stdout)["rule"].startswith("files.hidden: project (")


def test_what_does_not_carry_over_is_said_line_by_line_beside_the_policy(cli: Cli, settings_file: Path) -> None:
    done = cli("policy", "import", str(settings_file), "--directory", str(settings_file.parent))
    assert done.returncode == 0
    assert done.stdout.decode().startswith(f"# Imported from {settings_file}.\n")
    lines = done.stderr.decode().splitlines()
    assert f"{settings_file}:3: permissions: lost: rules about Claude Code's own tools" in done.stderr.decode()
    assert any("sandbox.excludedCommands: narrower: every command runs in the sandbox" in line for line in lines)
    assert any(line.startswith("gloveport: 1 restriction of the settings did not carry over") for line in lines)
    told = json.loads(cli.ok("policy", "import", str(settings_file), "--json"))
    assert (told["whole"], told["output"]) == (False, None)
    assert ("permissions", "lost", 3) in [(note["key"], note["effect"], note["line"]) for note in told["notes"]]


def test_a_file_that_is_there_is_not_overwritten_unasked(cli: Cli, place: Path, settings_file: Path) -> None:
    output = place / "policy.toml"
    kept = place / "kept"
    for there in (lambda: output.write_text("mine"), lambda: output.symlink_to(kept)):
        output.unlink(missing_ok=True)
        there()
        done = cli("policy", "import", str(settings_file), "--output", str(output))
        assert done.returncode == 5
        assert b"next: name another file, or add --overwrite" in done.stderr
    assert not kept.exists()
    output.unlink()
    kept.write_text("mine")
    output.symlink_to(kept)
    cli.ok("policy", "import", str(settings_file), "--output", str(output), "--overwrite")
    assert kept.read_text() == "mine"
    assert not output.is_symlink()
    cli.ok("policy", "check", "--policy", str(output))
    assert {path.name for path in place.iterdir() if path.is_file()} == {"policy.toml", "settings.json", "kept"}


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ((), 2, "gloveport policy import FILE"),
        (("none.json",), 4, "name the file"),
        (("FILE", "--from", "srt"), 2, "no settings of srt"),
        (("FILE", "--output", "/dev/null/p.json"), 2, "end it in .toml"),
        (("FILE", "--output", "/dev/null/p.toml"), 69, "check the disk"),
        (("FILE", "--overwrite"), 2, "name a file with --output"),
        (("FILE", "more"), 2, "gloveport policy import FILE"),
    ],
    ids=str,
)
def test_bad_input_gets_the_next_step(
    cli: Cli, settings_file: Path, words: tuple[str, ...], status: int, says: str
) -> None:
    named = [str(settings_file) if word == "FILE" else word for word in words]
    done = cli("policy", "import", *named)
    assert (done.returncode, says in done.stderr.decode()) == (status, True), done


def test_the_other_questions_take_no_options_of_import(cli: Cli) -> None:
    assert cli("policy", "check", "--output", "x.toml").returncode == 2
    done = cli("policy", "explain", "hosts", "a.example")
    assert (done.returncode, b"a policy decides about host, read" in done.stderr) == (2, True)
