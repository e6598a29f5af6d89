"""The PEP 517 backend: setuptools, plus the two static Linux programs that a wheel of Gloveport carries.

`ziglang` is asked for only where the system has no compiler that links statically. On anything but Linux a
wheel carries no programs: such a host can only talk to runners elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from guest_programs import ARCH_VARIABLE, SOURCES, build, find_compiler, target_arch
from setuptools import build_meta  # type: ignore[import-untyped]  # it ships no types
from setuptools.build_meta import (  # type: ignore[import-untyped]
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_PROGRAMS = SOURCES / "bin"
_ZIG = "ziglang>=0.15"

_Settings = Mapping[str, Any] | None


def get_requires_for_build_wheel(config_settings: _Settings = None) -> list[str]:
    """Setuptools' own requirements, and a compiler where there is none."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_compiler_requirement()]


def get_requires_for_build_editable(config_settings: _Settings = None) -> list[str]:
    """As for a wheel."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_compiler_requirement()]


def build_wheel(wheel_directory: str, config_settings: _Settings = None, metadata_directory: str | None = None) -> str:
    """A wheel with the programs for `GLOVEPORT_BUILD_ARCH` or this machine; the source tree stays as is."""
    if not _has_programs():
        return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))
    settings = {**(config_settings or {}), "--build-option": ["--plat-name", f"linux_{target_arch()}"]}
    with _programs_set_aside():
        build(_PROGRAMS)
        return str(build_meta.build_wheel(wheel_directory, settings, metadata_directory))


def build_editable(
    wheel_directory: str, config_settings: _Settings = None, metadata_directory: str | None = None
) -> str:
    """An editable install; the programs are compiled into the source tree, where git ignores them."""
    if _has_programs():
        build(_PROGRAMS)
    return str(build_meta.build_editable(wheel_directory, config_settings, metadata_directory))


def _has_programs() -> bool:
    return sys.platform == "linux" or ARCH_VARIABLE in os.environ


def _compiler_requirement() -> list[str]:
    return [_ZIG] if _has_programs() and find_compiler(zig=False) is None else []


@contextlib.contextmanager
def _programs_set_aside() -> Iterator[None]:
    """Keeps an editable install's programs away from those of a wheel, which may be for another machine."""
    with tempfile.TemporaryDirectory() as scratch:
        aside = Path(scratch) / _PROGRAMS.name
        if _PROGRAMS.is_dir():
            shutil.move(_PROGRAMS, aside)
        try:
            yield
        finally:
            shutil.rmtree(_PROGRAMS, ignore_errors=True)
            if aside.is_dir():
                shutil.move(aside, _PROGRAMS)
