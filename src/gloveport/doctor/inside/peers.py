"""Attacks on a neighbour: another sandbox of the same host."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import sys

__all__ = ["dwell", "occupies", "overwrites", "sees", "segment", "signals"]

KEY = 0x676C6F76


def _shared(flags: int) -> int:
    return int(ctypes.CDLL(None, use_errno=True).shmget(KEY, 4096, flags))


def dwell(port: int) -> str:
    """Not an attack: the neighbour, with a process, a memory segment and a port that others might find."""
    _shared(0o1666)
    listening = socket.create_server(("127.0.0.1", port))
    print("ready", flush=True)
    while True:
        accepted, _ = listening.accept()
        accepted.sendall(b"reached 127.0.0.1 the neighbour\n")
        accepted.close()


def _processes(mark: str) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if mark.encode() in file.read() and int(name) not in (os.getpid(), os.getppid()):
                    found.append(int(name))
        except OSError:
            continue
    return found


def sees(mark: str) -> str:
    """A process that is not the guest's."""
    found = _processes(mark)
    return f"process {found[0]}" if found else ""


def signals(mark: str) -> str:
    """A signal to a process that is not the guest's."""
    for process in _processes(mark):
        os.kill(process, signal.SIGCONT)
        return f"process {process} can be signalled"
    return ""


def segment() -> str:
    """System V shared memory of somebody else."""
    return f"segment {found}" if (found := _shared(0)) >= 0 else ""


def overwrites() -> str:
    """Somebody else's shared memory, written over."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    found = _shared(0)
    place = libc.shmat(found, None, 0) if found >= 0 else None
    if place in (None, ctypes.c_void_p(-1).value):
        return ""
    ctypes.memset(place, 0x41, 16)
    return f"segment {found} is written over"


def occupies(port: int) -> str:
    """A port that cannot be had, because somebody else has it: so theirs could be taken."""
    with socket.socket() as taking:
        try:
            taking.bind(("127.0.0.1", port))
        except OSError as error:
            return f"port {port} is somebody else's" if error.errno == errno.EADDRINUSE else ""
    return ""


if __name__ == "__main__":
    dwell(int(sys.argv[1]))
