"""Decisions about traffic: the strictest rule wins, lower layers tighten, and addresses are judged after names."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.model import Policy, Verdict
from gloveport.policy.egress.hosts import canonical_host
from gloveport.policy.egress.rules import EgressRequest, decide_addresses, decide_egress, must_inspect
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers

ALLOW, ASK, DENY = Verdict.ALLOW, Verdict.ASK, Verdict.DENY


def policy(*texts: str) -> Policy:
    names = ("organisation", "project", "command line")
    parsed = [
        compile_layer(parse_document(text.encode(), "p.toml"), name) for name, text in zip(names, texts, strict=False)
    ]
    return merge_layers(parsed)


def asked(host: str, port: int = 443, method: str | None = None, path: str | None = None) -> EgressRequest:
    return EgressRequest(host=canonical_host(host), port=port, method=method, path=path)


def verdict(found: Policy, host: str, port: int = 443, method: str | None = None, path: str | None = None) -> Verdict:
    return decide_egress(found, asked(host, port, method, path)).verdict


@given(st.sampled_from(["a.example", "127.0.0.1", "[::1]", "x"]), st.integers(1, 65_535))
def test_without_a_rule_nothing_is_allowed(host: str, port: int) -> None:
    for text in ("", "[egress]", "[egress]\nallow = []"):
        assert verdict(policy(text), host, port) is DENY


def test_names_ports_and_stars_mean_exactly_what_they_say() -> None:
    found = policy('[egress]\nallow = ["a.example", "*.b.example:443"]')
    assert verdict(found, "A.EXAMPLE.", 22) is ALLOW
    assert verdict(found, "x.b.example") is verdict(found, "y.x.b.example") is ALLOW
    for host, port in [("b.example", 443), ("x.b.example", 80), ("xb.example", 443), ("a.example.evil.test", 443)]:
        assert verdict(found, host, port) is DENY


def test_the_strictest_of_a_layers_rules_wins_and_gives_its_reason() -> None:
    found = policy('[egress]\nallow = ["*"]\nask = ["*.example"]\ndeny = [{ host = "x.example", reason = "leaks" }]')
    decision = decide_egress(found, asked("x.example"))
    assert (decision.verdict, decision.reason) == (DENY, "leaks")
    assert decision.rule == "egress.deny: x.example, organisation (p.toml:4)"
    assert verdict(found, "y.example") is ASK
    assert verdict(found, "other.test") is ALLOW


def test_a_lower_layer_tightens_and_widens_only_what_is_open() -> None:
    above = '[egress]\nallow = ["a.example"]\nask = ["b.example"]'
    below = '[egress]\nallow = ["b.example", "c.example"]\ndeny = ["a.example:22"]'
    shut, opened = policy(above, below), policy(f'open = ["egress"]\n{above}', below)
    for found in (shut, opened):
        assert verdict(found, "a.example") is ALLOW
        assert verdict(found, "a.example", 22) is DENY
        assert verdict(found, "b.example") is ASK
    assert verdict(shut, "c.example") is DENY
    assert verdict(opened, "c.example") is ALLOW
    assert "organisation (p.toml) allows no others" in decide_egress(shut, asked("c.example")).reason


def test_what_no_rule_names_is_asked_about_only_where_every_layer_says_so() -> None:
    asking, plain = '[egress]\ndefault = "ask"', "[egress]"
    assert verdict(policy(asking), "a.example") is ASK
    assert verdict(policy(asking, plain), "a.example") is DENY
    assert verdict(policy(plain, asking), "a.example") is DENY


def test_methods_and_paths_are_judged_as_a_server_reads_them() -> None:
    found = policy('[egress]\nallow = [{ host = "a.example", methods = ["GET"], paths = ["/open/*"] }]')
    assert verdict(found, "a.example") is ALLOW  # a tunnel: its requests are judged one by one
    assert must_inspect(found, canonical_host("a.example"), 443)
    assert verdict(found, "a.example", method="GET", path="/open/x?y=/secret") is ALLOW
    for method, path in [
        ("POST", "/open/x"),
        ("GET", "/secret"),
        ("GET", "/open/../secret"),
        ("GET", "/open/%2e%2e/secret"),
        ("GET", "/open/..%2fsecret"),
        ("GET", "//secret/open/x"),
        ("GET", "/open"),
    ]:
        assert verdict(found, "a.example", method=method, path=path) is DENY, path


def test_a_rule_about_methods_that_denies_leaves_the_tunnel_to_be_inspected() -> None:
    found = policy('[egress]\nallow = ["a.example"]\ndeny = [{ host = "a.example", methods = ["DELETE"] }]')
    assert verdict(found, "a.example") is ALLOW
    assert must_inspect(found, canonical_host("a.example"), 443)
    assert verdict(found, "a.example", method="DELETE", path="/") is DENY


PLACES = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "64:ff9b::a9fe:a9fe", "0.0.0.0"]


@pytest.mark.parametrize("address", PLACES)
def test_an_allowed_name_does_not_lead_to_private_places(address: str) -> None:
    found = policy('[egress]\nallow = ["a.example"]')
    public, private = ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address(address)
    assert decide_addresses(found, asked("a.example"), [public]).verdict is ALLOW
    decision = decide_addresses(found, asked("a.example"), [public, private])
    assert decision.verdict is DENY
    assert f"a.example leads to {private}" in decision.reason
    opened = policy('[egress]\nallow = [{ host = "a.example", private = true }]')
    assert decide_addresses(opened, asked("a.example"), [private]).verdict is ALLOW


def test_private_places_can_be_named_by_network_and_public_ones_forbidden() -> None:
    found = policy('[egress]\nallow = ["a.example", "10.0.0.0/8"]\ndeny = ["203.0.113.0/24", "8.8.8.0/24"]')
    assert verdict(found, "10.1.2.3") is ALLOW
    assert verdict(found, "11.1.2.3") is DENY
    for address, expected in [("10.1.2.3", ALLOW), ("192.168.1.1", DENY), ("8.8.8.8", DENY), ("8.8.4.4", ALLOW)]:
        assert decide_addresses(found, asked("a.example"), [ipaddress.ip_address(address)]).verdict is expected


def test_a_name_that_leads_nowhere_is_refused() -> None:
    assert decide_addresses(policy('[egress]\nallow = ["a.example"]'), asked("a.example"), []).verdict is DENY


def test_this_hosts_own_public_address_is_refused() -> None:
    own = ipaddress.ip_address("8.8.8.8")
    assert decide_addresses(policy('[egress]\nallow = ["a.example"]'), asked("a.example"), [own], [own]).verdict is DENY
