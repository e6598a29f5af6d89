"""Attacks that take more than their share. Each ends by itself, and frees what it took."""

from __future__ import annotations

import os
import signal
import sys
import time

__all__ = ["descriptors", "disk", "forks", "memory", "outlast", "output"]

PIECE = 1 << 20


def forks(count: int) -> str:
    """So many processes at once."""
    children: list[int] = []
    try:
        while len(children) < count:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    except OSError:
        return ""
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return f"{count} processes at once"


def memory(mib: int, hold: float) -> str:
    """So much memory, each page of it written."""
    held = []
    for _ in range(mib):
        held.append(bytearray(os.urandom(4096)) * (PIECE // 4096))
        time.sleep(0.002)  # whoever measures gets a chance to look
    time.sleep(hold)
    return f"{len(held)} MiB held"


def disk(directory: str, mib: int, hold: float = 0.0) -> str:
    """So many bytes in a directory."""
    path = os.path.join(directory, "filled")
    try:
        with open(path, "wb") as file:
            for _ in range(mib):
                file.write(os.urandom(4096) * (PIECE // 4096))
                file.flush()
                time.sleep(0.01)  # whoever measures gets a chance to look
            time.sleep(hold)
        return f"{mib} MiB in {directory}"
    finally:
        os.unlink(path)


def descriptors(count: int) -> str:
    """So many open files in one process."""
    held: list[int] = []
    try:
        while len(held) < count:
            held.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for descriptor in held:
            os.close(descriptor)
    return f"{count} files open"


def output(mib: int) -> str:
    """So much output that whoever keeps it all is in trouble; the answer comes last."""
    for _ in range(mib):
        sys.stdout.write("x" * (PIECE - 1) + "\n")
    return f"{mib} MiB said"


def outlast(seconds: float) -> str:
    """Longer than allowed, whatever signal asks for an end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(left)
    return f"still here after {seconds:g} s"
