"""Compiling the guest programs."""

from __future__ import annotations

import importlib.util
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "build_backend" / "guest_programs.py"
MACHINES = {"x86_64": 62, "aarch64": 183}
PT_INTERP = 3


def compile_for(directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(directory)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)


def machine_and_interpreter(program: Path) -> tuple[int, bool]:
    """The ELF machine, and whether a dynamic loader is asked for."""
    data = program.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01"
    (machine,) = struct.unpack_from("<H", data, 18)
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    kinds = [struct.unpack_from("<I", data, offset + size * i)[0] for i in range(count)]
    return machine, PT_INTERP in kinds


def test_the_programs_of_this_machine_are_static(programs: Path) -> None:
    for name in ("guestd", "launch"):
        assert machine_and_interpreter(programs / name) == (MACHINES[platform.machine()], False)


@pytest.mark.parametrize("arch", MACHINES)
def test_ziglang_compiles_for_both_machines(tmp_path: Path, arch: str) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    done = compile_for(tmp_path, GLOVEPORT_BUILD_ARCH=arch, CC="/nonesuch")
    assert done.returncode == 0, done.stderr
    for name in ("guestd", "launch"):
        assert machine_and_interpreter(tmp_path / name) == (MACHINES[arch], False)


def test_without_a_compiler_the_remedy_is_named(tmp_path: Path) -> None:
    done = compile_for(tmp_path, GLOVEPORT_BUILD_ARCH="nonesuch")
    assert done.returncode == 1
    assert "pip install ziglang" in done.stderr
