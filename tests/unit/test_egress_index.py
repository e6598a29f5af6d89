"""An index of egress rules changes how fast a decision is, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gloveport.model import EgressRule, Origin, Policy, PolicyLayer, Verdict
from gloveport.policy.egress.hosts import Host, canonical_host, parse_address
from gloveport.policy.egress.index import EgressIndex
from gloveport.policy.egress.inspecting import inspects
from gloveport.policy.egress.rules import EgressRequest, decide_addresses, decide_egress

PATTERNS = ["*", "a.example", "b.a.example", "*.a.example", "*.example", "10.0.0.0/8", "10.1.2.3", "0.0.0.0/0"]
PATTERNS += ["203.0.113.0/24", "2001:db8::/32", "2001:db8::1", "::/0", "::ffff:10.1.2.3"]
HOSTS = [
    "a.example",
    "b.a.example",
    "xa.example",
    "example",
    "10.1.2.3",
    "203.0.113.9",
    "2001:db8::1",
    "::ffff:10.1.2.3",
]
ADDRESSES = ["10.1.2.3", "203.0.113.9", "8.8.8.8", "2001:db8::1", "2600::1", "169.254.169.254"]

rules = st.builds(
    EgressRule,
    verdict=st.sampled_from(Verdict),
    host=st.sampled_from(PATTERNS),
    port=st.sampled_from([None, 443, 80]),
    methods=st.sampled_from([(), ("GET",)]),
    paths=st.sampled_from([(), ("/open/*",)]),
    private=st.booleans(),
    reason=st.sampled_from(["", "one", "two"]),
)
layers = st.builds(
    PolicyLayer,
    origin=st.sampled_from([Origin(layer="organisation"), Origin(layer="project", file="p.toml", line=3)]),
    egress=st.none() | st.lists(rules, max_size=8).map(tuple),
    egress_default=st.sampled_from([Verdict.DENY, Verdict.ASK]),
    open=st.sampled_from([frozenset(), frozenset({"egress"})]),
)
requests = st.builds(
    lambda host, port, seen: EgressRequest(host=canonical_host(host), port=port, method=seen[0], path=seen[1]),
    st.sampled_from(HOSTS),
    st.sampled_from([443, 80, 22]),
    st.sampled_from([(None, None), ("GET", "/open/x"), ("POST", "/open/x"), ("GET", "/else")]),
)
addresses = st.lists(st.sampled_from(ADDRESSES), max_size=3).map(lambda texts: [parse_address(text) for text in texts])


@given(st.lists(layers, max_size=3), requests, addresses)
def test_what_the_index_finds_decides_as_the_whole_policy(
    found: list[PolicyLayer], request: EgressRequest, addresses: list
) -> None:
    policy = Policy(layers=tuple(found))
    index = EgressIndex(policy)
    about = index.about(request.host)
    assert decide_egress(about, request) == decide_egress(policy, request)
    assert inspects(about, request.host, request.port) == inspects(policy, request.host, request.port)
    resolved = index.about(request.host, *(Host(str(address), address) for address in addresses))
    assert decide_addresses(resolved, request, addresses) == decide_addresses(policy, request, addresses)


def test_a_decision_looks_only_at_rules_that_name_its_host() -> None:
    wanted = [EgressRule(verdict=Verdict.DENY, host=host) for host in ("*", "a.example", "*.example", "10.0.0.0/8")]
    others = [EgressRule(verdict=Verdict.ALLOW, host=f"h{number}.test") for number in range(1000)]
    policy = Policy(layers=(PolicyLayer(origin=Origin(layer="project"), egress=(*others, *wanted)),))
    address = canonical_host("10.1.2.3")
    (layer,) = EgressIndex(policy).about(canonical_host("a.example"), address).layers
    assert list(layer.egress or ()) == wanted
