"""Secrets in one request and its answer: where they are put, where a placeholder is found, and what is masked."""

from __future__ import annotations

import base64
import sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.egress import AwsKey, BoundSecret, Injector
from gloveport.egress.authority import Authority
from gloveport.egress.http_parts import Asked, Headers
from gloveport.egress.inject import Mask
from gloveport.errors import BackendUnavailable, GloveportError, InvalidRequest, Unsupported
from gloveport.model import Injection, Origin, Policy, PolicyLayer, SecretBinding, SecretSource, Spec, Verdict
from gloveport.policy import PlanInputs, compile_plan, survey
from gloveport.policy.egress.hosts import canonical_host
from gloveport.policy.egress.inspecting import inspects
from gloveport.policy.egress.rules import EgressRequest, decide_addresses
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.sandbox.secrets import check_bindings, make_placeholders
from gloveport.store import Redactor

PLACEHOLDER = "gloveport-secret-forge-0123456789abcdef0123456789abcdef"
FORGE = BoundSecret(
    name="forge",
    value="s3cr3t/value",
    hosts=frozenset({"forge.test"}),
    kind="header",
    target="Authorization",
    template="Bearer {secret}",
    placeholder=PLACEHOLDER,
)
QUERY = replace(FORGE, name="search", kind="query", target="key")
BASIC = replace(FORGE, name="git", kind="basic", target="bot")


def asked(path: str, headers: Headers = ()) -> Asked:
    return Asked(method="GET", host="forge.test", port=443, path=path, headers=[*headers])


def test_a_header_is_set_once_whatever_the_guest_had_there() -> None:
    given_ = [(b"AUTHORIZATION", b"token x"), (b"A", b"b"), (b"authorization", PLACEHOLDER.encode())]
    path, headers = Injector([FORGE]).inject("forge.test", asked("/a?b", given_))
    assert path == "/a?b"
    assert headers == [(b"A", b"b"), (b"Authorization", b"Bearer s3cr3t/value")]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a", "/a?key=s3cr3t%2Fvalue"),
        ("/a?", "/a?key=s3cr3t%2Fvalue"),
        ("/a?key=x", "/a?key=s3cr3t%2Fvalue"),
        ("/a?b=c&k%65y=x&key", "/a?b=c&key=s3cr3t%2Fvalue"),
        ("/a?keys=1;key=2", "/a?keys=1;key=2&key=s3cr3t%2Fvalue"),
    ],
)
def test_a_query_parameter_is_set_once_and_the_others_stay_as_they_were(path: str, expected: str) -> None:
    assert Injector([QUERY]).inject("forge.test", asked(path)) == (expected, [])


def test_several_secrets_of_one_host_go_each_to_its_place_and_to_no_other_host() -> None:
    injector = Injector([BASIC, QUERY, replace(FORGE, hosts=frozenset({"else.test"}))])
    path, headers = injector.inject("forge.test", asked("/", [(b"A", b"b")]))
    credentials = base64.b64encode(b"bot:s3cr3t/value")
    assert (path, headers) == ("/?key=s3cr3t%2Fvalue", [(b"A", b"b"), (b"Authorization", b"Basic " + credentials)])
    assert injector.inject("third.test", asked("/", [(b"A", b"b")])) == ("/", [(b"A", b"b")])
    assert (injector.binds("forge.test"), injector.binds("third.test")) == (True, False)


BASIC_PLACEHOLDER = b"Basic " + base64.b64encode(f"x:{PLACEHOLDER}".encode())
HEADS = [
    ("/", [(b"X-Key", PLACEHOLDER.encode())]),
    ("/", [(PLACEHOLDER.encode(), b"x")]),
    ("/", [(b"Cookie", b"a=b; c=" + PLACEHOLDER.encode())]),
    ("/", [(b"Proxy-Authorization", BASIC_PLACEHOLDER)]),
    ("/", [(b"authorization", BASIC_PLACEHOLDER.rstrip(b"="))]),
    (f"/{PLACEHOLDER}/x", []),
    (f"/?q=a{PLACEHOLDER}b", []),
    (f"/?{PLACEHOLDER.replace('-', '%2D')}", []),
]


@pytest.mark.parametrize(("path", "headers"), HEADS)
@pytest.mark.parametrize("is_private", [True, False])
def test_a_placeholder_in_a_request_to_another_host_is_found(
    path: str, headers: list[tuple[bytes, bytes]], is_private: bool
) -> None:
    stray = Injector([FORGE]).stray("else.test", path, headers, is_private=is_private)
    assert stray is not None
    assert stray.reason == "the placeholder of the secret forge was sent to else.test, which it is not bound to"


def test_a_placeholder_passes_only_at_its_own_place_inside_tls() -> None:
    injector = Injector([FORGE])
    right = [(b"authorization", b"token " + PLACEHOLDER.encode())]
    assert injector.stray("forge.test", "/", right, is_private=True) is None
    assert injector.stray("forge.test", "/", right, is_private=False) is not None
    assert injector.stray("forge.test", "/", [*right, (b"X", PLACEHOLDER.encode())], is_private=True) is not None
    assert Injector([QUERY]).stray("forge.test", f"/?key={PLACEHOLDER}", [], is_private=True) is None
    assert Injector([QUERY]).stray("forge.test", f"/?keys={PLACEHOLDER}", [], is_private=True) is not None


def test_a_placeholder_at_the_place_of_another_secret_is_found_although_it_would_be_overwritten() -> None:
    other = replace(FORGE, name="other", placeholder="gloveport-secret-other-1", hosts=frozenset({"else.test"}))
    stray = Injector([FORGE, other]).stray(
        "forge.test", "/", [(b"Authorization", b"gloveport-secret-other-1")], is_private=True
    )
    assert stray is not None
    assert stray.name == "other"


@given(st.lists(st.sampled_from([b"s3", b"s3cr3t", b"/val", b"ue", b"s3cr3t/value", b"s3cr3t%2Fvalue", b"x", b"s"])))
def test_no_cut_hides_a_secret_from_the_mask_and_no_length_changes(pieces: list[bytes]) -> None:
    mask = Injector([FORGE]).mask("forge.test")
    passed = b"".join(mask.feed(piece) for piece in pieces) + mask.end()
    said = b"".join(pieces)
    assert len(passed) == len(said)
    assert b"s3cr3t/value" not in passed
    assert b"s3cr3t%2Fvalue" not in passed
    assert all(a in (b, ord("*")) for a, b in zip(passed, said, strict=True))


def test_a_mask_of_nothing_passes_everything_at_once() -> None:
    mask = Mask(())
    assert [mask.feed(b"abc"), mask.end(), mask.whole(b"d")] == [b"abc", b"", b"d"]


def test_credentials_are_masked_as_they_are_encoded() -> None:
    mask = Injector([BASIC]).mask("forge.test")
    assert mask.whole(base64.b64encode(b"bot:s3cr3t/value")) == b"*" * 24


def test_a_representation_holds_no_secret() -> None:
    assert "s3cr3t" not in repr(FORGE)


def test_a_redactor_masks_what_it_has_learned() -> None:
    redactor = Redactor(["first-secret"])
    assert redactor.text("second-secret") == "second-secret"
    redactor.learn(["second-secret"])
    assert redactor.text("first-secret second-secret") == "[redacted] [redacted]"
    assert redactor.may_hold('{"a":"second-secret"}')


def binding(**changes: object) -> SecretBinding:
    made = SecretBinding(name="forge", source=SecretSource(env="X"), hosts=("forge.test",), variable="TOKEN")
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "injection",
    [
        Injection(kind="cookie"),
        Injection(name="Host"),
        Injection(name="Content-Length"),
        Injection(name="A B"),
        Injection(name=""),
        Injection(value="Bearer"),
        Injection(value="a\r\nb: {secret}"),
        Injection(kind="basic", name="a:b"),
        Injection(kind="query", name=""),
    ],
)
def test_an_injection_that_cannot_be_is_refused_by_name(injection: Injection) -> None:
    with pytest.raises(InvalidRequest, match="the secret forge: "):
        check_bindings([binding(injection=injection)])


@pytest.mark.parametrize(
    "other",
    [
        binding(),
        binding(name="other", hosts=("else.test",)),
        binding(name="other", variable=None),
        binding(name="other", variable=None, injection=Injection(kind="basic", name="bot")),
    ],
)
def test_two_secrets_of_one_name_variable_or_place_are_refused(other: SecretBinding) -> None:
    with pytest.raises(InvalidRequest):
        check_bindings([binding(), other])


def aws(**changes: object) -> SecretBinding:
    return binding(**{"injection": Injection(kind="sigv4", name="s3 eu-central-1"), "variable": None, **changes})


def test_a_signature_for_aws_is_refused_where_what_makes_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    check_bindings([aws()])
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(Unsupported, match="the secret forge: what signs requests for AWS is not installed") as caught:
        check_bindings([aws()])
    assert caught.value.hint == "pip install 'gloveport[aws]'"


@pytest.mark.parametrize("scope", ["", "s3", "s3 ", "s3 eu-west-1 x", "s3/eu-west-1", "S3 eu-west-1"])
def test_a_signature_is_for_one_service_and_one_region(scope: str) -> None:
    with pytest.raises(InvalidRequest, match="not a service and a region"):
        check_bindings([aws(injection=Injection(kind="sigv4", name=scope))])


@pytest.mark.parametrize(
    "others",
    [
        (aws(variable="TOKEN"),),
        (aws(), binding(name="other", variable="AWS_ACCESS_KEY_ID", hosts=("else.test",))),
        (aws(), binding(name="other")),
        (aws(), aws(name="other", injection=Injection(kind="sigv4", name="sts eu-west-1"))),
    ],
)
def test_a_key_of_aws_has_its_own_variables_and_its_own_place(others: tuple[SecretBinding, ...]) -> None:
    with pytest.raises(InvalidRequest):
        check_bindings(others)


def test_keys_of_aws_share_one_placeholder_for_all_services_of_one_client() -> None:
    bindings = [aws(), aws(name="other", hosts=("else.test",))]
    check_bindings(bindings)
    made = make_placeholders(bindings)
    assert list(made) == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert len(set(made.values())) == 1


@pytest.mark.parametrize(
    "value",
    ["AKIDEXAMPLE", "AKIDEXAMPLE:", "AKIDEXAMPLE:short", ":longenough", "A B C:longenough", "AKID:longenough:",
     "AKID:longenough:longenough:longenough", "AKID:long enough", '{"AccessKeyId": "AKID"}'],
)  # fmt: skip
def test_what_is_no_key_of_aws_is_refused_without_being_repeated(value: str) -> None:
    with pytest.raises(ValueError, match="not ACCESS_KEY_ID:SECRET_ACCESS_KEY") as caught:
        AwsKey.parse(value)
    assert value not in str(caught.value)


def test_of_a_key_of_aws_the_secret_and_the_token_are_masked_and_the_id_is_not() -> None:
    secret = replace(FORGE, kind="sigv4", target="s3 eu-west-1", value="AKIDEXAMPLE:wJalrXUt/EXAMPLE:t0ken/value==")
    mask = Injector([secret]).mask("forge.test")
    said = b"AKIDEXAMPLE wJalrXUt/EXAMPLE t0ken/value== wJalrXUt%2FEXAMPLE " + base64.b64encode(b"t0ken/value==")
    assert mask.whole(said).replace(b"*", b"").split() == [b"AKIDEXAMPLE"]
    assert len(mask.whole(said)) == len(said)


def test_placeholders_name_their_secret_and_are_never_the_same() -> None:
    first, second = (make_placeholders([binding(), binding(name="b", variable=None)]) for _ in range(2))
    assert first["TOKEN"].startswith("gloveport-secret-forge-")
    assert list(first) == ["TOKEN"]
    assert first != second


def policy(text: str) -> Policy:
    return merge_layers([compile_layer(parse_document(text.encode(), "p.toml"), "project")])


def test_only_named_hosts_are_looked_into() -> None:
    rules = policy(
        '[egress]\nallow = ["a.test", {host = "b.test:443", methods = ["GET"]}, "c.test"]\n'
        '[secrets.x]\nsource = {env = "X"}\nhosts = ["c.test"]'
    )
    found = {
        (name, port) for name in ("a.test", "b.test", "c.test") for port in (443, 8443)
        if inspects(rules, canonical_host(name), port)
    }  # fmt: skip
    assert found == {("b.test", 443), ("c.test", 443), ("c.test", 8443)}


@pytest.mark.parametrize(
    ("rule", "method", "verdict"),
    [
        ('deny = [{ host = "10.0.0.0/8", methods = ["POST"] }]', None, Verdict.DENY),
        ('deny = [{ host = "10.0.0.0/8", methods = ["POST"] }]', "POST", Verdict.DENY),
        ('deny = [{ host = "10.0.0.0/8", methods = ["POST"] }]', "GET", Verdict.ALLOW),
        ('deny = [{ host = "11.0.0.0/8", methods = ["POST"] }]', None, Verdict.ALLOW),
    ],
)
def test_a_name_is_no_way_around_the_methods_of_the_network_it_leads_to(
    rule: str, method: str | None, verdict: Verdict
) -> None:
    rules = policy(f'[egress]\nallow = [{{ host = "a.test", private = true }}]\n{rule}')
    path = None if method is None else "/"
    asked = EgressRequest(host=canonical_host("a.test"), port=443, method=method, path=path)
    assert decide_addresses(rules, asked, [ip_address("10.1.2.3")]).verdict is verdict


def test_a_plan_has_the_trust_only_where_something_is_looked_into() -> None:
    inputs = PlanInputs(sandbox="brave-otter-000000", host=survey(), lower=None, trust="/state/trust.pem")
    plain = compile_plan(Spec(policy=policy('[egress]\nallow = ["a.test"]')), inputs)
    looked = compile_plan(Spec(policy=policy('[egress]\nallow = [{host = "a.test", paths = ["/x"]}]')), inputs)
    assert "trust.pem" not in str(plain.to_json())
    assert looked.env["SSL_CERT_FILE"] == looked.env["NODE_EXTRA_CA_CERTS"] == "/run/gloveport/trust.pem"
    assert [mount for mount in looked.mounts if getattr(mount, "source", "") == "/state/trust.pem"]


def test_a_placeholder_stands_whatever_the_spec_sets() -> None:
    layer = PolicyLayer(origin=Origin(layer="x"), secrets=(binding(),), egress=())
    inputs = PlanInputs(
        sandbox="brave-otter-000000", host=survey(), lower=None, trust="/t", placeholders={"TOKEN": PLACEHOLDER}
    )
    plan = compile_plan(Spec(policy=Policy(layers=(layer,)), env={"TOKEN": "mine"}), inputs)
    assert plan.env["TOKEN"] == PLACEHOLDER


def test_an_authority_is_made_once_and_read_again(place: Path) -> None:
    made = Authority.load(place / "a.pem")
    assert Authority.load(place / "a.pem").certificate == made.certificate
    assert Authority.load(place / "b.pem").certificate != made.certificate
    assert (place / "a.pem").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in place.iterdir()) == ["a.pem", "b.pem"]
    assert made.tls("a.test") is made.tls("a.test")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_broken_authority_is_an_error_and_not_made_anew(place: Path, content: bytes) -> None:
    (place / "a.pem").write_bytes(content)
    with pytest.raises(BackendUnavailable):
        Authority.load(place / "a.pem")
    assert (place / "a.pem").read_bytes() == content


def test_an_authority_behind_a_link_is_not_used(place: Path) -> None:
    Authority.load(place / "a.pem")
    (place / "b.pem").symlink_to(place / "a.pem")
    with pytest.raises(GloveportError):
        Authority.load(place / "b.pem")


def test_no_more_than_so_many_hosts_are_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gloveport.egress.authority._MOST_HOSTS", 2)
    authority = Authority.load(place / "a.pem")
    first = authority.tls("a.test")
    kept = authority.tls("b.test")
    authority.tls("c.test")
    assert authority.tls("b.test") is kept
    assert authority.tls("a.test") is not first
