"""Host names: one form for everybody, and nothing that two readers could take for different places."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gloveport.errors import InvalidRequest
from gloveport.policy.egress.hosts import canonical_host, canonical_pattern, forbidden_reason, parse_address, split_port


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com.", "example.com"),
        ("a_b.example", "a_b.example"),
        ("localhost", "localhost"),
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1.", "192.0.2.1"),
        ("[2001:DB8::0:1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("xn--nxasmq6b", "xn--nxasmq6b"),
    ],
)
def test_what_everybody_reads_alike_has_one_form(written: str, name: str) -> None:
    assert canonical_host(written).name == name


ODD = [
    "",
    ".",
    "a..b",
    "-a.example",
    "a-.example",
    "exa mple.com",
    "example.com\0.evil.test",
    "example.com\r\nHost: evil.test",
    "user@example.com",
    "example.com/",
    "example.com:80",
    "127.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "2130706433",
    "0177.0.0.1",
    "127.0.0.01",
    "1.2.3.4.5",
    "1.2.3.256",
    "[::1",
    "fe80::1%eth0",
    "[fe80::1%25eth0]",
    "::1:",
    "ex\u00e4mple.com",
    "\uff45xample.com",
    "example\u3002com",
    "xn--a",
    "xn--example-.com",
    "*.example.com",
    "a" * 64 + ".com",
    ".".join(["a" * 60] * 5),
]


@pytest.mark.parametrize("written", ODD)
def test_what_readers_take_for_different_places_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequest, match="not a host"):
        canonical_host(written)


@given(st.text(max_size=60))
@example("127.0.0.1\n")
@example("1.1.1.1 ")
def test_any_text_is_refused_or_has_a_form_that_is_its_own(text: str) -> None:
    try:
        host = canonical_host(text)
    except InvalidRequest:
        return
    assert canonical_host(host.name) == host
    assert host.name.isascii()
    assert not set(host.name) & set(" \t\r\n\0/@%\\?#")


PARTS = st.one_of(*(st.integers(0, 2**32).map(form.format) for form in ("{}", "0{:o}", "0x{:x}", "0X{:X}", "00{}")))


@given(st.lists(PARTS, min_size=1, max_size=4).map(".".join))
def test_what_the_c_library_takes_for_an_address_is_that_address_or_refused(text: str) -> None:
    """`inet_aton` reads octal, hexadecimal and short forms: what it takes for an address is not a name."""
    try:
        packed = socket.inet_aton(text)
    except OSError:
        assume(False)
        return
    try:
        host = canonical_host(text)
    except InvalidRequest:
        return
    assert host.address == ipaddress.IPv4Address(packed)


@pytest.mark.parametrize(
    ("written", "pattern"),
    [
        ("*.Example.com", "*.example.com"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("*.b\u00fccher.example", "*.xn--bcher-kva.example"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_a_policy_may_name_hosts_in_any_script(written: str, pattern: str) -> None:
    assert canonical_pattern(written) == pattern


@pytest.mark.parametrize("written", ["*", "*.", "*example.com", "a.*.com", "*.127.0.0.1", "*.*.com", "\u2603.\u200b"])
def test_a_star_stands_for_whole_names_below_one(written: str) -> None:
    with pytest.raises(InvalidRequest):
        canonical_pattern(written)


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("a.example:443", ("a.example", 443)),
        ("a.example", ("a.example", None)),
        ("[::1]:8080", ("[::1]", 8080)),
        ("[::1]", ("[::1]", None)),
        ("::1", ("::1", None)),
    ],
)
def test_a_port_is_told_from_an_address(written: str, parts: tuple[str, int | None]) -> None:
    assert split_port(written) == parts


@pytest.mark.parametrize("written", ["a:", "a:0", "a:65536", "a:8o", "a:-1", "a: 80", "a:\u0661\u0662"])
def test_a_port_is_a_number_of_a_port(written: str) -> None:
    with pytest.raises(InvalidRequest, match="65535"):
        split_port(written)


PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001:db8::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::1",
    "2001::7f00:1",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_of_the_internet_have_a_reason_to_be_refused(text: str) -> None:
    assert forbidden_reason(ipaddress.ip_address(text)) is not None


@pytest.mark.parametrize("text", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "192.0.0.9"])
def test_addresses_of_the_internet_have_none(text: str) -> None:
    assert forbidden_reason(ipaddress.ip_address(text)) is None


def test_this_hosts_own_addresses_are_refused_in_any_spelling() -> None:
    own = [ipaddress.ip_address("8.8.4.4")]
    assert forbidden_reason(ipaddress.ip_address("8.8.4.4"), own) == "an address of this host"
    assert "this host" in str(forbidden_reason(ipaddress.ip_address("64:ff9b::808:404"), own))


@given(st.ip_addresses())
def test_an_address_has_one_spelling(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assume(getattr(address, "scope_id", None) is None)
    assert parse_address(str(address)) == (getattr(address, "ipv4_mapped", None) or address)
