"""The system-call filter `standard`: a classic BPF program that refuses what no build, test or tool needs."""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass
from typing import Final

from gloveport.errors import Unsupported

__all__ = ["REFUSED_CALLS", "standard_filter"]

REFUSED_CALLS: Final[dict[str, tuple[int, int]]] = {
    # name: (x86-64, arm64); -1 where the architecture has no such call
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
"""Answered with EPERM."""

_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_IOCTL = {"x86_64": 16, "aarch64": 29}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
# CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NAMESPACE_FLAGS = 0x80 | 0x20000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C
_AF_VSOCK = 40
_AF_PACKET = 17

_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_GE, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL = 0x80000000
_NUMBER, _ARCH = 0, 4
_ARGUMENT = (16, 24)  # low halves of the first two; the kernel compares nothing wider here


@dataclass(frozen=True, slots=True)
class _Instruction:
    code: int
    value: int
    if_true: int = 0
    if_false: int = 0

    def pack(self) -> bytes:
        return struct.pack("<HBBI", self.code, self.if_true, self.if_false, self.value)


def standard_filter(machine: str | None = None) -> bytes:
    """The program as bytes for `PR_SET_SECCOMP`. Raises `Unsupported` for an unknown architecture."""
    arch = machine or platform.machine()
    if arch not in _AUDIT_ARCH:
        raise Unsupported(f"no system-call filter for {arch}", hint="gloveport runs on x86-64 and arm64")
    column = 0 if arch == "x86_64" else 1
    refuse = _Instruction(_RETURN, _ERRNO | errno.EPERM)
    program = [
        _Instruction(_LOAD, _ARCH),
        _Instruction(_JUMP_EQUAL, _AUDIT_ARCH[arch], if_true=1),
        _Instruction(_RETURN, _KILL),
        _Instruction(_LOAD, _NUMBER),
    ]
    if arch == "x86_64":
        program += [
            _Instruction(_JUMP_GE, _X32_BIT, if_false=1),
            _Instruction(_RETURN, _ERRNO | errno.ENOSYS),
        ]
    # clone3 hides its flags in memory, where a filter cannot look: libc falls back to clone.
    program += [_Instruction(_JUMP_EQUAL, _CLONE3, if_false=1), _Instruction(_RETURN, _ERRNO | errno.ENOSYS)]
    for numbers in REFUSED_CALLS.values():
        program += [_Instruction(_JUMP_EQUAL, numbers[column], if_false=1), refuse]
    program += _argument_test(_CLONE[arch], 0, _JUMP_SET, (_NAMESPACE_FLAGS,))
    program += _argument_test(_IOCTL[arch], 1, _JUMP_EQUAL, (_TIOCSTI, _TIOCLINUX))
    program += _argument_test(_SOCKET[arch], 0, _JUMP_EQUAL, (_AF_VSOCK, _AF_PACKET))
    program.append(_Instruction(_RETURN, _ALLOW))
    return b"".join(instruction.pack() for instruction in program)


def _argument_test(number: int, argument: int, test: int, values: tuple[int, ...]) -> list[_Instruction]:
    """Refuse call `number` when its argument passes `test` against any of `values`."""
    tests: list[_Instruction] = []
    for value in values:
        tests += [_Instruction(test, value, if_false=1), _Instruction(_RETURN, _ERRNO | errno.EPERM)]
    body = [_Instruction(_LOAD, _ARGUMENT[argument]), *tests, _Instruction(_LOAD, _NUMBER)]
    return [_Instruction(_JUMP_EQUAL, number, if_false=len(body)), *body]
