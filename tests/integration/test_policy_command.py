"""A policy file, as a person uses it: checked, asked, and kept by a sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..conftest import Cli  # noqa: TID252 - tests are no package of ours

pytestmark = pytest.mark.needs("bubblewrap")

POLICY = """
[files]
hidden = ["/usr/share/doc", "/usr/bin/env"]
[limits]
processes = 100
[environment]
set = { CI = "1" }
[egress]
allow = [{ host = "api.example", reason = "the demo", match = ["api.example:443"], not_match = ["example"] }]
"""


@pytest.fixture
def policy(place: Path) -> str:
    path = place / "policy.toml"
    path.write_text(POLICY)
    return str(path)


def test_a_sandbox_keeps_its_policy(cli: Cli, policy: str) -> None:
    name = cli.ok("create", "--empty", "--policy", policy).strip()
    assert cli.ok("exec", name, "--", "sh", "-c", "echo $CI").strip() == "1"
    for command in ("ls /usr/share/doc", "cat /usr/bin/env"):
        done = cli("exec", name, "--", "sh", "-c", command)
        assert done.returncode != 0
        assert b"Permission denied" in done.stderr


def test_the_command_line_asks_for_less_and_not_for_more(cli: Cli, policy: str) -> None:
    plan = json.loads(cli.ok("plan", "--empty", "--policy", policy, "--processes", "90", "--json"))
    assert plan["limits"]["processes"] == 90
    more = cli("plan", "--empty", "--policy", policy, "--processes", "101")
    assert more.returncode == 78
    assert b"limits processes to 100" in more.stderr
    other = cli("plan", "--empty", "--policy", policy, "--env", "CI=0")
    assert other.returncode == 78
    assert b"the variable CI is set by the policy" in other.stderr


def test_a_policy_is_asked_which_rule_decides(cli: Cli, policy: str) -> None:
    said = cli.ok("policy", "explain", "host", "api.example", "--policy", policy)
    assert said == f"allow\n  rule: egress.allow: api.example, project ({policy}:9)\n  why: the demo\n"
    asked = cli("policy", "test", "host", "else.example:80", "--policy", policy, "--json")
    assert asked.returncode == 78
    assert json.loads(asked.stdout)["rule"] == "egress.default"
    assert cli("policy", "test", "read", "/usr/bin/python3").returncode == 0


def test_a_policy_that_is_not_understood_whole_runs_nothing(cli: Cli, place: Path) -> None:
    path = place / "policy.toml"
    path.write_text('[egres]\nallow = []\n[limits]\nmemry = "1g"\n')
    for words in (("policy", "check"), ("create", "--empty"), ("plan", "--empty")):
        done = cli(*words, "--policy", str(path))
        assert done.returncode == 2
        assert b"policy.toml:1: unknown key 'egres'; did you mean 'egress'?" in done.stderr
        assert b"policy.toml:4: unknown key 'limits.memry'; did you mean 'memory'?" in done.stderr
    missing = cli("create", "--empty", "--policy", str(place / "none.toml"))
    assert missing.returncode == 4


@pytest.mark.parametrize("policy", ["minimal", "standard", "development", "empty.toml", "protected.toml"])
def test_every_policy_that_can_be_used_can_be_checked(cli, tmp_path: Path, policy: str) -> None:
    (tmp_path / "empty.toml").write_text("")
    (tmp_path / "protected.toml").write_text('[files]\nprotected = ["deploy/**"]\n')
    name = str(tmp_path / policy) if policy.endswith(".toml") else policy
    assert "LAYER" in cli.ok("policy", "check", "--policy", name)
