"""The system-call filter `standard`: a classic BPF program that lets through what builds, tests and tools need."""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gloveport.backends.bubblewrap.calls import ABSENT, REFUSED_CALLS, allowed_calls
from gloveport.errors import Unsupported

__all__ = ["standard_filter"]

_CLONE, _CLONE3 = (56, 220), (435, 435)
_IOCTL = (16, 29)
_PERSONALITY = (135, 92)
_SOCKET, _SOCKETPAIR = (41, 198), (53, 199)
_OPEN, _OPENAT = (2, ABSENT), (257, 56)
_OPENAT2 = (437, 437)
_MODES: Final = {
    # which argument is the mode: numbers of such calls
    1: {"chmod": (90, ABSENT), "creat": (85, ABSENT), "fchmod": (91, 52), "mknod": (133, ABSENT)},
    2: {"fchmodat": (268, 53), "fchmodat2": (452, 452), "mknodat": (259, 33)},
}
"""Making directories is not here: the kernel takes no such bit there."""
_ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine → column of the numbers above and in `calls`, AUDIT_ARCH."""
_NUMBERS_END = 512
"""No architecture has calls from here on but for another way to call, such as x32."""

# CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NAMESPACE_FLAGS = 0x80 | 0x20000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_TERMINAL_REQUESTS = (0x5412, 0x541C, 0x541D, 0x5423)
"""TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD: typing for others, the console, and line disciplines."""
_PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX and PER_LINUX32, each also with UNAME26, and the question for the present one: none weakens a process."""
_SET_USER = 0o4000
"""S_ISUID: on a file in a host path it would lend the host's user to whoever runs it there."""
_MAKES_FILE = 0x40 | 0x400000
"""O_CREAT, __O_TMPFILE: without them the mode is not looked at, and may be anything."""
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0
_SOCKET_TYPES = (1, 2)
"""SOCK_STREAM, SOCK_DGRAM: neither raw nor packet nor anything that a kernel module would be loaded for."""
_SOCKET_TYPE_MASK = 0xF
_PROTOCOLS = (0, 6, 17)
"""The type's own, TCP, UDP."""

_LOAD, _AND, _JUMP_EQUAL, _JUMP_SET, _JUMP_GE, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x35, 0x06
_LONGEST_JUMP = 255
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL = 0x80000000
_NUMBER, _ARCH = 0, 4
_ARGUMENTS = (16, 24, 32, 40)
"""The low halves of the first four. The kernel, too, takes each that is looked at here as 32 bits."""


@dataclass(frozen=True, slots=True)
class _Instruction:
    code: int
    value: int
    if_true: int = 0
    if_false: int = 0

    def pack(self) -> bytes:
        return struct.pack("<HBBI", self.code, self.if_true, self.if_false, self.value)


_Block = tuple[_Instruction, ...]
"""Instructions of which the last ones return."""
_PASS: _Block = (_Instruction(_RETURN, _ALLOW),)


def standard_filter(machine: str | None = None) -> bytes:
    """The program as bytes for `PR_SET_SECCOMP`. Raises `Unsupported` for an unknown architecture."""
    arch = machine or platform.machine()
    if arch not in _ARCHITECTURES:
        raise Unsupported(f"no system-call filter for {arch}", hint="gloveport runs on x86-64 and arm64")
    column, audit = _ARCHITECTURES[arch]
    program = (
        _Instruction(_LOAD, _ARCH),
        _Instruction(_JUMP_EQUAL, audit, if_true=1),
        _Instruction(_RETURN, _KILL),
        _Instruction(_LOAD, _NUMBER),
        *_choose(_ranges(_answers(column))),
    )
    return b"".join(instruction.pack() for instruction in program)


def _answers(column: int) -> dict[int, _Block]:
    """Number → what is done about the call."""
    refused = (numbers[column] for numbers in REFUSED_CALLS.values())
    answers = dict.fromkeys(allowed_calls(column).values(), _PASS)
    answers |= {number: _refuse(errno.EPERM) for number in refused if number != ABSENT}
    answers |= {
        _CLONE[column]: (_load(0), *_if(_JUMP_SET, (_NAMESPACE_FLAGS,), _refuse(errno.EPERM)), *_PASS),
        # These hide what matters in memory, where a filter cannot look: programs fall back to clone and openat.
        _CLONE3[column]: _refuse(errno.ENOSYS),
        _OPENAT2[column]: _refuse(errno.ENOSYS),
        _IOCTL[column]: (_load(1), *_if(_JUMP_EQUAL, _TERMINAL_REQUESTS, _refuse(errno.EPERM)), *_PASS),
        _PERSONALITY[column]: (_load(0), *_if(_JUMP_EQUAL, _PERSONALITIES, _PASS), *_refuse(errno.EPERM)),
        _SOCKET[column]: _judge_socket(),
        _SOCKETPAIR[column]: (_load(0), *_if(_JUMP_EQUAL, (_AF_UNIX,), _PASS), *_refuse(errno.EAFNOSUPPORT)),
    }
    answers |= {
        numbers[column]: _judge_mode(argument)
        for argument, calls in _MODES.items()
        for numbers in calls.values()
        if numbers[column] != ABSENT
    }
    answers |= {
        numbers[column]: (_load(flags), *_if(_JUMP_SET, (_MAKES_FILE,), _judge_mode(flags + 1)), *_PASS)
        for flags, numbers in ((1, _OPEN), (2, _OPENAT))
        if numbers[column] != ABSENT
    }
    return answers


def _judge_mode(argument: int) -> _Block:
    """By the mode of a file. Set-group-ID passes: a filter sees no directory, where it is of use and no harm."""
    return (_load(argument), *_if(_JUMP_SET, (_SET_USER,), _refuse(errno.EPERM)), *_PASS)


def _judge_socket() -> _Block:
    """By family, type and protocol. `getifaddrs` of libc asks netlink for routes; nothing else there is needed."""
    netlink = (_load(2), *_if(_JUMP_EQUAL, (_NETLINK_ROUTE,), _PASS), *_refuse(errno.EPROTONOSUPPORT))
    protocol = (_load(2), *_if(_JUMP_EQUAL, _PROTOCOLS, _PASS), *_refuse(errno.EPROTONOSUPPORT))
    internet = (
        _load(1),
        _Instruction(_AND, _SOCKET_TYPE_MASK),
        *_if(_JUMP_EQUAL, _SOCKET_TYPES, protocol),
        *_refuse(errno.EPERM),
    )
    return (
        _load(0),
        *_if(_JUMP_EQUAL, (_AF_UNIX,), _PASS),
        *_if(_JUMP_EQUAL, (_AF_NETLINK,), netlink),
        *_if(_JUMP_EQUAL, (_AF_INET, _AF_INET6), internet),
        *_refuse(errno.EAFNOSUPPORT),
    )


def _refuse(reason: int) -> _Block:
    return (_Instruction(_RETURN, _ERRNO | reason),)


def _load(argument: int) -> _Instruction:
    return _Instruction(_LOAD, _ARGUMENTS[argument])


def _if(test: int, values: Sequence[int], then: _Block) -> _Block:
    """`then` when what was loaded passes `test` against any of `values`, else what follows."""
    last = len(values) - 1
    tests = [
        _Instruction(test, value, if_true=last - at, if_false=len(then) if at == last else 0)
        for at, value in enumerate(values)
    ]
    return (*tests, *then)


def _ranges(answers: Mapping[int, _Block]) -> list[tuple[int, _Block]]:
    """(first number, answer) of each run of numbers with the same answer; what nobody named does not exist."""
    unknown = _refuse(errno.ENOSYS)
    ranges: list[tuple[int, _Block]] = []
    for number in range(_NUMBERS_END + 1):
        answer = answers.get(number, unknown)
        if not ranges or ranges[-1][1] != answer:
            ranges.append((number, answer))
    return ranges


def _choose(ranges: Sequence[tuple[int, _Block]]) -> _Block:
    """A search by halves, so that no call waits for the whole table."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, above = _choose(ranges[:middle]), _choose(ranges[middle:])
    if len(below) > _LONGEST_JUMP:
        raise AssertionError("the filter has outgrown its jumps")
    return (_Instruction(_JUMP_GE, ranges[middle][0], if_true=len(below)), *below, *above)
