"""Policy files: strict to the last key, and every mistake is named with its line."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.errors import InvalidRequest, NotFound
from gloveport.model import MIB, EgressRule, Injection, Origin, Policy, PolicyLayer, Verdict
from gloveport.policy.reading.document import parse_document, read_document
from gloveport.policy.reading.layers import compile_layer, merge_layers

GROUPS = {"@pip": ("index.example:443", "files.example:443")}


def layer(text: str, name: str = "project") -> PolicyLayer:
    return compile_layer(parse_document(text.encode(), "p.toml"), name, groups=GROUPS)


def mistakes(text: str, *, is_json: bool = False) -> list[str]:
    with pytest.raises(InvalidRequest) as refused:
        compile_layer(parse_document(text.encode(), "p", is_json=is_json), "project", groups=GROUPS)
    return refused.value.message.splitlines()


def rule(verdict: Verdict, host: str, line: int, **facts: object) -> EgressRule:
    origin = Origin(layer="project", file="p.toml", line=line)
    return EgressRule(verdict=verdict, host=host, origin=origin, **facts)  # type: ignore[arg-type]


def test_a_layer_holds_every_rule_in_its_canonical_form_with_its_line() -> None:
    found = layer("""
[egress]
allow = [
  "Example.COM",
  "*.b\u00fccher.example:8443",
  "@pip",
  { host = "api.example", methods = ["GET"], paths = ["/v1/*"], reason = "reads" },
]
deny = ["203.0.113.0/24"]
""")
    allow, deny = Verdict.ALLOW, Verdict.DENY
    assert found.egress == (
        rule(allow, "example.com", 4),
        rule(allow, "*.xn--bcher-kva.example", 5, port=8443),
        rule(allow, "index.example", 6, port=443),
        rule(allow, "files.example", 6, port=443),
        rule(allow, "api.example", 7, methods=("GET",), paths=("/v1/*",), reason="reads"),
        rule(deny, "203.0.113.0/24", 9),
    )


def test_an_empty_list_allows_nothing_and_an_absent_section_says_nothing() -> None:
    assert layer("[egress]\nallow = []").egress == ()
    assert layer("").egress is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[egres]\n", "p:1: unknown key 'egres'; did you mean 'egress'?"),
        ("[egress]\nalow = []", "p:2: unknown key 'egress.alow'; did you mean 'allow'?"),
        ('[egress]\nallow = [\n{ hots = "a" }]', "p:3: unknown key 'egress.allow.0.hots'; did you mean 'host'?"),
        ("[limits]\nzzz = 1", "p:2: unknown key 'limits.zzz'; known here: cpus, disk, exec_seconds"),
        ('[egress]\ndefault = "allow"', "p:2: egress.default: input should be 'deny' or 'ask'"),
        ('[egress]\nallow = "a.example"', "p:2: egress.allow: input should be a valid list"),
        ('[egress]\nallow = ["127.1"]', "p:2: not a host: '127.1': not an IPv4 address of four decimal numbers"),
        ('[egress]\nallow = ["10.0.0.1/8"]', "p:2: not a network: '10.0.0.1/8'"),
        ('[egress]\nallow = ["a.example:0"]', "p:2: not a host: 'a.example:0': not a port from 1 to 65535"),
        ('[egress]\nallow = ["@nope"]', "p:2: no group '@nope'; known: @pip"),
        ('[exec]\ndeny = ["rm \'"]', "p:2: not words of a shell: No closing quotation"),
        ('[limits]\nmemory = "2 potatoes"', "p:2: not a size: '2 potatoes'"),
        ("[limits]\nprocesses = true", "p:2: limits.processes: input should be a valid integer"),
        ("x = ", "p:1: not TOML: "),
        ('[secrets.A]\nhosts = ["a.example"]\nsource = {}', "p:3: name exactly one source"),
        (
            '[secrets.A]\nhosts = ["*.a.example"]\nsource = { env = "A" }',
            "p:2: not a host: '*.a.example': not a host name (a secret is bound to plain names)",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_was_meant(text: str, expected: str) -> None:
    (said,) = mistakes(text)
    assert said.startswith(expected)


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    found = mistakes('[egress]\nallow = ["127.1", "a:0"]\n[limits]\nmemory = "x"\n')
    assert [said.split(":")[1] for said in found] == ["2", "2", "4"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"egress":\n{"allw": []}}', "p:2: unknown key 'egress.allw'; did you mean 'allow'?"),
        ('{"egress": {"allow": ["a"], "allow": []}}', "p:1: the key 'allow' stands twice in one object"),
        ("[1]", "p:1: not an object"),
        ("{", "p:1: not JSON: "),
        ("[" * 100_000, "p:1: maximum recursion depth"),
    ],
)
def test_json_is_read_as_strictly(text: str, expected: str) -> None:
    (said,) = mistakes(text, is_json=True)
    assert said.startswith(expected)


def test_examples_are_checked_when_the_file_is_read() -> None:
    assert mistakes("""
[[egress.allow]]
host = "a.example:443"
match = ["a.example", "b.example"]
not_match = ["a.example:80", "https://a.example/"]
[exec]
deny = [
  { command = "git push **", match = ["git push -f", "git status"], not_match = ["git pull"] },
]
""") == [
        "p:4: the example 'b.example' is not covered by its rule",
        "p:5: the example 'https://a.example/' is covered by its rule",
        "p:8: the example 'git status' is not covered by its rule",
    ]


def test_a_secret_has_one_source_and_one_way_in() -> None:
    (binding,) = layer("""
[secrets.TOKEN]
source = { env = "TOKEN" }
hosts = ["API.example"]
inject = { basic = "me", value = "{secret}" }
variable = "TOKEN"
""").secrets
    assert binding.hosts == ("api.example",)
    assert binding.injection == Injection(kind="basic", name="me", value="{secret}")
    (said,) = mistakes(
        '[secrets.A]\nhosts = ["a.example"]\nsource = { env = "A" }\ninject = { basic = "a", header = "b" }'
    )
    assert "name one of header, query, basic and sigv4" in said


def test_a_lower_layer_can_only_lower_a_limit() -> None:
    above = layer('[limits]\nmemory = "1 GiB"\nprocesses = 100', "organisation")
    below = layer('[limits]\nmemory = "2 GiB"\nprocesses = 50\nexec_seconds = 5.5')
    found = merge_layers([above, below]).limits
    assert (found.memory_bytes, found.processes, found.exec_seconds) == (1024 * MIB, 50, 5.5)
    opened = layer('open = ["limits"]\n[limits]\nmemory = "1 GiB"', "organisation")
    assert merge_layers([opened, below]).limits.memory_bytes == 2048 * MIB


def test_no_layers_are_a_policy_that_allows_nothing() -> None:
    assert merge_layers([]) == Policy()


def test_a_file_that_is_not_there_is_an_error_never_an_open_policy(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No such file"):
        read_document(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# ok\n# \xe4\n")
    with pytest.raises(InvalidRequest, match=r":2: not UTF-8"):
        read_document(tmp_path / "latin.toml")


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_policy_or_refused(data: bytes, is_json: bool) -> None:
    with suppress(InvalidRequest):
        compile_layer(parse_document(data, "p", is_json=is_json), "project")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["a FIFO", "a device"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "p.toml")
    with pytest.raises(InvalidRequest, match=r"p\.toml:1: not a regular file"):
        read_document(tmp_path / "p.toml")


def test_no_more_of_a_file_is_read_than_a_policy_may_have(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(InvalidRequest, match="larger than 1048576 bytes"):
        read_document(path)


@pytest.mark.parametrize(("name", "text"), [("p.toml", "[limits]\nmemry = 1"), ("p.json", '{"limits":\n{"memry": 1}}')])
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, "utf-8-sig")
    with pytest.raises(InvalidRequest, match=rf"{name}:2: unknown key 'limits.memry'"):
        read_document(path)
