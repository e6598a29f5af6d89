"""A private network for the attacks: addresses of the internet, a LAN and a cloud, with nothing behind them.

Made of namespaces, as an ordinary user too: what is attacked here is on this host alone.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from gloveport.errors import BackendUnavailable

__all__ = ["ADDRESSES", "end_with_parent", "enter_range"]

ADDRESSES: Mapping[str, str] = MappingProxyType(
    {
        "good": "45.0.0.10",
        "evil": "45.0.0.66",
        "evil6": "2600::66",
        "lan": "192.168.77.7",
        "lan10": "10.77.0.7",
        "shared": "100.64.0.7",
        "metadata": "169.254.169.254",
        "unique6": "fd00::7",
        "loopback": "127.0.0.1",
        "loopback6": "::1",
    }
)
"""Who is there, by what they are called in the attacks. None of it is reached beyond this network."""

_NEW_NAMESPACE, _NEW_USER, _NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_GET_FLAGS, _SET_FLAGS, _SET_ADDRESS, _SET_NETMASK = 0x8913, 0x8914, 0x8916, 0x891C
_UP = 1
_SET_DEATH_SIGNAL = 1
_RESOLVER: Mapping[str, str] = MappingProxyType(
    {
        "/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:5 attempts:3\n",
        "/etc/nsswitch.conf": "hosts: files dns\n",
        "/etc/hosts": "127.0.0.1 localhost\n",
    }
)


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends: its sandboxes end with it."""
    ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


def enter_range() -> None:
    """Move this process, which must have one thread, and all it starts to a network of its own.

    Raises `BackendUnavailable` where the kernel does not let it.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        if uid == 0:
            _unshare(_NEW_NAMESPACE | _NEW_NETWORK)
        else:
            _unshare(_NEW_USER | _NEW_NAMESPACE | _NEW_NETWORK)
            _map_user(uid, gid)
        _mount("none", "/", _MS_REC | _MS_PRIVATE)
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
        _bring_up(tuple(ADDRESSES.values()))
        with tempfile.TemporaryDirectory() as place:
            for number, (path, text) in enumerate(_RESOLVER.items()):
                source = Path(place) / str(number)
                source.write_text(text)
                source.chmod(0o644)
                _mount(str(source), path, _MS_BIND)
    except OSError as error:
        raise BackendUnavailable(
            f"no private network for the attacks: {error.strerror} ({error.filename or 'namespaces'})",
            hint="the attacks need user namespaces and /etc/resolv.conf: see gloveport doctor",
        ) from error


def _unshare(flags: int) -> None:
    _check(ctypes.CDLL(None, use_errno=True).unshare(flags))


def _mount(source: str, target: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None), target)


def _check(answer: int, name: str | None = None) -> None:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _map_user(uid: int, gid: int) -> None:
    """Itself, and nobody else: files belong to whom they belonged, and nobody is root."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _bring_up(addresses: Sequence[str]) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
    ):
        flags = struct.unpack_from("H", fcntl.ioctl(four, _GET_FLAGS, struct.pack("16s24x", b"lo")), 16)[0]
        fcntl.ioctl(four, _SET_FLAGS, struct.pack("16sH22x", b"lo", flags | _UP))
        for number, address in enumerate(addresses):
            if address in ("127.0.0.1", "::1"):
                continue
            if ":" in address:
                fcntl.ioctl(six, _SET_ADDRESS, struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, address), 128, 1))
                continue
            name = f"lo:{number}".encode()
            _set(four, _SET_ADDRESS, name, address)
            _set(four, _SET_NETMASK, name, "255.255.255.255")


def _set(control: socket.socket, request: int, name: bytes, address: str) -> None:
    fcntl.ioctl(control, request, struct.pack("16sH2x4s8x8x", name, socket.AF_INET, socket.inet_aton(address)))
