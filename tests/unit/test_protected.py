"""Protected paths of a patch: whichever way a name is spelt, a file system that takes it for one is not the way in."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.errors import InvalidRequest, PolicyDenied
from gloveport.model import FileRules, Origin, Policy, PolicyLayer
from gloveport.policy.files.protected import (
    ProtectedPath,
    Protection,
    ProtectionLevel,
    Touched,
    check_pattern,
    check_protected,
    find_protected,
    protected_patterns,
)
from gloveport.policy.files.protected_names import BUILT_IN
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer

REFUSED = [
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".profile",
    ".zshrc",
    ".zprofile",
    ".zshenv",
    ".kshrc",
    ".config/fish/config.fish",
    ".config/fish/conf.d/x.fish",
    ".envrc",
    ".git",
    ".git/config",
    ".git/hooks/pre-commit",
    "vendor/bare.git/hooks/post-checkout",
    "vendor/bare.git/config",
    "vendor/bare/HEAD",
    ".gitmodules",
    ".gitconfig",
    ".config/git/config",
    ".husky/pre-commit",
    ".githooks/pre-commit",
    "tools/hooks/pre-push",
    ".vscode/tasks.json",
    ".vscode",
    "project.code-workspace",
    ".idea/workspace.xml",
    ".vimrc",
    ".vim/plugin/x.vim",
    ".exrc",
    ".nvimrc",
    ".emacs",
    ".emacs.d/init.el",
    ".dir-locals.el",
    ".mcp.json",
    ".claude/settings.json",
    ".claude/commands/x.md",
    ".claude/agents/x.md",
    ".cursor/mcp.json",
    ".codex/config.toml",
    ".gemini/settings.json",
    ".ssh/authorized_keys",
    ".npmrc",
    ".pypirc",
    ".netrc",
    ".devcontainer/devcontainer.json",
    ".devcontainer.json",
    ".local/bin/ls",
    ".config/autostart/x.desktop",
]
"""Each from another family; what acts on them is in the reasons."""

WARNED = [
    ".github/workflows/ci.yml",
    ".gitlab-ci.yml",
    "Jenkinsfile",
    ".pre-commit-config.yaml",
    "CLAUDE.md",
    "AGENTS.md",
    ".github/CODEOWNERS",
    ".cargo/config.toml",
]

HARMLESS = [
    "README.md",
    "Makefile",
    "package.json",
    ".gitignore",
    ".gitkeep",
    ".github/ISSUE_TEMPLATE.md",
    ".config/app.toml",
    ".editorconfig",
    ".dockerignore",
    "src/hooks/useState.ts",
    "components/head/index.tsx",
    "bin/head",
    "src/git/config.py",
    "git/config",
    "bashrc",
    "claude/settings.json",
    "fish/salmon.py",
    "docs/profile.md",
    "a~1",
    "config~1.bak",
]

INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u202e\ufe0f"
SAME_TO_SOME = {"s": "ſ", "k": "\u212a", "i": "ı"}  # noqa: RUF001 - that is the point


def find(*paths: str, patterns: Iterable[str] = ()) -> dict[str, ProtectionLevel]:
    found = find_protected([Touched(path=path) for path in paths], tuple(patterns))
    return {one.path: one.level for one in found}


def link(path: str, target: str) -> ProtectedPath | None:
    found = find_protected([Touched(path=path, link=target)])
    return found[0] if found else None


def refuses(*paths: str, **fields: object) -> bool:
    levels = find(*paths, **fields)  # type: ignore[arg-type]
    return all(levels.get(path) is ProtectionLevel.REFUSED for path in paths)


# The names


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("above", ["", "nested/deep/"])
def test_what_a_host_acts_on_by_itself_is_refused_at_any_depth(path: str, above: str) -> None:
    assert refuses(f"{above}{path}")


@pytest.mark.parametrize("path", WARNED)
@pytest.mark.parametrize("above", ["", "nested/deep/"])
def test_what_acts_later_or_elsewhere_is_told_only(path: str, above: str) -> None:
    assert find(f"{above}{path}") == {f"{above}{path}": ProtectionLevel.WARNING}


@pytest.mark.parametrize("path", HARMLESS)
def test_ordinary_names_are_left_alone(path: str) -> None:
    assert find(path) == {}


def test_every_finding_names_its_rule_and_says_why() -> None:
    (found,) = find_protected([Touched(path="a/.envrc")])
    assert found.rule == "built-in: .envrc"
    assert str(found) == "'a/.envrc': direnv or its like runs it when a shell enters the directory"


def test_a_repository_without_a_working_tree_is_found_by_its_head_in_small_letters_too() -> None:
    assert refuses("x/HEAD")
    assert find("x/head", "y/config") == {}
    assert find("x/head", "x/config") == {"x/head": ProtectionLevel.REFUSED}
    assert find("x/head", "x/refs/heads/main")["x/head"] is ProtectionLevel.REFUSED


# Other spellings of them


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, str]:
    """A protected path, and one that some file system takes for it."""
    path = draw(st.sampled_from(REFUSED))
    separator = draw(st.sampled_from(["/", "/", "\\"]))
    return path, separator.join(draw(spelling(name)) for name in path.split("/"))


@st.composite
def spelling(draw: st.DrawFn, name: str) -> str:
    letters = []
    for char in name:
        other = draw(st.sampled_from([char, char, char.upper(), SAME_TO_SOME.get(char, char), wide(char)]))
        letters.append(other + draw(st.sampled_from(["", "", "", "", *INVISIBLE])))
    whole = unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), "".join(letters))
    return whole + draw(st.sampled_from(["", "", ".", " ", ". .", "::$DATA", ":stream", "::$INDEX_ALLOCATION"]))


def wide(char: str) -> str:
    """As a normalising file system folds it: U+FF01 to U+FF5E are ASCII once more."""
    return chr(ord(char) + 0xFEE0) if 0x21 <= ord(char) <= 0x7E else char


@given(spellings())
def test_no_spelling_that_a_file_system_takes_for_a_protected_name_passes(spelt: tuple[str, str]) -> None:
    path, other = spelt
    if path.endswith("HEAD"):
        return  # a name as common as `head` counts only with capitals, or beside a repository's other files
    assert refuses(other), f"{other!r} passes for {path!r}"


@pytest.mark.parametrize(
    "path",
    [
        "GIT~1/config",
        "git~2",
        "GITMOD~1",
        "GI7EBA~1",
        "BASHRC~1",
        "BASH_P~1",
        "VSCODE~1/TASKS~1.JSO",
        "MCP~1.JSO",
        "DEVCON~1.JSO",
        "CLAUDE~1/settings.json",
        "CONFIG~1/fish/config.fish",
        "SSH~1/AUTHOR~1",
    ],
)
def test_short_names_of_windows_are_the_long_ones(path: str) -> None:
    assert refuses(path)


@given(st.text(max_size=30) | st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_any_text_is_judged_without_an_error(path: str) -> None:
    find(path)
    find_protected([Touched(path=path, link=path)], ["deploy/**/*.pem"])


@given(st.sampled_from(REFUSED), st.lists(st.sampled_from(["a", "b c", "名", ".x"]), max_size=4))
def test_what_is_below_a_protected_directory_is_protected(path: str, below: list[str]) -> None:
    if path.endswith("HEAD"):
        return
    assert refuses("/".join([path, *below]))


# Links


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("innocent", ".git/hooks"),
        ("a/b", "../.git"),
        ("a/b", "x/../../.GIT"),
        ("rc", "/home/ada/.bashrc"),
        ("rc", "../../.ssh"),
        ("way", "a/.claude/settings.json"),
        ("way", ".config"),
        (".config/way", "systemd"),
        (".local/share/way", "../bin"),
        ("way", "."),
        ("a/way", ".."),
        ("a/way", "../.."),
        ("way", "/"),
        ("way", "./"),
    ],
)
def test_a_link_at_a_protected_name_or_through_one_is_refused(path: str, target: str) -> None:
    found = link(path, target)
    assert found is not None
    assert found.level is ProtectionLevel.REFUSED
    assert repr(target) in found.reason


@pytest.mark.parametrize("path", [".bashrc", ".config", ".vscode", "hooks", ".local"])
def test_a_link_in_the_place_of_a_protected_name_or_above_one_is_refused(path: str) -> None:
    """`.config` → `cfg` makes `cfg/fish/config.fish` a start-up file, under a harmless name."""
    found = link(path, "cfg")
    assert found is not None
    assert found.level is ProtectionLevel.REFUSED


@pytest.mark.parametrize(("path", "target"), [("latest", "src/a.py"), ("a/b", "../c"), ("x", "/usr/bin/python3")])
def test_other_links_are_not_refused(path: str, target: str) -> None:
    assert link(path, target) is None


def test_a_file_is_what_the_users_own_link_makes_of_it() -> None:
    found = find_protected([Touched(path="dotfiles/bashrc", known_as="~/.bashrc")])
    assert found[0].reason.startswith("the link ~/.bashrc leads here: a shell runs it")


# A policy's own patterns


@pytest.mark.parametrize(
    ("pattern", "covered", "free"),
    [
        ("secrets", ["secrets", "a/secrets/b", "SECRETS"], ["secrets.py", "my/secrets2"]),
        ("/deploy", ["deploy", "deploy/a"], ["a/deploy"]),
        ("deploy/*.pem", ["deploy/a.pem", "x/deploy/B.PEM", "deploy/a.pem/below"], ["deploy/x/a.pem", "a.pem"]),
        ("deploy/**/*.pem", ["deploy/a.pem", "deploy/x/y/a.pem"], ["deploy/a.txt"]),
        ("/**/key", ["key", "a/b/key"], ["keys"]),
        ("v[0-9]/", ["v1/x", "a/v2"], ["vx"]),
        ("Größe", ["größe", "GRÖSSE", unicodedata.normalize("NFD", "größe")], ["grosse"]),
    ],
)
def test_a_pattern_covers_names_at_any_depth_and_what_is_below(
    pattern: str, covered: list[str], free: list[str]
) -> None:
    assert refuses(*covered, patterns=[pattern])
    assert find(*free, patterns=[pattern]) == {}


@pytest.mark.parametrize("pattern", ["", "/", "a//b", "../x", "a/../b", ".", "**", "/**/**", "a\nb", "a\0"])
def test_a_pattern_that_means_nothing_or_everything_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest):
        check_pattern(pattern)


def test_a_bad_pattern_in_a_policy_file_is_named_with_its_line() -> None:
    text = '[files]\nprotected = [\n  "fine",\n  "../x",\n]\n'
    with pytest.raises(InvalidRequest, match=r"p:4: .*not a pattern"):
        compile_layer(parse_document(text.encode(), "p"), "project")


def test_a_hostile_path_does_not_make_a_pattern_slow() -> None:
    """Backtracking would need more steps than there are atoms."""
    path = "/".join(["a"] * 2000)
    pattern = "/".join(["**", "a"] * 20 + ["b"])
    assert find(path, patterns=[pattern]) == {}


def test_every_layer_of_a_policy_adds_patterns() -> None:
    layers = [
        PolicyLayer(origin=Origin(layer=name), files=FileRules(protected=patterns))
        for name, patterns in (("organisation", ("a", "b")), ("project", ("b", "c")))
    ]
    silent = PolicyLayer(origin=Origin(layer="command line"))
    assert protected_patterns(Policy(layers=(*layers, silent))) == ("a", "b", "c")


# The decision


def test_a_refusal_names_every_path_with_its_reason_and_what_to_do() -> None:
    touched = [Touched(path=path) for path in (".bashrc", "src/a.py", ".mcp.json", "CLAUDE.md", "k/x")]
    with pytest.raises(PolicyDenied) as refused:
        check_protected(touched, Protection(patterns=("k",)))
    assert refused.value.context["paths"] == [".bashrc", ".mcp.json", "k/x"]
    lines = refused.value.message.splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == ["'.bashrc'", "'.mcp.json'", "'k/x'"]
    assert "diff" in refused.value.hint
    assert "--allow-protected" in refused.value.hint


def test_only_the_paths_that_are_named_are_allowed() -> None:
    touched = [Touched(path=".bashrc"), Touched(path="a/.bashrc"), Touched(path=".vscode/tasks.json")]
    with pytest.raises(PolicyDenied) as refused:
        check_protected(touched, Protection(allowed=frozenset([".bashrc"])))
    assert refused.value.context["paths"] == ["a/.bashrc", ".vscode/tasks.json"]
    check_protected(touched, Protection(allowed=frozenset(one.path for one in touched)))


@pytest.mark.parametrize("allowed", ["*", ".vscode", ".vscode/", "./.bashrc", ".BASHRC", "src/a.py", "nowhere"])
def test_an_allowance_that_the_patch_has_no_use_for_is_refused(allowed: str) -> None:
    touched = [Touched(path=path) for path in (".bashrc", ".vscode/tasks.json", "src/a.py")]
    with pytest.raises(InvalidRequest, match="needs"):
        check_protected(touched, Protection(allowed=frozenset([".bashrc", ".vscode/tasks.json", allowed])))


def test_a_message_lists_so_many_and_the_context_all() -> None:
    touched = [Touched(path=f"{number}/.bashrc") for number in range(1000)]
    with pytest.raises(PolicyDenied) as refused:
        check_protected(touched, Protection())
    assert len(refused.value.context["paths"]) == 1000
    assert refused.value.message.endswith("and 800 more")


def test_the_reference_lists_every_name() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "protected-paths.md").read_text("utf-8")
    missing = [name for rule in BUILT_IN for name in rule.names.split() if f"`{name}`" not in page]
    assert missing == []
