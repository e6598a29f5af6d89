"""Host paths that a sandbox may write when somebody insists, and those that it never may, whoever names them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gloveport.errors import InvalidRequest, NotFound, PolicyDenied
from gloveport.model import Verdict
from gloveport.policy import HostView, decide_shown, survey
from gloveport.policy.files.writable import check_writable, decide_writable, protected_within


class Host:
    """A home, a directory of programs and a product's own directory below `root`; and a project to write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.programs = root / "programs"
        self.own = root / "state"
        self.project = self.home / "project"
        for directory in (self.home, self.programs, self.own, self.project):
            directory.mkdir()
        self.view = HostView(
            directories=("/usr",),
            links=(),
            etc=(),
            search_path=(str(self.programs), "/usr/bin"),
            homes=(str(self.home),),
            own=(str(self.own),),
        )

    def allows(self, path: Path | str) -> bool:
        return decide_writable(str(path), self.view).verdict is Verdict.ALLOW

    def why(self, path: Path | str) -> str:
        decision = decide_writable(str(path), self.view)
        assert decision.verdict is Verdict.DENY, path
        return f"{decision.rule}: {decision.reason}"

    def make(self, path: str) -> Path:
        """A file, with all above it."""
        target = self.home / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        return target


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(Path(os.path.realpath(tmp_path)))


def test_a_directory_and_a_file_of_ones_own_may_be_written(host: Host) -> None:
    assert host.allows(host.project)
    assert host.allows(f"{host.project}/")
    assert host.allows(host.make("project/out.txt"))
    check_writable(str(host.project), host.view)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/bin",
        "/boot",
        "/dev",
        "/dev/shm",
        "/etc",
        "/etc/cron.d",
        "/etc/profile.d",
        "/etc/systemd/system",
        "/home",
        "/lib",
        "/lib/systemd/system",
        "/proc",
        "/proc/self",
        "/root",
        "/run",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/sys/fs/cgroup",
        "/tmp",
        "/usr",
        "/usr/local/bin",
        "/usr/share",
        "/var",
        "/var/lib",
        "/var/lib/docker",
        "/var/run",
        "/var/run/docker.sock",
        "/var/run/podman/podman.sock",
        "/var/run/crio/crio.sock",
        "/var/spool/cron",
        "/var/spool/cron/crontabs/root",
    ],
)
def test_no_part_of_the_system_is_written(host: Host, path: str) -> None:
    for spelling in (path, f"{path}/", f"/{path}", path.replace("/", "//"), f"{path}/."):
        assert not host.allows(spelling), spelling


@pytest.mark.parametrize(
    "path",
    [
        ".bashrc",
        ".zshenv",
        ".profile",
        ".config/fish/config.fish",
        ".config/systemd/user/x.service",
        ".config/autostart/x.desktop",
        ".local/bin/ls",
        ".local/share/systemd/user/x.service",
        ".ssh/authorized_keys",
        ".gitconfig",
        ".vimrc",
        ".claude/settings.json",
        ".npmrc",
        "bin/ls",
        ".cargo/bin/cargo",
        "project/.git/hooks/pre-commit",
        "project/.git/config",
        "project/.vscode/tasks.json",
    ],
)
def test_no_start_up_file_or_program_of_a_home_is_written_nor_its_directory(host: Host, path: str) -> None:
    made = host.make(path)
    assert not host.allows(made)
    if made.parent != host.home:
        assert not host.allows(made.parent)


def test_a_home_is_not_written_whole_nor_what_is_above_it(host: Host) -> None:
    assert "home director" in host.why(host.home)
    assert "home director" in host.why(host.root)


def test_directories_of_programs_are_not_written_nor_what_is_above_or_below(host: Host, tmp_path: Path) -> None:
    (host.programs / "sub").mkdir()
    assert "started by their name" in host.why(host.programs)
    assert "started by their name" in host.why(host.programs / "sub")
    real = host.home / "tools" / "bin"
    real.mkdir(parents=True)
    view = HostView(directories=(), links=(), etc=(), search_path=(str(host.root / "linked"),), homes=(str(host.home),))
    (host.root / "linked").symlink_to(real)
    for path in (real, real.parent):
        assert decide_writable(str(path), view).verdict is Verdict.DENY, path


def test_the_products_own_directories_are_not_written(host: Host) -> None:
    (host.own / "scratch").mkdir()
    for path in (host.own, host.own / "scratch"):
        assert "belongs to Gloveport" in host.why(path)
    own = survey(own=[host.own])
    assert decide_writable(str(host.own), own).verdict is Verdict.DENY


def test_a_path_with_a_link_in_it_is_refused_wherever_it_leads(host: Host) -> None:
    """A guest that once wrote `project` can have put the link there."""
    outside = host.home / "other"
    outside.mkdir()
    (host.project / "out").symlink_to(outside)
    (host.project / "home").symlink_to(host.home)
    (host.project / "in").symlink_to("sub")
    (host.project / "sub").mkdir()
    assert host.allows(host.project / "sub")
    for path in ("out", "home", "home/project", "in", "out/."):
        assert "link" in host.why(host.project / path), path


def test_sockets_are_not_written_nor_directories_that_hold_one(host: Host) -> None:
    service = host.project / "service"
    service.mkdir()
    assert host.allows(service)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(service / "any"))
        assert "socket" in host.why(service / "any")
        assert "listens at 'any'" in host.why(service)
    finally:
        listener.close()


@pytest.mark.parametrize("name", ["docker.sock", "containerd.sock", "podman.sock", "crio.sock", "Docker.Sock"])
def test_container_sockets_are_refused_by_name_before_anybody_listens_there(host: Host, name: str) -> None:
    made = host.make(f"project/s/{name}")
    assert "root of this host" in host.why(made)
    assert "listens at" in host.why(made.parent)


def test_a_file_with_a_second_name_is_refused(host: Host) -> None:
    made = host.make("project/innocent")
    assert host.allows(made)
    os.link(made, host.home / ".bashrc")
    assert "several names" in host.why(made)


def test_a_pipe_is_refused(host: Host) -> None:
    os.mkfifo(host.project / "pipe")
    assert "neither" in host.why(host.project / "pipe")


def test_what_is_not_shown_is_not_written(host: Host) -> None:
    made = host.make(".aws/credentials")
    assert decide_shown(str(made), host.view).verdict is Verdict.DENY
    assert not host.allows(made)


def test_a_secret_linked_after_the_host_was_surveyed_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, shared = tmp_path / "home", tmp_path / "shared" / "keys"
    for directory in (home / ".cargo", shared):
        directory.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    view = survey()
    assert decide_shown(str(shared), view).verdict is Verdict.ALLOW
    (home / ".cargo" / "credentials").symlink_to(shared / "cargo")
    for path in (shared, shared / "cargo", shared / "cargo" / "below"):
        assert decide_shown(str(path), view).verdict is Verdict.DENY, path
    assert decide_shown(str(tmp_path / "shared" / "other"), view).verdict is Verdict.ALLOW


@pytest.mark.parametrize("path", ["relative", "", "/a/../b", "/a\0b"])
def test_what_is_no_whole_path_is_refused(host: Host, path: str) -> None:
    with pytest.raises(InvalidRequest):
        check_writable(path, host.view)


def test_a_missing_path_is_not_found_and_not_made(host: Host) -> None:
    with pytest.raises(NotFound):
        check_writable(f"{host.project}/later", host.view)
    assert not (host.project / "later").exists()


def test_a_refusal_names_its_rule_and_what_to_do(host: Host) -> None:
    with pytest.raises(PolicyDenied, match="started by their name") as refused:
        check_writable(str(host.programs), host.view)
    assert refused.value.context == {"rule": "built-in: no directories of programs", "path": str(host.programs)}
    assert "directory of its own" in refused.value.hint


def test_protected_names_in_a_writable_directory_are_told(host: Host) -> None:
    for name in (".git/HEAD", ".vscode/x", "README", "CLAUDE.md"):
        host.make(f"project/{name}")
    assert [one.path for one in protected_within(str(host.project))] == [".git", ".vscode", "CLAUDE.md"]
    assert protected_within(str(host.project / "README")) == ()
