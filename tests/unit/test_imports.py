"""Other sandboxes' settings become a policy that is never wider, and nothing of them is dropped without a word."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.errors import InvalidRequest
from gloveport.model import PolicyLayer, Verdict
from gloveport.policy.egress.hosts import canonical_host
from gloveport.policy.egress.rules import EgressRequest, decide_egress
from gloveport.policy.files.host import HostView
from gloveport.policy.importing.draft import Effect, Note
from gloveport.policy.importing.settings import Imported, SettingsOf, import_settings
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers

HOME = "/home/ada"
HOST = HostView(
    directories=("/usr",),
    links=(("/bin", "usr/bin"),),
    etc=("/etc/ssl/certs",),
    search_path=("/usr/bin", "/opt/tools/bin"),
    homes=(HOME,),
)

SEED = """{
"sandbox": {
"permissions": {
"fs": {
"write": { "allow": [".", "/tmp/agent-workspace"] },
"read": { "deny": ["~/.ssh", "~/.aws"] }
},
"network": {
"allow": [
"api.anthropic.com",
"github.com"
]
}
},
"allowUnsandboxedCommands": true
}
}"""


def imported(said: object, kind: SettingsOf = SettingsOf.AUTO) -> Imported:
    text = said if isinstance(said, str) else json.dumps(said)
    return import_settings(text.encode(), "s.json", HOST, directory=f"{HOME}/project", home=HOME, kind=kind)


def srt(*, network: dict[str, Any] | None = None, filesystem: dict[str, Any] | None = None, **more: object) -> Imported:
    return imported({"network": network or {}, "filesystem": filesystem or {}, **more})


def layer(found: Imported) -> PolicyLayer:
    return compile_layer(found.document, "project")


def verdict(found: Imported, host: str, port: int = 443) -> Verdict:
    request = EgressRequest(host=canonical_host(host), port=port)
    return decide_egress(merge_layers([layer(found)]), request).verdict


def files(found: Imported) -> dict[str, tuple[str, ...]]:
    rules = layer(found).files
    return {} if rules is None else {n: getattr(rules, n) for n in rules.__slots__ if getattr(rules, n)}


def note(found: Imported, key: str, value: str = "") -> Note:
    (only,) = [note for note in found.notes if note.key == key and (not value or note.value == value)]
    return only


def test_the_printed_shape_becomes_rules_with_the_lines_they_come_from() -> None:
    found = imported(SEED)
    assert [(rule.host, rule.origin.line) for rule in layer(found).egress or ()] == [
        ("api.anthropic.com", 10),
        ("github.com", 11),
    ]
    assert files(found) == {"hidden": (f"{HOME}/.ssh", f"{HOME}/.aws")}
    assert verdict(found, "github.com") is Verdict.ALLOW
    assert verdict(found, "attacker.com") is Verdict.DENY
    assert note(found, "sandbox.allowUnsandboxedCommands").effect is Effect.NARROWER
    assert note(found, "sandbox.permissions.fs.write.allow", ".").line == 5
    assert found.is_whole


def test_claude_codes_keys_of_today_become_rules_and_unnamed_hosts_are_asked_about() -> None:
    network: dict[str, Any] = {"allowedDomains": ["*.example.com:8443"], "deniedDomains": ["bad.example.com"]}
    found = imported({"sandbox": {"enabled": True, "network": network}})
    assert verdict(found, "a.example.com", 8443) is Verdict.ALLOW
    assert verdict(found, "bad.example.com", 8443) is Verdict.DENY
    assert verdict(found, "elsewhere.example") is Verdict.ASK
    strict = imported({"sandbox": {"network": {**network, "strictAllowlist": True}}})
    assert verdict(strict, "elsewhere.example") is Verdict.DENY
    assert verdict(imported({"sandbox": {"enabled": True}}), "elsewhere.example") is Verdict.ASK


def test_srt_asks_nobody() -> None:
    assert verdict(srt(network={"allowedDomains": []}), "elsewhere.example") is Verdict.DENY


def test_denials_of_every_kind_hold_with_their_reasons() -> None:
    found = srt(
        network={
            "allowedDomains": ["a.example", "b.example:8080"],
            "deniedDomains": ["*:22", "x.a.example"],
            "deniedDomainReasons": {"x.a.example": "old"},
            "deniedResolvedAddresses": ["203.0.113.0/24"],
        }
    )
    assert verdict(found, "a.example") is Verdict.ALLOW
    assert verdict(found, "a.example", 22) is Verdict.DENY
    assert verdict(found, "b.example", 22) is Verdict.DENY
    reasons = {rule.host: rule.reason for rule in layer(found).egress or ()}
    assert reasons["x.a.example"] == "old"
    assert "203.0.113.0/24" in reasons
    everything = srt(network={"allowedDomains": ["a.example"], "deniedDomains": ["*"]})
    assert verdict(everything, "a.example") is Verdict.DENY


@pytest.mark.parametrize(
    "host", ["*", "*.com", "localhost", "127.0.0.1", "[::1]:80", "169.254.169.254", "a b", "0.0.0.0"]
)
def test_a_host_that_is_too_much_is_not_allowed_and_that_is_said(host: str) -> None:
    found = srt(network={"allowedDomains": [host]})
    assert layer(found).egress == ()
    assert note(found, "network.allowedDomains", host).effect is Effect.NARROWER


@pytest.mark.parametrize("secret", ["~/.ssh", "~/.aws/credentials", "~", "/etc/shadow", "/run/docker.sock"])
@pytest.mark.parametrize("key", ["allowRead", "allowWrite"])
def test_a_secret_of_a_home_or_of_the_host_is_never_opened_by_an_import(secret: str, key: str) -> None:
    found = srt(filesystem={"denyRead": [], key: [secret]})
    assert files(found) == {}
    assert note(found, f"filesystem.{key}", secret).effect is Effect.NARROWER


def test_what_is_denied_is_hidden_and_what_is_allowed_in_it_stays_hidden() -> None:
    found = srt(filesystem={"denyRead": ["/data", "~"], "allowRead": ["/data/open", "~/.cargo/bin", "/usr/lib"]})
    assert files(found) == {"hidden": ("/data",), "read_only": (f"{HOME}/.cargo/bin",)}
    assert note(found, "filesystem.allowRead", "/data/open").effect is Effect.NARROWER
    assert note(found, "filesystem.allowRead", "/usr/lib").effect is Effect.KEPT
    assert note(found, "filesystem.denyRead", "~").effect is Effect.KEPT


@pytest.mark.parametrize(
    "path",
    [
        "~/.bashrc",
        "/home/bob/x/.git/hooks",
        "/usr/local",
        "/opt/tools/bin",
        "/opt/tools",
        "/",
        "~/*.log",
        "~/out/keep",
        "~/out",
    ],
)
def test_no_import_makes_writable_what_the_host_starts_by_itself_or_a_denial_covers(path: str) -> None:
    found = srt(filesystem={"allowWrite": [path], "denyWrite": ["~/out/keep"]})
    assert files(found) == {}
    assert note(found, "filesystem.allowWrite", path).effect is Effect.NARROWER


def test_a_writable_directory_stays_a_rule_and_a_write_denial_in_the_workspace_protects_the_patch() -> None:
    found = srt(filesystem={"allowWrite": [".", "/srv/builds"], "denyWrite": ["./secrets", "**/*.pem", "/opt/x"]})
    assert files(found) == {"writable": ("/srv/builds",), "protected": ("/secrets", "**/*.pem")}
    assert note(found, "filesystem.denyWrite", "/opt/x").effect is Effect.KEPT


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"filesystem": {"denyRead": ["**/.env"]}}, "filesystem.denyRead"),
        ({"filesystem": {"denyRead": ["/"]}}, "filesystem.denyRead"),
        ({"filesystem": {"denyRead": ["."]}}, "filesystem.denyRead"),
        ({"filesystem": {"denyWrite": ["."]}}, "filesystem.denyWrite"),
        ({"filesystem": {"denyEverything": True}}, "filesystem.denyEverything"),
        ({"network": {"denyUploads": True}}, "network.denyUploads"),
        ({"network": {"mitmProxy": {"socketPath": "/x", "domains": ["a.b"]}}}, "network.mitmProxy"),
        ({"network": {}, "somethingNew": 1}, "somethingNew"),
        ({"sandbox": {"autoAllowBashIfSandboxed": False}}, "sandbox.autoAllowBashIfSandboxed"),
        ({"sandbox": {}, "permissions": {"deny": ["Read(x)"]}}, "permissions"),
        ({"sandbox": {"permissions": {"fs": {"exec": {"deny": ["x"]}}}}}, "sandbox.permissions.fs.exec.deny"),
    ],
)
def test_a_restriction_that_no_rule_holds_is_named_as_lost(said: object, key: str) -> None:
    found = imported(said)
    assert note(found, key).effect is Effect.LOST
    assert not found.is_whole


def test_every_key_is_a_rule_or_a_note() -> None:
    network = {
        "allowUnixSockets": ["/run/x"], "allowAllUnixSockets": True, "allowLocalBinding": True, "allowMachLookup": [],
        "httpProxyPort": 1, "socksProxyPort": 2, "parentProxy": {}, "tlsTerminate": {}, "allowManagedDomainsOnly": True,
    }  # fmt: skip
    top = {
        "enabled": True, "failIfUnavailable": True, "autoAllowBashIfSandboxed": True, "excludedCommands": ["docker"],
        "allowUnsandboxedCommands": True, "ignoreViolations": {}, "enableWeakerNestedSandbox": True, "allowPty": True,
        "enableWeakerNetworkIsolation": True, "allowAppleEvents": True, "ripgrep": {}, "mandatoryDenySearchDepth": 3,
        "seccomp": {}, "bwrapPath": "/b", "socatPath": "/s", "javaAgentJarPath": "/j", "windows": {}, "git": {},
    }  # fmt: skip
    inner = {"allowGitConfig": True, "disabled": True, "allowManagedReadPathsOnly": True}
    found = imported({"sandbox": {**top, "network": network, "filesystem": inner}, "model": "x"})
    told = {note.key for note in found.notes}
    expected = {f"sandbox.{key}" for key in top} | {f"sandbox.network.{key}" for key in network}
    assert told == expected | {f"sandbox.filesystem.{key}" for key in inner} | {"model"}
    assert all(note.reason for note in found.notes)
    assert layer(found).egress == ()
    assert files(found) == {}


def test_declared_credentials_are_hidden_and_their_values_never_told() -> None:
    entries = [{"path": "~/.netrc", "mode": "mask"}, {"path": "/srv/token", "mode": "deny"}]
    found = srt(credentials={"files": entries, "envVars": [{"name": "TOKEN", "mode": "mask"}]})
    assert files(found) == {"hidden": (f"{HOME}/.netrc", "/srv/token")}
    assert note(found, "credentials.envVars").effect is Effect.NARROWER


def test_the_policy_can_be_written_down_and_read_again() -> None:
    found = srt(network={"allowedDomains": ["a.example"]}, filesystem={"denyRead": ["/data"]})
    again = parse_document(found.text().encode(), "p.toml")
    assert again.body == found.document.body


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(lambda text: f"/{text}")


@given(st.lists(TEXTS), st.lists(TEXTS), st.lists(st.sampled_from(["a.example", "*.b.example:8443", "1.2.3.4"])))
def test_whatever_the_settings_hold_their_policy_is_a_file_that_says_the_same(
    hidden: list[str], shut: list[str], hosts: list[str]
) -> None:
    reasons = dict.fromkeys(hosts, "".join(hidden))
    found = srt(
        network={"allowedDomains": hosts, "deniedDomains": hosts, "deniedDomainReasons": reasons},
        filesystem={"denyRead": hidden, "denyWrite": shut},
    )
    again = parse_document(found.text().encode(), "p.toml")
    assert again.body == found.document.body
    assert compile_layer(again, "project").files == compile_layer(found.document, "project").files


def test_the_file_names_the_line_that_each_rule_comes_from() -> None:
    said = imported(SEED).text()
    assert said.startswith("# Imported from s.json.\n")
    assert '{ host = "github.com", reason = "allowed in s.json" },  # s.json:11\n' in said
    assert f'"{HOME}/.ssh",  # s.json:6\n' in said


def test_whose_settings_they_are_is_said_where_it_is_not_plain() -> None:
    both: dict[str, Any] = {"sandbox": {"network": {"allowedDomains": ["a.example"]}}, "network": {}}
    with pytest.raises(InvalidRequest, match="say which they are"):
        imported(both)
    assert verdict(imported(both, SettingsOf.CLAUDE), "a.example") is Verdict.ALLOW
    assert verdict(imported(both, SettingsOf.SRT), "a.example") is Verdict.DENY
    with pytest.raises(InvalidRequest, match="no settings of Claude Code"):
        imported({"network": {}}, SettingsOf.CLAUDE)
    with pytest.raises(InvalidRequest, match="no settings of srt"):
        imported({"sandbox": {}}, SettingsOf.SRT)


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="half a character"):
        imported('{"filesystem": {"denyRead": ["/a\\ud800"]}}')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "s.json:1: not an object"),
        ("{}", "s.json:1: neither settings of Claude Code with a sandbox, nor settings of srt"),
        ('{"sandbox":\n 3}', "s.json:1: sandbox: not an object"),
        ('{"network": {\n"allowedDomains": "a"}}', "s.json:2: network.allowedDomains: not a list of strings"),
        ('{"filesystem": {\n"denyRead": [""]}}', "s.json:2: filesystem.denyRead: not a list of strings"),
        ('{"filesystem": {"denyRead":\n["~bob/x"]}}', "s.json:2: filesystem.denyRead.0: not a path: '~bob/x'"),
        ('{"network": {"deniedDomains":\n["a b"]}}', "s.json:2: network.deniedDomains.0: not a host: 'a b'"),
        ('{"network": {}, "network": {}}', "s.json:1: the key 'network' stands twice"),
        ('{"network": ', "s.json:1: not JSON"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        imported(text)
    assert refused.value.message.startswith(says)


def test_a_hostile_name_reaches_no_terminal_as_it_is() -> None:
    found = srt(network={"allowedDomains": ["\x1b[2J*"]})
    assert all(character.isprintable() for note in found.notes for character in str(note))
