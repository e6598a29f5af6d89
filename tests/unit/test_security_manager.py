"""Rules about commands and tools decide, are recorded, and cannot be passed by spelling things otherwise."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.agents.guard import Guard
from gloveport.errors import InvalidRequest, PolicyDenied
from gloveport.model import Event, EventKind, ExecRequest, Grep, Limits, Policy, PolicyLayer, Spec, Verdict
from gloveport.policy import decide_exec
from gloveport.policy.commands.rate_limit import RateLimiter
from gloveport.policy.commands.risk import RiskLevel
from gloveport.policy.commands.tool_rules import decide_tool
from gloveport.policy.commands.violations import count_violations, find_violations
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.policy.security import SecurityManager, ToolRequest, decide_request
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.store import read_trail
from gloveport.tools.claude import open_claude_tools
from gloveport.tools.standard import call_tool

PATIENCE = 120
OPEN = 'open = ["exec", "tools"]\n'


def layer(text: str, name: str = "project") -> PolicyLayer:
    return compile_layer(parse_document(text.encode(), "p.toml"), name)


def policy(*texts: str) -> Policy:
    names = ("organisation", "project", "command line")
    return merge_layers([layer(text, name) for text, name in zip(texts, names, strict=False)])


def exec_policy(*, allow: str = "", deny: str = "", ask: str = "") -> Policy:
    parts = [f"{name} = [{', '.join(repr(rule) for rule in rules.split(','))}]"
             for name, rules in (("allow", allow), ("deny", deny), ("ask", ask)) if rules]  # fmt: skip
    return policy("[exec]\n" + "\n".join(parts))


def allows(given: Policy, text: str) -> bool:
    return decide_exec(shell_request(text), Limits(), {}, given).verdict is Verdict.ALLOW


LISTED = exec_policy(allow="ls **,git status **,grep **")

EVASIONS = [
    "rm x",
    "ls; rm x",
    "ls | rm x",
    "ls $(rm x)",
    "ls `rm x`",
    "ls <(rm x)",
    "X=$(rm x) ls",
    "(ls; rm x)",
    "ls() { rm x; }; ls",
    "sh -c 'rm x'",
    "bash -c 'eval \"$1\"' ls 'rm x'",
    "eval rm x",
    'eval "$X"',
    "echo 'rm x' | sh",
    "sh <<E\nrm x\nE",
    "bash",
    "bash script.sh",
    ". ./script",
    "find . -exec rm {} \\;",
    "ls | xargs rm",
    "ls | xargs sh -c",
    "env rm x",
    "timeout 5 rm x",
    "nohup nice setsid rm x",
    "command rm x",
    "exec rm x",
    "busybox rm x",
    "trap 'rm x' EXIT",
    "$X",
    "$(echo rm) x",
    "l$X",
    "./ls",
    "/tmp/ls",
    "/usr/bin/../../tmp/ls",
    "../bin/ls",
    "/proc/self/root/tmp/ls",
    "/workspace/git status",
    "PATH=.:$PATH ls",
    "export PATH=.; ls",
    "LD_PRELOAD=./x.so ls",
    "env LD_PRELOAD=./x.so ls",
    "GIT_SSH_COMMAND=./x git status",
    "bash -lc ls",
    "git push",
    "git $X",
    "git -c alias.status='!rm x' status",
    "alias ls='rm x'",
    "hash -p ./x ls",
    "enable -f ./x ls",
    "source <(rm x)",
    "coproc rm x",
    "echo x > ls",
    ">x rm y",
    "ls \\\n; rm x",
    "if ls; then",
    "ls\x0brm",
    "l\\\ns",
    "[ -n $(rm x) ]",
    "[[ 'a[$(rm x)]' -eq 0 ]]",
    "test -v 'a[$(rm x)]'",
    "printf -v 'a[$(rm x)]' x",
    "read x",
    "sudo ls",
    "ls <<E\n`rm x`\nE",
    "time { rm x; }",
    "r\u200bm x",
]


@pytest.mark.parametrize("text", EVASIONS)
def test_with_an_allow_list_every_simple_command_has_to_be_on_it(text: str) -> None:
    assert not allows(LISTED, text)
    assert allows(Policy(), text)  # the other arm: only the list refuses it


@pytest.mark.parametrize(
    "text",
    [
        "ls", "ls -la $X *.py", "/bin/ls", "/usr/bin/ls -l", "ls | grep -v 'rm x' > /dev/null",
        "cd src && git status -s",
        "if ls a; then echo yes; fi", "ls $(git status) `ls`", "sh -c 'ls; ls'", "env A=b timeout 5 ls",
        "ls | xargs grep x", "eval 'ls -l'", "bash <<E\nls\nE", "set -euo pipefail; ls; true || false", "time ls",
        "trap 'ls' EXIT; ls", "[ -f x ] && ls; [[ -d y ]] || ls", "exec 2>&1; ls", "for x in a b; do ls $x; done",
        "X=1 ls; export Y=2; ls",
    ],
)  # fmt: skip
def test_work_with_listed_commands_goes_on(text: str) -> None:
    assert allows(LISTED, text), decide_exec(shell_request(text), Limits(), {}, LISTED)


DENIED = exec_policy(deny="git push **,rm -rf **")


@pytest.mark.parametrize(
    "text",
    ["git push", "/usr/bin/git push", "/tmp/x/git push origin", "g''it 'push'", "sh -c 'git push'", "env git push",
     "echo $(git push)", "git $X", "git $(echo push)", "$X push", "eval \"$X\"", "curl x | sh", "ls | xargs git",
     "find . -exec git push \\;", "git push $(", "rm -rf \"$X\"", "rm $X y", "nice rm -rf x"],
)  # fmt: skip
def test_a_denied_command_is_refused_however_it_is_spelt(text: str) -> None:
    assert not allows(DENIED, text)


@pytest.mark.parametrize(
    "text", ["git pull", "git commit -m 'git push'", "rm -r x", "rm -f x", "PATH=.:$PATH make", "python3 x.py | tee y"]
)
def test_what_no_rule_denies_goes_on_where_nothing_is_listed(text: str) -> None:
    assert allows(DENIED, text)


def test_an_argument_list_is_judged_like_a_command_line() -> None:
    for argv, verdict in ((("git", "push"), "deny"), (("git", "pull"), "allow"), (("sh", "-c", "git push"), "deny")):
        assert decide_exec(ExecRequest(argv=argv), Limits(), {}, DENIED).verdict == verdict


def test_a_denial_beats_an_allowance_and_a_question_too() -> None:
    both = exec_policy(allow="git **", deny="git push **", ask="git fetch **")
    assert allows(both, "git log")
    pushed = decide_exec(shell_request("git push"), Limits(), {}, both)
    assert pushed.verdict is Verdict.DENY
    assert pushed.rule.startswith("exec.deny: git push **, organisation (p.toml:")
    fetched = decide_exec(shell_request("git fetch"), Limits(), {}, both)
    assert (fetched.verdict, fetched.subject) == (Verdict.ASK, "git fetch")
    assert fetched.rule.startswith("exec.ask: git fetch **, organisation (p.toml:")


def test_a_reason_says_what_and_where() -> None:
    found = decide_exec(shell_request("ls &&\n  make all"), Limits(), {}, LISTED)
    assert found.reason == "no rule allows 'make all' (at 2:3, in bash)"


@pytest.mark.parametrize(
    ("upper", "lower", "text", "expected"),
    [
        ('allow = ["ls **", "git **"]', 'allow = ["ls **"]', "git log", False),
        ('allow = ["ls **"]', 'allow = ["ls **", "git **"]', "git log", False),
        ('allow = ["ls **"]', 'deny = ["ls -a"]', "ls -a", False),
        ('deny = ["git **"]', 'allow = ["git **"]', "git log", False),
        ('deny = ["git **"]', 'allow = ["ls **"]', "make", False),
        ('allow = ["ls **"]', "", "ls", True),
    ],
)
def test_a_lower_layer_only_tightens(upper: str, lower: str, text: str, expected: bool) -> None:
    assert allows(policy(f"[exec]\n{upper}", f"[exec]\n{lower}"), text) is expected


def test_a_list_that_is_open_takes_what_a_lower_layer_adds_but_no_denial_is_lifted() -> None:
    added = policy(OPEN + '[exec]\nallow = ["ls **"]\ndeny = ["git push **"]', '[exec]\nallow = ["git **"]')
    assert allows(added, "ls | git log")
    assert not allows(added, "git push")
    assert not allows(added, "make")


RULES = st.lists(st.sampled_from(["ls **", "git **", "git log", "make", "*", "**", "rm -rf **"]), max_size=3)
SECTIONS = st.builds(lambda allow, deny: f"[exec]\nallow = {allow!r}\ndeny = {deny!r}".replace("'", '"'), RULES, RULES)


@given(SECTIONS, SECTIONS, st.sampled_from(["ls", "git log", "git push", "make && ls", "rm -rf x", "$X", "eval $X"]))
def test_adding_a_layer_below_never_allows_more(upper: str, lower: str, text: str) -> None:
    if allows(policy(upper, lower), text):
        assert allows(policy(upper), text)


def test_tools_follow_the_same_layers() -> None:
    listed = policy('[tools]\nallow = ["Read", "G*"]\ndeny = ["Grep"]', '[tools]\nallow = ["Bash", "Read"]')
    assert [name for name in ("Read", "Glob", "Grep", "Bash") if decide_tool(listed, name).verdict == "allow"] == [
        "Read"
    ]
    asked = decide_tool(policy('[tools]\nask = [{ tool = "Bash", reason = "why" }]'), "Bash")
    assert (asked.verdict, asked.reason) == (Verdict.ASK, "why")
    opened = policy(OPEN + '[tools]\nallow = ["Read"]', '[tools]\nallow = ["Bash"]')
    assert decide_tool(opened, "Bash").verdict is Verdict.ALLOW
    assert decide_tool(opened, "Write").verdict is Verdict.DENY


def test_a_denied_tool_is_neither_offered_to_an_agent_nor_let_through() -> None:
    guard = Guard(["coding"], policy('[tools]\ndeny = ["Bash", "Skill"]'))
    assert "Bash" not in guard.tools
    assert "Read" in guard.tools
    assert not guard.cli_tools
    assert "the policy denies 'Bash'" in guard.refusal("Bash", {})
    assert guard.refusal("Skill", {"skill": "coding"})
    assert not guard.refusal("Read", {})
    free = Guard(["coding"])
    assert not free.refusal("Bash", {})
    assert not free.refusal("Skill", {"skill": "coding"})


class Audit:
    def __init__(self) -> None:
        self.facts: list[Mapping[str, Any]] = []

    def __call__(self, facts: Mapping[str, Any]) -> None:
        self.facts.append(facts)


def test_the_pipeline_refuses_in_its_order_and_records_every_refusal() -> None:
    clock = [0.0]
    audit = Audit()
    given = policy('[tools]\nrate = "6/minute"\ndeny = ["WebFetch", "Glob"]\n[exec]\ndeny = ["rm -rf **"]')
    manager = SecurityManager(given, audit=audit, clock=lambda: clock[0])
    asked = [
        ("WebFetch", {"url": "x"}, "tools.deny: WebFetch"),
        ("Bash", {"command": "ls; rm  -r''f /"}, "exec.deny: rm -rf **"),
        ("Write", {"file_path": "/etc/passwd"}, "built-in: writable places"),
        ("Read", {"file_path": "a\0b"}, "built-in: paths"),
        ("Bash", {"command": "ls"}, None),
        ("Write", {"file_path": "a.txt"}, None),
        ("Bash", {"command": "ls"}, "tools.rate: 6 in 60 s, organisation (p.toml:2)"),
    ]
    for tool, arguments, rule in asked:
        judged = manager.judge(ToolRequest(tool=tool, arguments=arguments))
        assert judged.is_allowed is (rule is None)
        if rule is not None:
            assert judged.decision.rule.startswith(rule)
    assert [facts["level"] for facts in audit.facts] == ["low", "critical", "high", "low", "low"]
    assert "filesystem_destruction" in audit.facts[1]["categories"]
    clock[0] = 60.0
    manager.check(ToolRequest(tool="Bash", arguments={"command": "ls"}))
    with pytest.raises(PolicyDenied, match="rm -rf"):
        manager.check(ToolRequest(tool="Bash", arguments={"command": "rm -rf x"}))


def test_risk_is_advice_unless_it_is_told_to_refuse() -> None:
    asked = ToolRequest(tool="shell", arguments={"command": "curl x | sh"})
    audit = Audit()
    assert SecurityManager(Policy(), audit=audit).judge(asked).is_allowed
    assert not audit.facts
    strict = SecurityManager(Policy(), audit=audit, refuse_from=RiskLevel.HIGH)
    assert strict.judge(asked).decision.rule == "risk: critical"
    assert strict.judge(ToolRequest(tool="shell", arguments={"command": "nmap x"})).is_allowed
    assert audit.facts[0]["level"] == "critical"


@given(st.text(), st.dictionaries(st.text(max_size=9), st.one_of(st.text(), st.integers(), st.none())))
def test_any_tool_call_gets_a_decision(tool: str, arguments: dict[str, Any]) -> None:
    for name in (tool, "Bash", "Read", "Write"):
        asked = ToolRequest(tool=name, arguments={**arguments, "command": tool, "file_path": tool})
        assert decide_request(DENIED, asked).rule


def test_the_rate_is_exact_at_the_edge_of_its_window_and_keys_do_not_share_it() -> None:
    now = [0.0]
    limiter = RateLimiter(2, 10, clock=lambda: now[0])
    assert [limiter.admit("a"), limiter.admit("a")] == [0, 0]
    now[0] = 4.0
    assert limiter.admit("a") == 6.0
    assert limiter.admit("b") == 0
    now[0] = 9.999
    assert limiter.admit("a") > 0
    now[0] = 10.0
    assert limiter.admit("a") == 0
    assert limiter.admit("a") == 0
    assert limiter.admit("a") == 10.0


def test_the_rate_is_exact_under_many_threads() -> None:
    limiter = RateLimiter(500, 60, clock=lambda: 0.0)
    admitted: list[int] = []

    def ask() -> None:
        admitted.append(sum(limiter.admit("one") == 0 for _ in range(200)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sum(admitted) == 500


def test_keys_are_forgotten_and_bounded() -> None:
    now = [0.0]
    limiter = RateLimiter(1, 10, clock=lambda: now[0], most_keys=3)
    assert [limiter.admit(key) for key in "abcd"] == [0, 0, 0, 10]
    now[0] = 10.0
    assert limiter.admit("d") == 0
    assert len(limiter) == 1
    with pytest.raises(InvalidRequest):
        RateLimiter(0)


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from("ab")), max_size=60), st.integers(1, 4))
def test_no_window_ever_holds_more_than_the_rate(steps: list[tuple[float, str]], times: int) -> None:
    now = [0.0]
    limiter = RateLimiter(times, 7, clock=lambda: now[0])
    admitted: dict[str, list[float]] = {"a": [], "b": []}
    for step, key in steps:
        now[0] += step
        recent = [time for time in admitted[key] if time > now[0] - 7]
        is_admitted = limiter.admit(key) == 0
        assert is_admitted is (len(recent) < times)
        if is_admitted:
            admitted[key].append(now[0])


def event(number: int, kind: EventKind, **data: Any) -> Event:
    time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    return Event(sequence=number, time=time.isoformat(timespec="microseconds"), trace="", kind=kind, data=data,
                 previous="", hash="")  # fmt: skip


def test_violations_are_found_by_level_and_time() -> None:
    events = [
        event(0, EventKind.DECISION, verdict="deny", rule="a", reason="r", argv=["rm", "-rf", "/"]),
        event(1, EventKind.DECISION, verdict="allow", warning="x"),
        event(2, EventKind.DECISION, verdict="deny", rule="b", level="high"),
        event(3, EventKind.EXEC_STARTED, argv=["rm", "-rf", "/"]),
        event(4, EventKind.EGRESS, allowed=False, rule="c"),
        event(5, EventKind.EGRESS, allowed=True, rule="d"),
        event(6, EventKind.DECISION, verdict="deny", rule="b", write="/etc/passwd"),
        event(7, EventKind.DECISION, verdict="deny", rule="e", argv=["ls"]),
    ]
    found = list(find_violations(events))
    assert [(each.sequence, str(each.level)) for each in found] == [
        (0, "critical"), (2, "high"), (4, "medium"), (6, "high"), (7, "low"),
    ]  # fmt: skip
    assert [each.sequence for each in find_violations(events, at_least=RiskLevel.HIGH)] == [0, 2, 6]
    since, until = (datetime(2026, 1, 1, 0, minute, tzinfo=UTC) for minute in (2, 6))
    assert [each.sequence for each in find_violations(events, since=since, until=until)] == [2, 4]
    assert count_violations(found)["rule"] == {"a": 1, "b": 2, "c": 1, "e": 1}


async def sandbox_under(manager: Manager, given: Policy) -> tuple[Sandbox, Path]:
    held = await manager.create(Spec(policy=given))
    assert held.trail is not None
    return Sandbox(held), held.trail.path


@pytest.mark.needs("bubblewrap")
async def test_a_sandbox_runs_what_the_rules_allow_and_records_what_they_refuse(manager: Manager) -> None:
    given = policy('[exec]\nallow = ["printf **", "cat **"]\n[tools]\ndeny = ["Write", "file_write"]')
    with anyio.fail_after(PATIENCE):
        sandbox, trail = await sandbox_under(manager, given)
        async with open_claude_tools(sandbox) as tools:
            assert (await tools.call("Bash", {"command": "printf a | cat"})).text == "a"
            refused = await tools.call("Bash", {"command": "cat $(touch made)"})
            assert refused.is_error
            assert "no rule allows 'touch made'" in refused.text
            assert (await tools.call("Write", {"file_path": "made", "content": "x"})).is_error
            found = await tools.call("Grep", {"pattern": "x"})
            assert not found.is_error
        assert (await call_tool(sandbox, "shell", {"command": "touch made"})).error
        assert (await call_tool(sandbox, "file_write", {"path": "made", "content": "x"})).error
        assert (await sandbox.exec(["printf", "b"])).text == "b"
        with pytest.raises(PolicyDenied, match="no rule allows"):
            await sandbox.exec(["touch", "made"])
        assert not await sandbox.files.exists("made")
        assert await sandbox.search(Grep(pattern="x")) == []
        assert len((await sandbox.changes()).changes) == 0
    rules = [each.rule for each in find_violations(read_trail(trail))]
    assert sum(rule.startswith("exec: the allow-list") for rule in rules) == 3
    assert sum(rule.startswith("tools.deny") for rule in rules) == 2


@pytest.mark.needs("bubblewrap")
async def test_without_rules_the_same_commands_run(manager: Manager) -> None:
    with anyio.fail_after(PATIENCE):
        sandbox, trail = await sandbox_under(manager, Policy())
        async with open_claude_tools(sandbox) as tools:
            assert not (await tools.call("Bash", {"command": "cat $(touch made) < /dev/null"})).is_error
        assert await sandbox.files.exists("made")
    assert list(find_violations(read_trail(trail))) == []
