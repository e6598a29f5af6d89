"""The launcher that starts the first program of a sandbox."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

USER = 231_073

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


def launch(programs: Path, *argv: object, **facts: object) -> subprocess.CompletedProcess[str]:
    command = [str(programs / "launch"), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **facts)  # type: ignore[call-overload]


@pytest.fixture
def tree(programs: Path) -> Path:
    """A directory of the host that others may not enter, and a place to show it at."""
    source = programs / "source"
    if not source.exists():
        source.mkdir(mode=0o700)
        (source / "file").write_text("content")
        (source / "target").mkdir()
    return source


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--"],
        ["--", "true"],
        ["/bin/true"],
        ["--nonesuch", "--", "/bin/true"],
        ["--uid"],
        ["--uid", "--", "/bin/true"],
        ["--uid", "1", "--", "/bin/true"],
        ["--uid", "0", "--gid", "0", "--", "/bin/true"],
        ["--uid", "+1", "--gid", "1", "--", "/bin/true"],
        ["--uid", "1x", "--gid", "1", "--", "/bin/true"],
        ["--uid", "4294967295", "--gid", "1", "--", "/bin/true"],
        ["--uid", "1", "--uid", "2", "--gid", "1", "--", "/bin/true"],
        ["--cgroup", "relative", "--", "/bin/true"],
        ["--stage", "/etc", "/tmp", "0", "-", "--", "/bin/true"],
        ["--stage", "/etc", "/tmp", "0", "0", "--", "/bin/true"],
        ["--stage", "etc", "/tmp", "-", "-", "--", "/bin/true"],
        ["--keep-fd", "-1", "--", "/bin/true"],
        ["--keep-fd", "99", "--", "/bin/true"],
        ["--cgroup", "/nonesuch", "--", "/bin/true"],
        ["--", "/nonesuch"],
    ],
    ids=" ".join,
)
def test_a_command_line_that_means_nothing_starts_nothing(programs: Path, argv: list[str]) -> None:
    done = launch(programs, *argv)
    assert done.returncode == 125
    assert done.stderr.startswith("launch: ")
    assert done.stderr.count("\n") == 1


def test_a_program_gets_the_given_environment_and_only_kept_descriptors(programs: Path) -> None:
    with open("/dev/null") as kept, open("/dev/null") as other:
        keep = kept.fileno()
        passed = (keep, other.fileno())
        argv = ("--keep-fd", keep, "--", "/bin/sh", "-c", "ls /proc/$$/fd; /usr/bin/env; ps -o sid= -p $$; echo $$")
        done = launch(programs, *argv, pass_fds=passed, env={"A": "1"})
    lines = done.stdout.split("\n")
    assert sorted(lines[:4], key=int) == ["0", "1", "2", str(keep)]
    assert "A=1" in lines
    assert not any(line.startswith("HOME=") for line in lines)
    assert lines[-3].strip() == lines[-2]


def test_signals_are_reset(programs: Path) -> None:
    done = launch(programs, "--", "/bin/cat", "/proc/self/status", restore_signals=False)
    (ignored,) = [line for line in done.stdout.splitlines() if line.startswith("SigIgn:")]
    assert ignored == "SigIgn:\t0000000000000000"
    assert "SigBlk:\t0000000000000000" in done.stdout


@as_root
def test_root_becomes_the_user_for_good(programs: Path) -> None:
    done = launch(programs, "--uid", USER, "--gid", USER + 1, "--", "/bin/cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == [str(USER)] * 4
    assert fields["Gid"].split() == [str(USER + 1)] * 4
    assert fields["Groups"].strip() == ""
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0


@as_root
def test_a_stage_shows_private_files_read_only_as_the_users_own(programs: Path, tree: Path) -> None:
    target = programs / "shared"
    script = f"cat {target}/file; stat -c %u:%g {target}/file; touch {target}/new 2>&1; grep -c {target} /proc/mounts"
    argv = ("--uid", USER, "--gid", USER, "--stage", tree, target, 0, 0, "--", "/bin/sh", "-c", script)
    done = launch(programs, *argv)
    if done.returncode == 124:
        pytest.skip(done.stderr)
    lines = done.stdout.splitlines()
    assert lines[0] == f"content{USER}:{USER}"
    assert "Read-only file system" in lines[1]
    assert lines[2] == "1"
    assert not any(target.iterdir()), "the host's own view has changed"


@as_root
def test_a_stage_without_owner_keeps_the_owners(programs: Path, tree: Path) -> None:
    target = programs / "shared"
    argv = ("--uid", USER, "--gid", USER, "--stage", tree, target, "-", "-", "--")
    done = launch(programs, *argv, "/bin/ls", target)
    assert done.returncode == 2
    assert "Permission denied" in done.stderr


@as_root
def test_what_cannot_show_other_owners_has_its_own_status(programs: Path) -> None:
    argv = ("--uid", USER, "--gid", USER, "--stage", "/proc", programs / "shared", 0, 0, "--", "/bin/true")
    done = launch(programs, *argv)
    assert (done.returncode, done.stderr.startswith("launch: ")) == (124, True)


@as_root
def test_a_missing_source_or_target_is_an_ordinary_failure(programs: Path) -> None:
    for source, target in (("/nonesuch", "/tmp"), ("/etc", "/nonesuch")):
        done = launch(programs, "--stage", source, target, "-", "-", "--", "/bin/true")
        assert (done.returncode, done.stderr) == (125, "launch: /nonesuch: No such file or directory\n")
