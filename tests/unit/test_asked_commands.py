"""What a rule asks about is neither allowed nor denied by it, and is spelt so that a person sees all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.agents.guard import Guard
from gloveport.errors import PolicyDenied
from gloveport.model import Decision, ExecRequest, Limits, Policy, PolicyLayer, Verdict
from gloveport.policy import decide_exec, enforce
from gloveport.policy.commands.exec_rules import LONGEST_ASKED
from gloveport.policy.commands.tool_rules import decide_tool
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.policy.security import SecurityManager, ToolRequest, asked_tool, decide_request
from gloveport.sandbox import shell_request


def layer(text: str, name: str = "project") -> PolicyLayer:
    return compile_layer(parse_document(text.encode(), "p.toml"), name)


def policy(*texts: str) -> Policy:
    names = ("organisation", "project", "command line")
    return merge_layers([layer(text, name) for text, name in zip(texts, names, strict=False)])


def decide(given_policy: Policy, text: str) -> Decision:
    return decide_exec(shell_request(text), Limits(), {}, given_policy)


ASKS = '[exec]\nask = [{ command = "git push **", reason = "who?" }, "npm publish **"]'


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("git push", "git push"),
        ("cd a && git push  origin 'a b' > log", "git push origin 'a b'"),
        ("git push; npm publish; git push", "git push; npm publish"),
        ("sh -c 'git push x'", "git push x"),
        ("git push $X '$X'", "git push $X '$X'"),
        ("git $X", "git $X"),
        ("git push $'\\033[2J'", "git push $'\\x1b[2J'"),
    ],
)
def test_a_question_spells_exactly_what_is_asked_about(text: str, subject: str) -> None:
    found = decide(policy(ASKS), text)
    assert (found.verdict, found.subject) == (Verdict.ASK, subject)
    assert "exec.ask: " in found.rule


def test_a_character_that_no_screen_shows_is_spelt_out() -> None:
    argv = ("git", "push", "\u202egnorw", "\x1b[2J")
    found = decide_exec(ExecRequest(argv=argv), Limits(), {}, policy(ASKS))
    assert found.subject == r"git push $'\u202egnorw' $'\x1b[2J'"


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_no_two_commands_are_spelt_alike(first: list[str], second: list[str]) -> None:
    subjects = []
    for words in (first, second):
        argv = ("git", "push", *(word.replace("\0", "0") for word in words))
        subjects.append((argv, decide_exec(ExecRequest(argv=argv), Limits(), {}, policy(ASKS)).subject))
    (one, spelt), (other, alike) = subjects
    assert (spelt == alike) is (one == other)
    assert spelt.isprintable()


def test_what_is_too_long_to_be_read_is_denied_and_not_asked() -> None:
    assert decide(policy(ASKS), f"git push {'x' * LONGEST_ASKED}").verdict is Verdict.DENY


@pytest.mark.parametrize("text", ["git push; rm x", "rm x; git push", 'git push; eval "$X"', "git push | sh"])
def test_a_denial_anywhere_beats_the_question(text: str) -> None:
    denies = ASKS + '\ndeny = ["rm **"]'
    assert decide(policy(denies), text).verdict is Verdict.DENY


def test_what_is_asked_about_is_on_the_list_of_its_layer_and_needs_every_other_list() -> None:
    listed = '[exec]\nallow = ["ls **"]\nask = ["git push **"]'
    assert [decide(policy(listed), text).verdict for text in ("ls", "git push", "git pull")] == ["allow", "ask", "deny"]
    assert decide(policy('[exec]\nallow = ["ls **"]', listed), "git push").verdict is Verdict.DENY
    assert decide(policy(listed, '[exec]\nallow = ["ls **", "git **"]'), "git push").verdict is Verdict.ASK
    assert decide(policy('[exec]\nallow = ["**"]', '[exec]\nask = ["git **"]'), "git push").verdict is Verdict.ASK


def test_tools_are_asked_about_in_the_same_way() -> None:
    listed = policy('[tools]\nallow = ["Read"]\nask = ["Bash", "Skill"]\ndeny = ["Edit"]')
    verdicts = [decide_tool(listed, name).verdict for name in ("Read", "Bash", "Edit", "Grep")]
    assert verdicts == ["allow", "ask", "deny", "deny"]
    guard = Guard(["coding"], listed)
    assert set(guard.tools) == {"Read", "Bash"}
    assert not guard.cli_tools
    assert "nobody can be asked here" in guard.refusal("Skill", {"skill": "coding"})


def test_without_anybody_to_ask_a_question_is_a_recorded_denial() -> None:
    heard = []
    manager = SecurityManager(policy(ASKS), audit=heard.append)
    asked = ToolRequest(tool="Bash", arguments={"command": "git push"})
    assert manager.decide(asked).verdict is Verdict.ASK
    with pytest.raises(PolicyDenied, match="nobody can be asked here: who\\?"):
        manager.check(asked)
    assert [facts["verdict"] for facts in heard] == ["deny"]
    with pytest.raises(PolicyDenied):
        enforce(decide(policy(ASKS), "git push"), "refused")


def test_of_a_call_that_is_asked_about_and_denied_the_denial_stands() -> None:
    both = policy('[tools]\nask = ["Write"]')
    denied = ToolRequest(tool="Write", arguments={"file_path": "/etc/passwd"})
    assert decide_request(both, denied).verdict is Verdict.DENY
    assert decide_request(both, ToolRequest(tool="Write", arguments={"file_path": "a"})).verdict is Verdict.ASK


def test_arguments_that_differ_are_another_question_however_long_they_are() -> None:
    calls = [ToolRequest(tool="Write", arguments={"content": "x" * 9000 + end}) for end in ("a", "b", "a")]
    first, second, again = (asked_tool(call) for call in calls)
    assert first != second
    assert first == again
    assert first.key == second.key
    assert asked_tool(ToolRequest(tool="Write", arguments={"content": "\u202e\x1b"})).shown.isprintable()
