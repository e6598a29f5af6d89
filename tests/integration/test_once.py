"""One command under a policy: its streams and status are its own, and it leaves what the policy lets it write."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ..conftest import PATIENCE, Cli  # noqa: TID252 - tests are no package of ours

pytestmark = pytest.mark.needs("bubblewrap")


@pytest.fixture
def work(place: Path) -> Path:
    directory = place / "work"
    directory.mkdir()
    (directory / "file").write_text("before\n")
    return directory


def once(cli: Cli, work: Path, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [*cli.argv, "once", "--cwd", str(work), *words]
    return subprocess.run(command, input=data, env=cli.environment, capture_output=True, timeout=PATIENCE, check=False)


def test_a_command_has_its_own_streams_and_status(cli: Cli, work: Path) -> None:
    done = once(cli, work, "--", "sh", "-c", "cat; cat file; echo told >&2; exit 7", data=b"given\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"given\nbefore\n", b"told\n", 7)
    killed = once(cli, work, "--", "sh", "-c", "kill -TERM $$")
    assert killed.returncode == 128 + 15


def test_what_it_writes_is_thrown_away_unless_the_policy_says_so(cli: Cli, work: Path) -> None:
    change = ("--", "sh", "-c", "echo after > file; mkdir new; pwd")
    assert once(cli, work, *change).stdout == b"/workspace\n"
    assert (work / "file").read_text() == "before\n"
    policy = work.parent / "policy.toml"
    policy.write_text(f'[files]\nwritable = ["{work}"]\n')
    done = once(cli, work, "--policy", str(policy), *change)
    assert (done.stdout, done.stderr) == (f"{work}\n".encode(), b"")
    assert (work / "file").read_text() == "after\n"
    assert [(work / name).stat().st_uid for name in ("file", "new")] == [os.getuid()] * 2


def test_only_the_named_directory_is_writable(cli: Cli, work: Path) -> None:
    (work.parent / "beside").mkdir()
    policy = work.parent / "policy.toml"
    policy.write_text(f'[files]\nwritable = ["{work}"]\n')
    for target in (f"{work.parent}/beside/file", f"{work}/../file", "/usr/file"):
        once(cli, work, "--policy", str(policy), "--", "sh", "-c", f"echo x > {target}")
        assert not os.path.exists(target)  # at most in the guest's own /tmp


@pytest.mark.parametrize("path", ["/etc", "/usr/local/bin", "/proc", "/"])
def test_what_the_host_runs_or_obeys_is_never_writable(cli: Cli, work: Path, path: str) -> None:
    policy = work.parent / "policy.toml"
    policy.write_text(f'[files]\nwritable = ["{path}"]\n')
    done = once(cli, work, "--policy", str(policy), "--", "true")
    assert done.returncode == 78
    assert b"is never writable for a sandbox" in done.stderr


def test_nothing_of_it_is_left(cli: Cli, work: Path) -> None:
    once(cli, work, "--policy", "minimal", "--", "sh", "-c", "setsid sleep 1005 & true")
    assert cli.ok("list").endswith("0 sandboxes\n")


def test_a_mistake_is_named_before_anything_starts(cli: Cli, work: Path) -> None:
    assert b"no command" in once(cli, work).stderr
    assert b"no template of a policy is called 'maximal'" in once(cli, work, "--policy", "maximal", "--", "true").stderr
    assert once(cli, work / "none", "--", "true").returncode == 4
