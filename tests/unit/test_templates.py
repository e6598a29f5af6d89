"""The policies that come with Gloveport: what each allows, and that nobody can change them for others."""

from __future__ import annotations

import pytest

from gloveport.errors import NotFound
from gloveport.model import MIB, Policy, Spec, Verdict
from gloveport.policy.compile import check_limits
from gloveport.policy.egress.hosts import canonical_host
from gloveport.policy.egress.rules import EgressRequest, decide_egress, has_way_out
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.policy.reading.templates import list_templates, read_template

GROUPS = {
    "@pip": ("index.example:443", "files.example:443"),
    "@npm": ("registry.example:443",),
    "@apt": ("debian.example:80",),
    "@git": ("git.example:443",),
}
REACHED = [host for hosts in GROUPS.values() for host in hosts]


def policy(name: str) -> Policy:
    return merge_layers([compile_layer(read_template(name), "project", groups=GROUPS)])


def verdict(name: str, host: str) -> Verdict:
    plain, _, port = host.partition(":")
    return decide_egress(policy(name), EgressRequest(host=canonical_host(plain), port=int(port))).verdict


@pytest.mark.parametrize(
    ("name", "cpus", "mebibytes", "seconds"),
    [("minimal", 1, 256, 30), ("standard", 2, 512, 60), ("development", 4, 2048, 300)],
)
def test_the_limits_are_those_of_their_names(name: str, cpus: int, mebibytes: int, seconds: int) -> None:
    limits = policy(name).limits
    assert (limits.cpus, limits.memory_bytes, limits.exec_seconds) == (cpus, mebibytes * MIB, seconds)
    check_limits(limits)


def test_minimal_lets_nothing_out_and_says_why() -> None:
    assert not has_way_out(policy("minimal"))
    decision = decide_egress(policy("minimal"), EgressRequest(host=canonical_host("index.example"), port=443))
    assert (decision.verdict, decision.reason) == (Verdict.DENY, "the template minimal lets nothing out")
    assert "template minimal:4" in decision.rule


def test_standard_asks_about_the_groups_and_refuses_the_rest() -> None:
    assert {verdict("standard", host) for host in REACHED} == {Verdict.ASK}
    assert verdict("standard", "elsewhere.example:443") is Verdict.DENY


def test_development_allows_the_groups_at_their_ports_and_refuses_the_rest() -> None:
    assert {verdict("development", host) for host in [*REACHED, "github.com:443"]} == {Verdict.ALLOW}
    others = ["elsewhere.example:443", "index.example:80", "gist.github.com:443", "github.com:22"]
    assert {verdict("development", host) for host in others} == {Verdict.DENY}


@pytest.mark.parametrize("name", list_templates())
def test_every_rule_has_a_reason_and_an_example_and_a_place(name: str) -> None:
    document = read_template(name)
    assert document.body.egress is not None
    rules = [*document.body.egress.allow, *document.body.egress.ask, *document.body.egress.deny]
    assert rules
    assert all(rule.reason and (rule.match or rule.not_match) for rule in rules)
    layer = compile_layer(document, "project", groups=GROUPS)
    assert all(rule.origin.line for rule in layer.egress or ())


@pytest.mark.parametrize("name", list_templates())
def test_a_template_loads_where_no_tool_is_set_up(name: str) -> None:
    empty = dict.fromkeys(GROUPS, ())
    assert compile_layer(read_template(name), "project", groups=empty).egress is not None


def test_what_one_takes_is_not_what_the_next_one_gets_changed() -> None:
    first = read_template("development")
    assert first.body.egress is not None
    first.body.egress.allow.clear()
    again = read_template("development").body.egress
    assert again is not None
    assert len(again.allow) == 5
    with pytest.raises(TypeError):
        list_templates()["minimal"] = "all"  # type: ignore[index]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NotFound) as refused:
        read_template("../secrets")
    assert "minimal, standard, development" in refused.value.hint


def test_a_template_narrows_what_a_spec_asks_for() -> None:
    assert policy("minimal").limits.memory_bytes < Spec().limits.memory_bytes
