"""The bubblewrap backend's pure parts: command lines and the system-call filter."""

from __future__ import annotations

import struct

import pytest

from gloveport.backends.bubblewrap.launcher import Launch, Stage
from gloveport.backends.bubblewrap.render import GUESTD, Places, render
from gloveport.backends.bubblewrap.seccomp import REFUSED_CALLS, standard_filter
from gloveport.errors import Unsupported
from gloveport.model import Assembled, Bind, DevMount, Limits, Link, Overlay, Plan, ProcMount, Tmpfs

PLAN = Plan(
    sandbox="s",
    mounts=(
        Bind("/usr", "/usr"),
        Link("usr/bin", "/bin"),
        Assembled("/etc", {"passwd": ""}),
        ProcMount(),
        DevMount(),
        Tmpfs("/tmp", 1000, 0o1777),
        Bind("/root/tool", "/root/tool"),
        Overlay("/srv/repo"),
    ),
    limits=Limits(processes=5, open_files=6, disk_bytes=7, memory_bytes=8),
)
PLACES = Places(
    bwrap="/h/bwrap",
    guestd="/h/guestd",
    assembled={"/etc": "/h/etc"},
    upper="/s/upper",
    work="/s/work",
    lower="/s/stage/workspace",
    staged={"/root/tool": "/s/stage/0"},
    control_fd=10,
    seccomp_fd=11,
    info_fd=12,
    guestd_memory=8,
)


def test_the_whole_command_line() -> None:
    assert render(PLAN, PLACES) == [
        "/h/bwrap",
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--uid", "1000", "--gid", "1000"),
        *("--hostname", "gloveport"),
        "--clearenv",
        *("--cap-drop", "ALL"),
        "--new-session",
        "--as-pid-1",
        *("--info-fd", "12"),
        *("--ro-bind", "/usr", "/usr"),
        *("--symlink", "usr/bin", "/bin"),
        *("--ro-bind", "/h/etc", "/etc"),
        *("--proc", "/proc"),
        *("--dev", "/dev"),
        *("--perms", "1777", "--size", "1000", "--tmpfs", "/tmp"),
        *("--ro-bind", "/s/stage/0", "/root/tool"),
        *("--overlay-src", "/s/stage/workspace", "--overlay", "/s/upper", "/s/work", "/workspace"),
        *("--ro-bind", "/h/guestd", GUESTD),
        *("--remount-ro", "/dev"),
        *("--remount-ro", "/"),
        *("--chdir", "/"),
        *("--seccomp", "11"),
        "--",
        *(GUESTD, "-f", "10", "-m", "8", "-p", "5", "-n", "6", "-s", "7", "-d", "32"),
    ]


def test_roots_launcher_drops_to_the_sandboxes_user_after_staging() -> None:
    launch = Launch(
        launcher="/h/launch",
        argv=["/h/bwrap", "--x"],
        user=(1879048200, 1879048201),
        cgroups=["/sys/fs/cgroup/memory/gloveport/s"],
        stages=[Stage("/root/tool", "/s/stage/0"), Stage("/root/repo", "/s/stage/workspace", (0, 0))],
        keep=(10, 11),
    )
    assert launch.command() == [
        "/h/launch",
        *("--uid", "1879048200", "--gid", "1879048201"),
        *("--cgroup", "/sys/fs/cgroup/memory/gloveport/s"),
        *("--stage", "/root/tool", "/s/stage/0", "-", "-"),
        *("--stage", "/root/repo", "/s/stage/workspace", "0", "0"),
        *("--keep-fd", "10", "--keep-fd", "11"),
        "--",
        *("/h/bwrap", "--x"),
    ]


def evaluate(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """What the kernel would do: a classic BPF machine with just the instructions the filter uses."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    code = list(struct.iter_unpack("<HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x45: bool(accumulator & value), 0x35: accumulator >= value}[operation]
            at += if_true if holds else if_false


ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


@pytest.mark.parametrize(("machine", "arch", "column"), [("x86_64", 0xC000003E, 0), ("aarch64", 0xC00000B7, 1)])
def test_the_filter_refuses_each_listed_call_and_passes_the_rest(machine: str, arch: int, column: int) -> None:
    program = standard_filter(machine)
    for name, numbers in REFUSED_CALLS.items():
        assert evaluate(program, arch, numbers[column]) == EPERM, name
    refused = {numbers[column] for numbers in REFUSED_CALLS.values()}
    clone, ioctl, socket = {"x86_64": (56, 16, 41), "aarch64": (220, 29, 198)}[machine]
    for number in set(range(500)) - refused - {435, clone, ioctl, socket}:
        assert evaluate(program, arch, number) == ALLOW, number
    assert evaluate(program, arch, 435) == ENOSYS
    assert evaluate(program, arch, clone, 0x11) == ALLOW
    assert evaluate(program, arch, clone, 0x10000000 | 0x11) == EPERM
    assert evaluate(program, arch, ioctl, 0, 0x5412) == EPERM
    assert evaluate(program, arch, ioctl, 0, 0x5412 | 1 << 32) == EPERM, "the kernel looks at 32 bits"
    assert evaluate(program, arch, ioctl, 0, 0x5413) == ALLOW
    assert evaluate(program, arch, socket, 40) == EPERM
    assert evaluate(program, arch, socket, 1) == ALLOW


def test_the_filter_knows_its_architecture() -> None:
    assert evaluate(standard_filter("x86_64"), 0xC00000B7, 1) == KILL
    assert evaluate(standard_filter("x86_64"), 0xC000003E, 0x40000001) == ENOSYS
    with pytest.raises(Unsupported):
        standard_filter("riscv64")
