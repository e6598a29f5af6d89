"""Compiles `guestd` and `launch`: small static Linux programs, with `cc` or else with the `ziglang` wheel."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ARCH_VARIABLE", "SOURCES", "Compiler", "build", "find_compiler", "target_arch"]

ARCH_VARIABLE = "GLOVEPORT_BUILD_ARCH"
"""Environment variable: the machine to compile for, when it is not this one."""

SOURCES = Path(__file__).resolve().parent.parent / "src" / "gloveport" / "guest"
_ALONE = "launch.c"
"""Every other source in the directory is a part of guestd."""

_ARCHES = ("x86_64", "aarch64")
_FLAGS = (
    "-std=c11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fstack-protector-strong",
    "-U_FORTIFY_SOURCE",
    "-D_FORTIFY_SOURCE=2",
    "-s",
    "-Wl,-z,relro,-z,now,-z,noexecstack",
)
_STATIC = (("-fPIE", "-static-pie"), ("-fPIE", "-pie", "-static"), ("-static",))
"""Best first: a static program at a random address needs a C library built for it."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler that makes static programs, and how to tell it to."""

    command: Sequence[str]
    static: Sequence[str]


def target_arch() -> str:
    """The machine the programs are for."""
    return os.environ.get(ARCH_VARIABLE) or platform.machine()


def find_compiler(*, zig: bool) -> Compiler | None:
    """The compiler to use, or None without one; `zig` allows the `ziglang` wheel if it is installed."""
    arch = target_arch()
    candidates: list[list[str]] = []
    if arch == platform.machine():
        candidates.append(shlex.split(os.environ.get("CC", "cc")))
    if zig and arch in _ARCHES and importlib.util.find_spec("ziglang") is not None:
        candidates.append([sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-musl"])
    for command in candidates:
        for static in _STATIC:
            if _links(command, static):
                return Compiler(command, static)
    return None


def build(directory: Path) -> None:
    """Compile both programs into `directory`, each replaced at once; ends with the remedy on failure."""
    compiler = find_compiler(zig=True)
    if compiler is None:
        sys.exit(
            f"error: no compiler here can link a static program for {target_arch()}\n"
            "  next: pip install ziglang (or cc with a static C library), then install gloveport again"
        )
    directory.mkdir(exist_ok=True)
    parts = sorted(source for source in SOURCES.glob("*.c") if source.name != _ALONE)
    _compile(compiler, parts, directory / "guestd")
    _compile(compiler, [SOURCES / _ALONE], directory / "launch")


def _compile(compiler: Compiler, sources: Sequence[Path], program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=program.parent, prefix=".build-") as scratch:
        output = Path(scratch) / program.name
        command = [*compiler.command, *_FLAGS, *compiler.static, "-o", str(output), *map(str, sources)]
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(f"error: {program.name} does not compile\n  next: read the compiler's messages above")
        output.replace(program)


def _links(command: Sequence[str], static: Sequence[str]) -> bool:
    """Whether a program that uses the C library can be made."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "probe.c"
        source.write_text('#include <stdio.h>\nint main(void) { return puts("") < 0; }\n')
        try:
            done = subprocess.run(
                [*command, *_FLAGS, *static, "-o", str(source.with_suffix("")), str(source)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        except OSError:
            return False
        return done.returncode == 0


if __name__ == "__main__":
    build(Path(sys.argv[1]))
