"""From a spec to a plan: what exactly a sandbox will consist of, decided before anything is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from gloveport.errors import InvalidRequest, NotFound, PolicyDenied
from gloveport.model import (
    MIB,
    WORKSPACE,
    Assembled,
    Bind,
    DevMount,
    Limits,
    Link,
    MountOperation,
    Overlay,
    Plan,
    ProcMount,
    Spec,
    Tmpfs,
)
from gloveport.policy.decide import LARGEST_OUTPUT, LONGEST_SECONDS, encode_text
from gloveport.policy.host import HostView, installation, toolchain, virtual_environment_base

__all__ = ["GUEST_TOOLS", "PlanInputs", "check_limits", "compile_plan", "own_etc"]

GUEST_HOME = "/home/guest"
GUEST_TOOLS = "/run/gloveport/bin"
"""Where the platform's own helpers for the guest are."""
GUEST_UID = 1000
SHELL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_BOUNDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "exec_seconds": (0.001, LONGEST_SECONDS),
        "sandbox_seconds": (0.001, LONGEST_SECONDS),
        "memory_bytes": (16 * MIB, 2**50),
        "processes": (1, 4_194_304),
        "open_files": (8, 1_048_576),
        "disk_bytes": (1, 2**60),
        "tmp_bytes": (1, 2**60),
        "output_bytes": (0, LARGEST_OUTPUT),
        "cpus": (0.01, 8192),
    }
)
"""The least and the most of each limit: guestd and a shell start with the least, Linux takes the most."""

REFUSED_PATHS = (
    "/",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/tmp",
    "/var",
    "/var/run",
)
"""Host directories that are never shown whole: they hold secrets, sockets or the kernel's controls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
    """What a plan is made of beside the spec."""

    sandbox: str
    host: HostView
    lower: str | None
    """The directory under the workspace, or `None`."""
    tools: tuple[tuple[str, str], ...] = ()
    """Helpers for the guest: (name, host path)."""


def compile_plan(spec: Spec, inputs: PlanInputs) -> Plan:
    """The plan of one sandbox. Pure but for looking at whether named host paths exist.

    Raises `InvalidRequest`, `NotFound` for what does not exist, `PolicyDenied` for what must not be shown.
    """
    check_limits(spec.limits)
    shown, extra_path = _visible(spec, inputs.host)
    mounts: list[MountOperation] = []
    mounts += _root(spec, inputs.host)
    mounts += [ProcMount(), DevMount()]
    # All three full still leave a quarter of the memory, so that a command can tidy up.
    size = min(spec.limits.tmp_bytes, spec.limits.memory_bytes // 4)
    mounts += [Tmpfs("/tmp", size, 0o1777), Tmpfs("/dev/shm", size, 0o1777), Tmpfs(GUEST_HOME, size, 0o700)]
    mounts += [Bind(path, path) for path in shown]
    mounts += [Bind(source, f"{GUEST_TOOLS}/{name}") for name, source in inputs.tools]
    mounts.append(Overlay(inputs.lower, WORKSPACE))
    return Plan(
        sandbox=inputs.sandbox,
        mounts=tuple(mounts),
        env=_environment(spec, extra_path),
        uid=GUEST_UID,
        gid=GUEST_UID,
        limits=spec.limits,
    )


def check_limits(limits: Limits) -> None:
    """Raise `InvalidRequest` for limits that cannot mean anything, or that no kernel can keep."""
    for name, (least, most) in _BOUNDS.items():
        value = getattr(limits, name)
        if value is not None and not least <= value <= most:  # true of a NaN too
            raise InvalidRequest(
                f"the limit {name} is out of range",
                hint=f"{least:g} to {most:g}; leave it out for the default",
                limit=name,
            )


def _root(spec: Spec, host: HostView) -> list[MountOperation]:
    if spec.image is not None:
        return _image_root(Path(spec.image))
    mounts: list[MountOperation] = [Bind(path, path) for path in host.directories]
    mounts += [Link(target, path) for path, target in host.links]
    mounts.append(Assembled("/etc", own_etc(), host.etc))
    return mounts


def _image_root(image: Path) -> list[MountOperation]:
    if not image.is_absolute() or not image.is_dir():
        raise NotFound(
            f"the image {str(image)!r} is not a directory here",
            hint="the bubblewrap backend takes an unpacked root file system: give its absolute path",
        )
    mounts: list[MountOperation] = []
    for entry in sorted(image.iterdir()):
        name = f"/{entry.name}"
        if name in ("/proc", "/dev", "/sys", "/run", "/tmp", "/home", "/root", WORKSPACE):
            continue
        if entry.is_symlink():
            mounts.append(Link(str(entry.readlink()), name))
        else:
            mounts.append(Bind(str(entry), name))
    return mounts


def own_etc() -> dict[str, str]:
    """The files of `/etc` that every sandbox gets anew: one user, one host, no directory service."""
    return {
        "passwd": f"guest:x:{GUEST_UID}:{GUEST_UID}:guest:{GUEST_HOME}:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n",
        "group": f"guest:x:{GUEST_UID}:\nnogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost gloveport\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n",
        "resolv.conf": "",
    }


def _visible(spec: Spec, host: HostView) -> tuple[tuple[str, ...], tuple[str, ...]]:
    shown: list[str] = []
    path: list[str] = []
    if spec.language is not None:
        found = toolchain(spec.language, host)
        if found is None:
            raise NotFound(
                f"no {spec.language!r} toolchain on this host",
                hint="install it, or leave --language out and name its directory with --read-only",
            )
        shown += found[0]
        path += found[1]
    for text in spec.read_only:
        for directory in _checked_path(text):
            if directory not in shown:
                shown.append(directory)
        root = Path(text)
        base = virtual_environment_base(root)
        if base is not None:
            shown += [d for d in installation((base / "python3").absolute(), host)[0] if d not in shown]
        if (root / "bin").is_dir():
            path.append(str(root / "bin"))
    return tuple(shown), tuple(path)


def _checked_path(text: str) -> tuple[str, ...]:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts:
        raise InvalidRequest(f"not an absolute path: {text!r}", hint="name the whole path, without ..")
    if not Path(text).exists():
        raise NotFound(f"no such path on this host: {text}", hint="check --read-only")
    real = str(Path(text).resolve())
    for candidate in {str(path), real}:
        if candidate in REFUSED_PATHS or candidate.startswith(("/proc/", "/sys/", "/dev/", "/run/")):
            raise PolicyDenied(
                f"{text} is never shown to a sandbox",
                hint="name the one directory below it that the sandbox needs",
                rule="built-in: sensitive host paths",
            )
        if Path(candidate).is_socket():
            raise PolicyDenied(f"{text} is a socket", hint="sockets are not shown", rule="built-in: no sockets")
    return tuple(dict.fromkeys((str(path), real)))


def _environment(spec: Spec, extra_path: tuple[str, ...]) -> dict[str, str]:
    for name, value in spec.env.items():
        encode_text(name, "the name of a variable")
        encode_text(value, f"the variable {name}")
        if not name or "=" in name or "\0" in name:
            raise InvalidRequest(f"not a variable name: {name!r}", hint="write --env NAME=value")
    path = ":".join((*extra_path, SHELL_PATH, GUEST_TOOLS))
    return {
        "HOME": GUEST_HOME,
        "LANG": "C.UTF-8",
        "LOGNAME": "guest",
        "PATH": path,
        "SHELL": "/bin/bash",
        "TERM": "dumb",
        "TMPDIR": "/tmp",
        "USER": "guest",
        **spec.env,
    }
