"""From a spec to a plan: what exactly a sandbox will consist of, decided before anything is made."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from gloveport.errors import InvalidRequest, NotFound, PolicyDenied
from gloveport.model import (
    EGRESS_PORT,
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
from gloveport.policy.combine import check_allowed, combine, hide, hide_copies, writable
from gloveport.policy.decide import LARGEST_OUTPUT, LONGEST_SECONDS, check_environment
from gloveport.policy.egress.inspecting import inspects_any
from gloveport.policy.egress.rules import has_proxy
from gloveport.policy.files.guest_places import GUEST_TOOLS
from gloveport.policy.files.host import HostView
from gloveport.policy.files.showing import check_shown, is_within
from gloveport.policy.files.sockets import check_no_socket
from gloveport.policy.files.toolchains import Installation, find_interpreter, find_toolchain
from gloveport.policy.files.writable import check_writable

__all__ = [
    "GUEST_TOOLS",
    "PlanInputs",
    "check_limits",
    "check_plan",
    "compile_plan",
    "is_fetched",
    "is_sealed",
    "own_etc",
]

GUEST_HOME = "/home/guest"
GUEST_TRUST = "/run/gloveport/trust.pem"
"""Where the certificates are that a guest trusts whose TLS is looked into."""
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

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
    """What a plan is made of beside the spec."""

    sandbox: str
    host: HostView
    lower: str | None
    """The directory under the workspace, or `None`."""
    tools: tuple[tuple[str, str], ...] = ()
    """Helpers for the guest: (name, host path)."""
    trust: str = ""
    """Host path of the certificates that a guest trusts whose TLS is looked into."""
    placeholders: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What stands for secrets in the guest: variable → text."""


def compile_plan(spec: Spec, inputs: PlanInputs) -> Plan:
    """The plan of one sandbox. Pure but for looking at whether named host paths exist.

    Raises `InvalidRequest`, `NotFound` for what does not exist, `PolicyDenied` for what must not be shown.
    """
    check_limits(spec.limits)
    spec = combine(spec)
    check_limits(spec.limits)
    shown = _show(spec, inputs.host)
    mounts: list[MountOperation] = []
    mounts += _root(spec, inputs.host)
    mounts += [ProcMount(), DevMount()]
    # All three full still leave a quarter of the memory, so that a command can tidy up.
    size = min(spec.limits.tmp_bytes, spec.limits.memory_bytes // 4)
    mounts += [Tmpfs("/tmp", size, 0o1777, "tmp"), Tmpfs("/dev/shm", size, 0o1777)]
    mounts.append(Tmpfs(GUEST_HOME, size, 0o700, "home"))
    mounts += [Bind(source, path) for path, source in shown.directories.items()]
    mounts += [Link(target, path) for path, target in shown.links.items()]
    for path in writable(spec.policy):
        check_writable(path, inputs.host)
        mounts.append(Bind(path, path, writable=True))
    binds = [mount for mount in mounts if isinstance(mount, Bind)]
    mounts += hide(spec.policy, binds, inputs.lower)
    mounts += [Bind(source, f"{GUEST_TOOLS}/{name}") for name, source in inputs.tools]
    if inspects_any(spec.policy):
        mounts.append(Bind(inputs.trust, GUEST_TRUST))
    mounts.append(Overlay(inputs.lower, WORKSPACE))
    return Plan(
        sandbox=inputs.sandbox,
        mounts=tuple(mounts),
        env=_environment(spec, shown.path, inputs.placeholders),
        uid=GUEST_UID,
        gid=GUEST_UID,
        limits=spec.limits,
        network="proxy" if has_proxy(spec.policy) else "none",
        policy=spec.policy,
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


def check_plan(plan: Plan, host: HostView, *, fetched: Path, snapshots: Path, trust: str = "") -> None:
    """Raise what `compile_plan` raises, for a plan that came from elsewhere: a plan can name any path of this host.

    Trees below `fetched` may be under a workspace, and those of `snapshots` under or above that or a sandbox's first
    content, although they are the platform's own; and `trust` may be where guests look for it.
    """
    check_limits(plan.limits)
    check_environment(plan.env)
    if not _ID.fullmatch(plan.sandbox):
        raise InvalidRequest(f"not the id of a sandbox: {plan.sandbox!r}", hint="lower-case letters, digits and -")
    for mount in plan.mounts:
        _check_sealed(mount, snapshots)
        match mount:
            case Bind(source, target) if source == trust and target == GUEST_TRUST:
                continue
            case Bind(source, _, writable=True):
                check_writable(source, host)
            case Bind(source) if source not in host.directories:
                check_shown(source, host)
                check_no_socket(source)
            case Overlay(lower) if lower is not None and not (
                is_fetched(lower, fetched) or is_sealed(lower, snapshots)
            ):
                check_shown(lower, host)
            case Assembled(_, files, copies):
                _check_assembled(files, copies, host)


def _check_sealed(mount: MountOperation, snapshots: Path) -> None:
    path = mount.layer if isinstance(mount, Overlay) else mount.content if isinstance(mount, Tmpfs) else ""
    if path and not is_sealed(path, snapshots):
        raise PolicyDenied(
            f"{path} is no part of a snapshot",
            hint="start from a snapshot by its id",
            rule="built-in: snapshots",
            path=path,
        )


def is_sealed(path: str, snapshots: Path) -> bool:
    """Whether it is a layer of a snapshot."""
    return path != "" and "\0" not in path and snapshots.resolve() in list(Path(os.path.realpath(path)).parents)[2:3]


def is_fetched(lower: str, fetched: Path) -> bool:
    """Whether it is one of the trees that the platform itself fetched, and not the directory of them all."""
    return "\0" not in lower and is_within(os.path.dirname(os.path.realpath(lower)), os.path.realpath(fetched))


def _check_assembled(files: Mapping[str, str], copies: tuple[str, ...], host: HostView) -> None:
    for path in copies:
        if path not in host.etc:
            raise PolicyDenied(
                f"{path} is never copied into a sandbox",
                hint="leave it out: only what programs need of /etc is copied",
                rule="built-in: files of /etc",
            )
    for name in files:
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise InvalidRequest(f"not the name of a file: {name!r}", hint="name it without a directory")


def _root(spec: Spec, host: HostView) -> list[MountOperation]:
    if spec.image is not None:
        return _image_root(spec.image, host)
    mounts: list[MountOperation] = [Bind(path, path) for path in host.directories]
    mounts += [Link(target, path) for path, target in host.links]
    mounts.append(Assembled("/etc", own_etc(), hide_copies(spec.policy, host.etc)))
    return mounts


def _image_root(text: str, host: HostView) -> list[MountOperation]:
    if not text.startswith("/") or not os.path.isdir(text):
        raise NotFound(
            f"the image {text!r} is not a directory here",
            hint="the bubblewrap backend takes an unpacked root file system: give its absolute path",
        )
    check_shown(text, host)
    image = Path(os.path.realpath(text))
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


@dataclass(slots=True)
class _Shown:
    """What a spec shows beside the root file system: places in the guest, and directories for `PATH`."""

    directories: dict[str, str] = field(default_factory=dict)
    """Place → host path, links resolved."""
    links: dict[str, str] = field(default_factory=dict)
    """Place → target."""
    path: list[str] = field(default_factory=list)

    def add(self, found: Installation, host: HostView) -> None:
        for directory in found.directories:
            check_shown(directory, host)
            self.directories[directory] = directory
        self.links |= found.links
        self.path += found.path


def _show(spec: Spec, host: HostView) -> _Shown:
    shown = _Shown()
    if spec.language is not None:
        found = find_toolchain(spec.language, host)
        if found is None:
            raise NotFound(
                f"no {spec.language!r} toolchain on this host",
                hint="install it, or leave --language out and name the directory that holds its bin with --read-only",
            )
        for directory in found.directories:
            check_allowed(directory, spec.policy.layers)
        shown.add(found, host)
    for text in spec.read_only:
        place, real = _checked_path(text, host)
        _check_stays(place, real, spec)
        shown.directories |= {place: real, real: real}
        if os.path.isdir(f"{place}/bin"):
            shown.path.append(f"{place}/bin")
    for place in tuple(shown.directories):
        interpreter = find_interpreter(place, host, tuple(shown.directories))
        if interpreter is not None:
            shown.add(interpreter, host)
    return shown


def _checked_path(text: str, host: HostView) -> tuple[str, str]:
    """A named host path: as it is spelt, and as it resolves."""
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or "\0" in text:
        raise InvalidRequest(f"not an absolute path: {text!r}", hint="name the whole path, without ..")
    if not os.path.exists(text):
        raise NotFound(f"no such path on this host: {text}", hint="check --read-only and the policy")
    place = f"/{str(path).lstrip('/')}"
    check_shown(place, host)
    check_no_socket(place)
    return place, os.path.realpath(place)


def _check_stays(place: str, real: str, spec: Spec) -> None:
    """A name in a repository is a stranger's: a link there must not choose what of this host is shown."""
    if spec.source is None or not os.path.isdir(spec.source.repo):
        return
    repository = os.path.abspath(spec.source.repo)
    resolved = os.path.realpath(repository)
    within = is_within(place, repository) or is_within(os.path.realpath(os.path.dirname(place)), resolved)
    if within and not is_within(real, resolved):
        raise PolicyDenied(
            f"{place} is a link out of the repository, to {real}",
            hint=f"if that is what the sandbox should see, name it: --read-only {real}",
            rule="built-in: links of a repository",
            path=place,
        )


def _proxy_variables() -> dict[str, str]:
    """What programs look at to find a proxy. None names SOCKS: many clients fail at once where they lack it."""
    host, port = "127.0.0.1", EGRESS_PORT
    proxy = f"http://{host}:{port}"
    names = ("http_proxy", "https_proxy", "all_proxy")
    java = " ".join(f"-D{kind}.proxyHost={host} -D{kind}.proxyPort={port}" for kind in ("http", "https"))
    return {
        **{spelt: proxy for name in names for spelt in (name, name.upper())},
        **dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1,::1"),
        "JAVA_TOOL_OPTIONS": java,
        "NODE_USE_ENV_PROXY": "1",
    }


def _trust_variables() -> dict[str, str]:
    """What programs look at to find the certificates they trust. Java looks at none."""
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "CARGO_HTTP_CAINFO")
    return dict.fromkeys((*names, "AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), GUEST_TRUST)


def _environment(spec: Spec, extra_path: list[str], placeholders: Mapping[str, str]) -> dict[str, str]:
    path = ":".join((*extra_path, SHELL_PATH, GUEST_TOOLS))
    env = {
        "HOME": GUEST_HOME,
        "LANG": "C.UTF-8",
        "LOGNAME": "guest",
        "PATH": path,
        "SHELL": "/bin/bash",
        "TERM": "dumb",
        "TMPDIR": "/tmp",
        "USER": "guest",
        **(_proxy_variables() if has_proxy(spec.policy) else {}),
        **(_trust_variables() if inspects_any(spec.policy) else {}),
        **spec.env,
        **placeholders,
    }
    check_environment(env)
    return env
