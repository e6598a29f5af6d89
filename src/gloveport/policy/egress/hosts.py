"""Host names and addresses in one canonical form, so that what is decided is what is dialled."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

import idna

from gloveport.errors import InvalidRequest

__all__ = [
    "Address",
    "Host",
    "Network",
    "canonical_host",
    "canonical_pattern",
    "forbidden_reason",
    "parse_address",
    "parse_network",
    "split_port",
]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST_NAME = 253
"""Characters of a name without its last dot (RFC 1035)."""
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")
"""A last label by which resolvers take the whole name for an IPv4 address (`127.1`, `0x7f000001`)."""
_PORT = re.compile(r"[0-9]{1,5}")
_SHOWN = 80

_MAPPED_BY_GATEWAYS = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses that a NAT64 gateway turns into the IPv4 address in their last 32 bits (RFC 6052)."""
_LOCAL_GATEWAYS = ipaddress.IPv6Network("64:ff9b:1::/48")
"""The same for a site's own gateways (RFC 8215); what they lead to is not in the address alone."""


@dataclass(frozen=True, slots=True)
class Host:
    """A destination: a name to resolve, or an address."""

    name: str
    """Lower case, ASCII, without a last dot; an address in its shortest form, without brackets."""
    address: Address | None = None
    """Set when the name is an address."""


def canonical_host(text: str) -> Host:
    """The host that `text` names, as a client wrote it. Raises `InvalidRequest` for anything odd.

    One rule for every protocol: ASCII letters, digits, hyphens and underscores in labels of 1 to 63 characters,
    253 in all; one last dot is dropped. IPv4 addresses are four decimal numbers without leading zeros, IPv6
    addresses may have brackets and no zone. What some resolvers take for an address although it is not written
    like one is refused.
    """
    if not text.isascii():
        raise _odd(text, "letters outside ASCII: write its xn-- form")
    if text.startswith("[") or text.count(":") > 1:
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        address = parse_address(inner)
        if address is None:
            raise _odd(text, "not an IPv6 address")
        return Host(str(address), address)
    name = text.lower().removesuffix(".")
    if not name:
        raise _odd(text, "no name")
    labels = name.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        address = parse_address(name)
        if address is None:
            raise _odd(text, "not an IPv4 address of four decimal numbers")
        return Host(str(address), address)
    _check_labels(text, name, labels)
    return Host(name)


def canonical_pattern(text: str) -> str:
    """A host of a policy file: as `canonical_host`, or `*.` before a name, in any script (IDNA 2008)."""
    wildcard = text.startswith("*.")
    rest = text[2:] if wildcard else text
    if not rest.isascii():
        try:
            rest = idna.encode(rest, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise _odd(text, f"not a name of IDNA 2008: {error}") from error
    host = canonical_host(rest)
    if wildcard and host.address is not None:
        raise _odd(text, "an address has no names below it")
    return f"*.{host.name}" if wildcard else host.name


def split_port(text: str) -> tuple[str, int | None]:
    """`host:port` in its two parts; the port is `None` where there is none. Raises `InvalidRequest`."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port or (":" in host and not host.endswith("]")):
        return text, None
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65_536:
        raise _odd(text, "not a port from 1 to 65535")
    return host, int(port)


def parse_address(text: str) -> Address | None:
    """An address written the one way that everybody reads alike; `None` for anything else.

    An IPv6 address that stands for an IPv4 one (`::ffff:10.0.0.1`) becomes that one.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def parse_network(pattern: str) -> Network | None:
    """The network that a rule's host stands for, be it of one address; `None` for a name."""
    if not pattern[:1].isdigit() and ":" not in pattern:
        return None
    try:
        return ipaddress.ip_network(pattern)
    except ValueError:
        return None


def forbidden_reason(address: Address, own: Collection[Address] = ()) -> str | None:
    """Why nothing goes to `address` unless a rule names it; `None` for an ordinary address of the internet.

    `own` are the addresses of this host. IPv6 addresses that lead to an IPv4 address are judged as that one.
    """
    if address in own:
        return "an address of this host"
    inner = _led_to(address)
    if inner is not None:
        reason = forbidden_reason(inner, own)
        return reason and f"{reason} ({inner})"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address, where clouds serve their metadata"
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified or address.is_reserved:
        return "a reserved address"
    if not address.is_global or (isinstance(address, ipaddress.IPv6Address) and address in _LOCAL_GATEWAYS):
        return "a private address"
    return None


def _led_to(address: Address) -> ipaddress.IPv4Address | None:
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _MAPPED_BY_GATEWAYS:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def _check_labels(text: str, name: str, labels: list[str]) -> None:
    if len(name) > LONGEST_NAME:
        raise _odd(text, f"longer than {LONGEST_NAME} characters")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise _odd(text, "not a host name")
        if label.startswith("xn--"):
            _check_international(text, label)


def _check_international(text: str, label: str) -> None:
    try:
        written = idna.encode(idna.decode(label)).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise _odd(text, "its xn-- form stands for nothing") from error
    if written != label:
        raise _odd(text, "its xn-- form is not the one of that name")


def _odd(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"not a host: {text[:_SHOWN]!r}: {why}", hint="write the plain name, or the plain address")
