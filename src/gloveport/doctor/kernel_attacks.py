"""Attacks on the kernel: every call that the filter refuses, by number and by argument, and the kernel's own files."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from gloveport.backends.bubblewrap.calls import REFUSED_CALLS
from gloveport.doctor.attack import Attack, AttackKind

__all__ = ["ARGUMENTS", "ONLY_FOR_ROOT", "kernel_attacks"]

_BAD = -1
ARGUMENTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "acct": (1,),
        "add_key": (0, 0, 0, 0, 0),
        "adjtimex": (0,),
        "bpf": (0, 0, 1 << 20),
        "chroot": (0,),
        "clock_adjtime": (0, 0),
        "clock_settime": (99, 0),
        "delete_module": (1, 0),
        "fanotify_init": (0x200, 0),
        "finit_module": (_BAD, 0, _BAD),
        "fsconfig": (_BAD, 99, 0, 0, 0),
        "fsmount": (_BAD, 0, 0),
        "fsopen": (0, 0),
        "fspick": (_BAD, 0, 0),
        "get_mempolicy": (0, 0, 0, 0, 0),
        "init_module": (0, 0, 0),
        "io_uring_enter": (_BAD, 0, 0, 0, 0, 0),
        "io_uring_register": (_BAD, 0, 0, 0),
        "io_uring_setup": (0, 0),
        "ioperm": (0, 1, 0),
        "iopl": (0,),
        "kcmp": (0, 0, 0, 0, 0),
        "kexec_file_load": (_BAD, _BAD, 0, 0, _BAD),
        "kexec_load": (0, 99, 0, _BAD),
        "keyctl": (9999, 0, 0, 0, 0),
        "lookup_dcookie": (0, 0, 0),
        "mbind": (0, 0, 0, 0, 0, 0),
        "migrate_pages": (0, _BAD, 0, 0),
        "modify_ldt": (0, 0, 0),
        "mount": (0, 0, 0, 0, 0),
        "mount_setattr": (_BAD, 0, 0, 0, 1),
        "move_mount": (_BAD, 0, _BAD, 0, _BAD),
        "move_pages": (0, 0, 0, 0, 0, 0),
        "name_to_handle_at": (_BAD, 0, 0, 0, _BAD),
        "nfsservctl": (0, 0, 0),
        "open_by_handle_at": (_BAD, 0, 0),
        "open_tree": (_BAD, 0, _BAD),
        "open_tree_attr": (_BAD, 0, _BAD, 0, 0),
        "perf_event_open": (0, 0, _BAD, _BAD, _BAD),
        "pidfd_getfd": (_BAD, 0, 0),
        "pivot_root": (0, 0),
        "process_madvise": (_BAD, 0, 0, 0, 1),
        "process_vm_readv": (0, 0, 0, 0, 0, 1),
        "process_vm_writev": (0, 0, 0, 0, 0, 1),
        "ptrace": (9999, 0, 0, 0),
        "quotactl": (0, 0, 0, 0),
        "quotactl_fd": (_BAD, 0, 0, 0),
        "reboot": (0, 0, 0, 0),
        "request_key": (0, 0, 0, 0),
        "sched_setaffinity": (0, 0, 0),
        "set_mempolicy": (0, 0, 0),
        "set_mempolicy_home_node": (0, 0, 0, 1),
        "setdomainname": (0, _BAD),
        "sethostname": (0, _BAD),
        "setns": (_BAD, 0),
        "settimeofday": (0, 1),
        "swapoff": (1,),
        "swapon": (0, _BAD),
        "syslog": (9999, 0, 0),
        "umount2": (0, _BAD),
        "unshare": (0x200,),
        "userfaultfd": (_BAD,),
        "vhangup": (),
    }
)
"""What each refused call is given: something that the kernel refuses too, but for a reason of its own."""
ONLY_FOR_ROOT = frozenset(
    (
        "acct",
        "delete_module",
        "finit_module",
        "init_module",
        "kexec_file_load",
        "kexec_load",
        "open_by_handle_at",
        "reboot",
        "swapoff",
        "syslog",
        "vhangup",
    )
)
"""The kernel itself refuses these to all but the host's root."""

_COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()] if platform.machine() in ("x86_64", "aarch64") else 0
_NEW_USER, _CHILD_SIGNAL = 0x10000000, 17
_NAMESPACES: Mapping[str, int] = MappingProxyType(
    {
        "time": 0x80,
        "mount": 0x20000,
        "cgroup": 0x2000000,
        "uts": 0x4000000,
        "ipc": 0x8000000,
        "user": _NEW_USER,
        "pid": 0x20000000,
        "network": 0x40000000,
    }
)
_CALLS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        **REFUSED_CALLS,
        "clone": (56, 220),
        "clone3": (435, 435),
        "ioctl": (16, 29),
        "personality": (135, 92),
        "socket": (41, 198),
        "socketpair": (53, 199),
    }
)
_BY_ARGUMENT: tuple[tuple[str, str, tuple[int, ...], str], ...] = (
    *((f"unshare-{name}-namespace", "unshare", (flag,), "EPERM") for name, flag in _NAMESPACES.items()),
    ("clone-into-user-namespace", "clone", (_NEW_USER | _CHILD_SIGNAL, 0, 0, 0, 0), "EPERM"),
    ("clone3", "clone3", (0, 0), "ENOSYS"),
    ("type-into-terminal", "ioctl", (-1, 0x5412, 0), "EPERM"),
    ("type-into-terminal-by-a-long-number", "ioctl", (-1, 0x5412 | 1 << 32, 0), "EPERM"),
    ("paste-into-console", "ioctl", (-1, 0x541C, 0), "EPERM"),
    ("take-console", "ioctl", (-1, 0x541D, 0), "EPERM"),
    ("load-line-discipline", "ioctl", (-1, 0x5423, 0), "EPERM"),
    ("fixed-addresses", "personality", (0x40000,), "EPERM"),
    ("executable-data", "personality", (0x400000,), "EPERM"),
    ("socket-to-hypervisor", "socket", (40, 1, 0), "EAFNOSUPPORT"),
    ("socket-packet", "socket", (17, 3, 0), "EAFNOSUPPORT"),
    ("socket-crypto", "socket", (38, 5, 0), "EAFNOSUPPORT"),
    ("socket-xdp", "socket", (44, 3, 0), "EAFNOSUPPORT"),
    ("netlink-audit", "socket", (16, 3, 9), "EPROTONOSUPPORT"),
    ("netlink-socket-lists", "socket", (16, 3, 4), "EPROTONOSUPPORT"),
    ("netlink-firewall", "socket", (16, 3, 12), "EPROTONOSUPPORT"),
    ("netlink-device-events", "socket", (16, 3, 15), "EPROTONOSUPPORT"),
    ("socket-raw", "socket", (2, 3, 1), "EPERM"),
    ("socket-raw-ipv6", "socket", (10, 3, 58), "EPERM"),
    ("socket-old-packet", "socket", (2, 10, 0x300), "EPERM"),
    ("socket-sctp", "socket", (2, 1, 132), "EPROTONOSUPPORT"),
    ("socket-mptcp", "socket", (2, 1, 262), "EPROTONOSUPPORT"),
    ("pair-of-internet-sockets", "socketpair", (2, 1, 0, 0), "EAFNOSUPPORT"),
)
_FILTER = "system-call filter"


def kernel_attacks() -> Iterator[Attack]:
    """All of them, for this machine's kind of processor."""
    for name, words in ARGUMENTS.items():
        if REFUSED_CALLS[name][_COLUMN] >= 0:
            yield _call(name.replace("_", "-"), name, words, "EPERM", on_host=name in ONLY_FOR_ROOT)
    for name, call, words, refused in _BY_ARGUMENT:
        yield _call(name, call, words, refused)
    if _COLUMN == 0:
        yield Attack(
            name="escape/call-x32",
            kind=AttackKind.ESCAPE,
            guard=_FILTER,
            run="kernel:call",
            arguments={"number": 39 | 0x40000000, "words": [], "refused": "ENOSYS"},
            optional=True,
        )
        yield Attack(
            name="escape/call-32-bit",
            kind=AttackKind.ESCAPE,
            guard=_FILTER,
            run="kernel:call_32_bit",
            optional=True,
        )
    yield from _files()


def _call(name: str, call: str, words: tuple[int, ...], refused: str, *, on_host: bool = False) -> Attack:
    # Who has a user namespace of its own can make no other in it.
    own = "user-namespace" not in name and not on_host
    arguments = {"number": _CALLS[call][_COLUMN], "words": list(words), "refused": refused}
    return Attack(
        name=f"escape/{name}",
        kind=AttackKind.ESCAPE,
        guard=_FILTER,
        run="kernel:call",
        arguments={**arguments, "power": _CALLS["unshare"][_COLUMN] if own else 0},
        on_host=on_host,
        optional=refused in ("EAFNOSUPPORT", "EPROTONOSUPPORT"),
    )


def _files() -> Iterator[Attack]:
    for path in ("/proc/self/comm", "/proc/self/oom_score_adj"):
        yield Attack(
            name=f"escape/write{path.replace('/', '-').replace('_', '-')}",
            kind=AttackKind.ESCAPE,
            guard="Landlock",
            run="kernel:open_file",
            arguments={"path": path, "write": True},
        )
    for name in ("interrupts", "keys", "timer_list", "acpi", "asound", "scsi", "sched_debug"):
        yield Attack(
            name=f"host-leak/read-proc-{name.replace('_', '-')}",
            kind=AttackKind.HOST_LEAK,
            guard="covered /proc",
            run="files:read",
            arguments={"path": f"/proc/{name}"},
            optional=True,
        )
    yield Attack(
        name="host-leak/kernel-addresses",
        kind=AttackKind.HOST_LEAK,
        guard="covered /proc",
        run="kernel:read_addresses",
        optional=True,
    )
    yield Attack(
        name="escape/settings-mounted-for-writing",
        kind=AttackKind.ESCAPE,
        guard="read-only /proc/sys",
        run="kernel:writable_mount",
        arguments={"path": "/proc/sys"},
    )
    yield Attack(
        name="escape/hold-capabilities",
        kind=AttackKind.ESCAPE,
        guard="Linux capabilities dropped",
        run="kernel:power",
    )
