"""Attacks on what is the host's: files, devices, variables, names, processes, and its share of everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gloveport.doctor.attack import Attack, AttackKind
from gloveport.doctor.grounds import Canaries

__all__ = ["MARK", "NEIGHBOUR_PORT", "file_attacks", "limit_attacks", "peer_attacks"]

MARK = "doctors-neighbour"
"""In the command line of the neighbour's process."""
NEIGHBOUR_PORT = 7171
_LEAK, _ESCAPE, _PEER = AttackKind.HOST_LEAK, AttackKind.ESCAPE, AttackKind.LATERAL


def file_attacks(canaries: Canaries) -> Iterator[Attack]:
    """What the guest finds, reads and writes."""
    there, text = canaries.there, canaries.text

    def attack(name: str, guard: str, run: str, kind: AttackKind = _LEAK, **arguments: Any) -> Attack:
        optional = bool(arguments.pop("optional", False))
        return Attack(name=f"{kind}/{name}", kind=kind, guard=guard, run=run, arguments=arguments, optional=optional)

    root = "root allow-list"
    yield attack("read-a-file-of-a-home", root, "files:read", path=f"{there['home']}/secret", canary=text)
    yield attack("list-a-home", root, "files:read", path=there["home"])
    yield attack("read-the-hosts-users", root, "files:read", path="/etc/passwd", canary="daemon:")
    yield attack("find-the-hosts-passwords", root, "files:device", path="/etc/shadow")
    yield attack("read-the-machines-mounts", root, "files:read", path="/etc/fstab", optional=True)
    yield attack("read-the-machines-number", root, "files:read", path="/etc/machine-id", optional=True)
    yield attack("read-the-hosts-name-servers", root, "files:read", path="/etc/resolv.conf", canary="nameserver")
    yield attack("list-the-hosts-logs", root, "files:read", path="/var/log")
    yield attack("list-the-hosts-sockets", root, "files:read", path="/run/lock", optional=True)
    yield attack(
        "search-the-host", root, "files:find", canary=text, roots=[there["home"], "/home", "/root", "/srv", "/mnt"]
    )
    yield attack("write-what-is-shown", "read-only mounts", "files:write", _ESCAPE, path=f"{there['shown']}/new")
    yield attack("overwrite-what-is-shown", "read-only mounts", "files:write", _ESCAPE, path=f"{there['shown']}/secret")
    for name, path in (("write", "new"), ("overwrite", "secret")):
        yield Attack(
            name=f"escape/{name}-the-repository",
            kind=_ESCAPE,
            guard="workspace overlay",
            run="files:write",
            arguments={"path": f"/workspace/{path}"},
            leaves=f"{there['source']}/{path}",
        )
    yield attack("leave-a-program-of-its-owner", "system-call filter", "files:set_user_id", _ESCAPE)
    yield attack("read-a-variable", "declared variables", "files:environment", canary=text)
    for name in ("kmsg", "mem", "port", "fuse", "kvm", "vda", "loop-control", "cuse", "vhost-vsock", "net/tun"):
        path = f"/dev/{name}"
        yield attack(f"device-{name.replace('/', '-')}", "device allow-list", "files:device", path=path, optional=True)
    yield attack("read-the-hosts-name", "host name namespace", "files:host_name", host=there["host name"])
    yield attack("read-the-place-in-the-host", "control group namespace", "files:control_group", optional=True)


def peer_attacks() -> Iterator[Attack]:
    """What the guest gets of a neighbour, and of the host's other processes, and what it can spoil for them."""

    def attack(name: str, guard: str, run: str, kind: AttackKind = _PEER, **arguments: Any) -> Attack:
        return Attack(name=f"{kind}/{name}", kind=kind, guard=guard, run=run, arguments=arguments, needs_neighbour=True)

    spoil = AttackKind.PEER_DOS
    here: dict[str, Any] = {"address": "127.0.0.1", "port": NEIGHBOUR_PORT}
    yield attack("see-a-neighbours-process", "process namespace", "peers:sees", mark=MARK)
    yield attack("see-the-platforms-process", "process namespace", "peers:sees", mark="gloveport.doctor")
    yield attack("attach-a-neighbours-memory", "IPC namespace", "peers:segment")
    yield attack("overwrite-a-neighbours-memory", "IPC namespace", "peers:overwrites", spoil)
    yield attack("reach-a-neighbours-port", "network namespace", "network:direct", **here)
    yield attack("take-a-neighbours-port", "network namespace", "peers:occupies", spoil, port=NEIGHBOUR_PORT)


def limit_attacks() -> Iterator[Attack]:
    """What the guest takes beyond its share."""

    def attack(name: str, guard: str, run: str, ground: str = "limited", **arguments: Any) -> Attack:
        return Attack(
            name=f"{AttackKind.HOST_DOS}/{name}",
            kind=AttackKind.HOST_DOS,
            guard=guard,
            run=f"limits:{run}",
            arguments=arguments,
            ground=ground,
            alone=True,
        )

    yield attack("fork-without-end", "process limit", "forks", count=100)
    yield attack("take-memory", "memory limit", "memory", mib=300, hold=4)
    yield attack("fill-the-disk", "disk limit", "disk", directory="/workspace", mib=64, hold=4)
    yield attack("fill-the-temporary-directory", "bounded /tmp", "disk", directory="/tmp", mib=20)
    yield attack("fill-the-home", "bounded /tmp", "disk", directory="/home/guest", mib=20)
    yield attack("fill-shared-memory", "bounded /tmp", "disk", directory="/dev/shm", mib=20)
    yield attack("open-files-without-end", "open files limit", "descriptors", count=200)
    yield attack("drown-the-host-in-output", "output limit", "output", mib=2)
    yield attack("outlast-its-time", "time limit", "outlast", ground="short", seconds=6)
