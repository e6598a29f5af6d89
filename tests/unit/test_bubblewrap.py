"""The bubblewrap backend's pure parts: command lines and the system-call filter."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from gloveport.backends.bubblewrap.calls import REFUSED_CALLS, allowed_calls
from gloveport.backends.bubblewrap.launcher import Launch, Stage
from gloveport.backends.bubblewrap.render import GUESTD, Places, render
from gloveport.backends.bubblewrap.seccomp import standard_filter
from gloveport.errors import Unsupported
from gloveport.model import Assembled, Bind, DevMount, Hidden, Limits, Link, Overlay, Plan, ProcMount, Tmpfs

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
    covered=(Hidden("/proc/keys", is_directory=False),),
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
        *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--ro-bind", "/dev/null", "/proc/keys"),
        *("--dev", "/dev", "--mqueue", "/dev/mqueue"),
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
        *("-w", "/dev/mqueue", "-w", "/tmp", "-w", "/workspace"),
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
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x45: bool(accumulator & value), 0x35: accumulator >= value}[operation]
            at += if_true if holds else if_false


ALLOW, KILL, EPERM, ENOSYS, NO_PROTOCOL, NO_FAMILY = 0x7FFF0000, 0x80000000, 0x50001, 0x50026, 0x5005D, 0x50061
HIGH = 1 << 32
"""A bit the kernel does not look at in an argument of 32 bits."""

MACHINES = pytest.mark.parametrize(
    ("machine", "arch", "column"), [("x86_64", 0xC000003E, 0), ("aarch64", 0xC00000B7, 1)]
)


@MACHINES
def test_the_filter_passes_the_listed_calls_and_no_others(machine: str, arch: int, column: int) -> None:
    program = standard_filter(machine)
    refused = {numbers[column] for numbers in REFUSED_CALLS.values()}
    allowed = set(allowed_calls(column).values())
    judged = {
        "x86_64": {2, 16, 41, 53, 56, 85, 90, 91, 133, 135, 257, 259, 268, 452},
        "aarch64": {29, 33, 52, 53, 56, 92, 198, 199, 220, 452},
    }[machine]
    assert not refused & allowed
    assert not judged & (refused | allowed)
    for number in set(range(1000)) - judged:
        expected = EPERM if number in refused else ALLOW if number in allowed else ENOSYS
        assert evaluate(program, arch, number) == expected, number
    assert evaluate(program, arch, 435) == ENOSYS, "clone3"
    assert evaluate(program, arch, 437) == ENOSYS, "openat2"


def judged_modes(column: int) -> dict[tuple[int, ...], int]:
    """Calls that set the mode of a file, or make one: none makes it run as its owner."""
    modes = [(number, 0) for number in ((85, 90, 91, 133), (52,))[column]]
    modes += [(number, 0, 0) for number in ((259, 268, 452), (33, 53, 452))[column]]
    openat, made, nameless = (257, 56)[column], 0o102, 0o20200002
    cases = {(*call, mode): ALLOW for call in modes for mode in (0o1777, 0o2755)}
    cases |= {(*call, mode): EPERM for call in modes for mode in (0o4000, 0o6755, HIGH | 0o104700)}
    cases |= {(openat, 0, 0, flags, 0o4755): EPERM for flags in (made, nameless, HIGH | made)}
    cases |= {(openat, 0, 0, flags, 0o2755): ALLOW for flags in (made, nameless)}
    return cases | {(openat, 0, 0, 0o2, 0o4755): ALLOW}


@MACHINES
def test_the_filter_judges_some_calls_by_their_arguments(machine: str, arch: int, column: int) -> None:
    program = standard_filter(machine)
    numbers = {"x86_64": (56, 16, 135, 41, 53), "aarch64": (220, 29, 92, 198, 199)}[machine]
    clone, ioctl, personality, socket, pair = numbers
    stream, datagram, raw, close = 1, 2, 3, 0x80000
    cases = {
        (clone, 0x11): ALLOW,
        **{(clone, 0x11 | 1 << bit): EPERM for bit in (7, 17, 25, 26, 27, 28, 29, 30)},
        (ioctl, 0, 0x5413): ALLOW,
        **{(ioctl, 0, request | high): EPERM for request in (0x5412, 0x541C, 0x541D, 0x5423) for high in (0, HIGH)},
        **{(personality, value): ALLOW for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)},
        **{(personality, value): EPERM for value in (0x40000, 0x400000, 4, 0x40008)},
        **{(socket, 1, kind, 0): ALLOW for kind in (stream, datagram, raw, stream | close)},
        **{(socket, family, kind | close, 0): ALLOW for family in (2, 10) for kind in (stream, datagram)},
        **{(socket, family, kind | close, 0): EPERM for family in (2, 10 | HIGH) for kind in (raw, 10, 4, 5, 6)},
        **{(socket, 2, stream, protocol): NO_PROTOCOL for protocol in (1, 132, 262, 255)},
        (socket, 16, raw | close, 0): ALLOW,
        **{(socket, 16, raw, protocol): NO_PROTOCOL for protocol in (1, 4, 9, 12, 15, 16)},
        **{(socket, family | high, raw, 0): NO_FAMILY for family in (40, 17, 38, 0, 3, 44) for high in (0, HIGH)},
        (pair, 1, stream, 0): ALLOW,
        (pair, 30, stream, 0): NO_FAMILY,
        **judged_modes(column),
    }
    assert {case: evaluate(program, arch, *case) for case in cases} == cases


HEADERS = {0: "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 1: "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("column", HEADERS)
def test_the_numbers_are_those_of_the_kernels_headers(column: int) -> None:
    header = Path(HEADERS[column])
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    theirs = {name: int(text) for name, text in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())}
    ours = allowed_calls(column) | {name: numbers[column] for name, numbers in REFUSED_CALLS.items()}
    # The generic header has another name for the 64-bit form of some, and libc's own names for others.
    other = {"newfstatat": "fstatat"} if column else {}
    known = {name: theirs[other.get(name, name)] for name in ours if other.get(name, name) in theirs}
    assert {name: ours[name] for name in known} == known | {name: -1 for name in known if ours[name] == -1}
    assert len(known) > 250


def test_the_filter_knows_its_architecture() -> None:
    assert evaluate(standard_filter("x86_64"), 0xC00000B7, 1) == KILL
    assert evaluate(standard_filter("x86_64"), 0xC000003E, 0x40000001) == ENOSYS
    with pytest.raises(Unsupported):
        standard_filter("riscv64")
