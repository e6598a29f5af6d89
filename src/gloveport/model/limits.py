"""Bounds on one sandbox, and the units that sizes are in."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GIB", "KIB", "MIB", "Limits"]

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one sandbox. Every one is enforced or the sandbox does not start."""

    exec_seconds: float = 600.0
    """Wall time of one exec that names none itself, in seconds."""
    sandbox_seconds: float = 4 * 3600.0
    """Wall time of the sandbox; then it is stopped, in seconds."""
    memory_bytes: int = 2 * GIB
    """Resident memory of all processes together, its tmpfs included."""
    processes: int = 512
    """Processes and threads alive at once."""
    open_files: int = 4096
    """Open descriptors of one process."""
    disk_bytes: int = 8 * GIB
    """What the workspace may grow by, each entry counting 4 KiB at least; also the largest single file. Measured at
    intervals, so that a fast writer passes it by what it writes between two looks. At most a million entries."""
    tmp_bytes: int = 512 * MIB
    """Size of each of `/tmp`, the home directory and `/dev/shm`; never more than a quarter of `memory_bytes`."""
    output_bytes: int = 10 * MIB
    """Bytes kept of each output stream of one exec; the rest is counted and dropped."""
    cpus: float | None = None
    """CPU time per second of wall time; `None` leaves it to the host's scheduler."""
