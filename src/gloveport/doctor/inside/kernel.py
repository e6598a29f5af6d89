"""Attacks on the kernel: calls, files of `/proc` and `/sys`, and what a process is told of its own powers."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

__all__ = ["call", "call_32_bit", "mount", "open_file", "power", "read_addresses", "writable_mount"]

NEW_USER, NEW_MOUNT, NEW_UTS, NEW_NET = 0x10000000, 0x20000, 0x4000000, 0x40000000


def _call(number: int, *words: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    answer = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, words))
    return errno.errorcode[ctypes.get_errno()] if answer < 0 else "success"


def call(number: int, words: list[int], refused: str, power: int = 0) -> str:
    """Whether a call gets past the filter, which answers `refused`.

    With `power`, the number of `unshare`, as root of namespaces of its own where it can have them: then the kernel
    refuses it for other reasons than want of power.
    """
    if power:
        _call(power, NEW_USER | NEW_MOUNT | NEW_UTS | NEW_NET)
    parent = os.getpid()
    answer = _call(number, *words)
    if os.getpid() != parent:
        os._exit(0)
    return "" if answer == refused else f"the kernel answered {answer}"


def call_32_bit() -> str:
    """`getpid` through the gate for 32-bit programs, which a filter for 64-bit numbers would misread."""
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(bytes([0x53, 0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0x5B, 0xC3]))
    run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return "the kernel answered" if run() == os.getpid() else ""


def open_file(path: str, write: bool = False) -> str:
    """Whether a file of the kernel opens."""
    os.close(os.open(path, os.O_WRONLY if write else os.O_RDONLY))
    return f"{path} is open"


def read_addresses() -> str:
    """Where the kernel's own functions are in memory."""
    with open("/proc/kallsyms") as symbols:
        found = [line for line, _ in zip(symbols, range(1000), strict=False) if int(line.split()[0], 16)]
    return found[0].strip() if found else ""


def mount(unshare: int) -> str:
    """A file system of one's own in a namespace of one's own."""
    if _call(unshare, NEW_USER | NEW_MOUNT) != "success":
        return ""
    libc = ctypes.CDLL(None, use_errno=True)
    return "mounted" if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0 else ""


def power() -> str:
    """Linux capabilities, in any of the five sets."""
    with open("/proc/self/status") as status:
        sets = dict(line.split(":\t") for line in status if line.startswith("Cap"))
    return ", ".join(f"{name} {value.strip()}" for name, value in sets.items() if int(value, 16))


def writable_mount(path: str) -> str:
    """Whether a path is on a file system that is mounted for writing."""
    return "" if os.statvfs(path).f_flag & os.ST_RDONLY else f"{path} is mounted for writing"
