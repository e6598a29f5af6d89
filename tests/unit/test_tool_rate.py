"""A rate of tool calls is a line of a policy: exact, only ever tightened below, and refused with its rule."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.client import decode, encode
from gloveport.errors import InvalidRequest, PolicyDenied
from gloveport.model import Policy, PolicyLayer, Spec, Verdict
from gloveport.policy import survey
from gloveport.policy.commands.rate_limit import MOST_TIMES
from gloveport.policy.commands.tool_rates import ToolRates, tool_rates
from gloveport.policy.commands.violations import find_violations
from gloveport.policy.explain import Question, explain
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.policy.security import SecurityManager, ToolRequest
from gloveport.sandbox import Manager, Sandbox
from gloveport.store import read_trail
from gloveport.tools.standard import call_tool

PATIENCE = 120
LOOK = ToolRequest(tool="Read", arguments={"file_path": "a"})


def layer(text: str, name: str = "project") -> PolicyLayer:
    return compile_layer(parse_document(text.encode(), "p.toml"), name)


def policy(*texts: str) -> Policy:
    names = ("organisation", "project", "command line")
    return merge_layers([layer(text, name) for text, name in zip(texts, names, strict=False)])


def rate(text: str, *, is_open: bool = False) -> str:
    opened = 'open = ["tools"]' if is_open else ""
    return f"{opened}\n[tools]\nrate = {text!r}"


def ignore(_facts: Mapping[str, Any]) -> None:
    return


def test_a_call_too_many_is_refused_with_the_line_that_says_so_and_the_time_to_wait() -> None:
    now = [0.0]
    heard: list[Mapping[str, Any]] = []
    manager = SecurityManager(policy(rate("2/minute")), audit=heard.append, clock=lambda: now[0])
    assert manager.judge(LOOK).is_allowed
    now[0] = 15.0
    assert manager.judge(LOOK).is_allowed
    refused = manager.judge(LOOK).decision
    assert refused.rule == "tools.rate: 2 in 60 s, organisation (p.toml:3)"
    assert refused.reason == "too many tool calls; the next one in 45.0 s"
    assert [facts["rule"] for facts in heard] == [refused.rule]
    now[0] = 60.0
    assert manager.judge(LOOK).is_allowed


def test_a_lower_layer_can_only_tighten() -> None:
    upper, lower = "2/minute", "100/second"
    both = policy(rate(upper), rate(lower))
    assert [(each.calls, each.seconds) for each in tool_rates(both)] == [(2, 60), (100, 1)]
    manager = SecurityManager(both, audit=ignore, clock=lambda: 0.0)
    assert [manager.judge(LOOK).is_allowed for _ in range(3)] == [True, True, False]
    opened = policy(rate(upper, is_open=True), rate(lower))
    assert [(each.calls, each.seconds) for each in tool_rates(opened)] == [(100, 1)]
    alone = policy(rate(upper, is_open=True), "[tools]\ndeny = ['x']")
    assert [each.calls for each in tool_rates(alone)] == [2]


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["second", "minute"])), min_size=1, max_size=3),
    st.lists(st.floats(0, 30), max_size=40),
)
def test_a_call_that_one_rate_refuses_counts_for_none(written: list[tuple[int, str]], steps: list[float]) -> None:
    now = [0.0]
    given_policy = policy(*(rate(f"{calls}/{unit}") for calls, unit in written))
    rates = ToolRates(given_policy, clock=lambda: now[0])
    admitted: list[float] = []
    for step in steps:
        now[0] += step
        fits = all(
            sum(time > now[0] - each.seconds for time in admitted) < each.calls for each in tool_rates(given_policy)
        )
        assert (rates.refuse("k") is None) is fits
        if fits:
            admitted.append(now[0])


def test_the_rate_is_exact_from_many_threads_at_once() -> None:
    manager = SecurityManager(policy(rate("300/day"), rate("200/hour")), audit=ignore, clock=lambda: 0.0)
    admitted: list[int] = []

    def ask() -> None:
        admitted.append(sum(manager.judge(LOOK).is_allowed for _ in range(100)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sum(admitted) == 200


@pytest.mark.parametrize(
    "text", ["", "60", "0/minute", "-1/minute", "1/fortnight", f"{MOST_TIMES + 1}/day", "1.5/hour"]
)
def test_what_is_no_rate_is_refused_at_its_line(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"p.toml:3: not a rate: .*for example 60/minute"):
        layer(rate(text))


def test_explain_tells_the_rate_of_an_allowed_tool() -> None:
    found = explain(policy(rate("2/minute") + "\ndeny = ['Write']"), Question.TOOL, "Read", survey())
    assert (found.verdict, found.reason) == (
        Verdict.ALLOW, "no more often than tools.rate: 2 in 60 s, organisation (p.toml:3)",
    )  # fmt: skip
    denied = explain(policy(rate("2/minute") + "\ndeny = ['Write']"), Question.TOOL, "Write", survey())
    assert (denied.verdict, "rate" in denied.reason) == (Verdict.DENY, False)


def test_a_rate_reaches_the_runner_whole() -> None:
    sent = policy(rate("2/minute"), rate("5/hour"))
    assert decode(Policy, encode(sent)) == sent


@pytest.mark.anyio
@pytest.mark.needs("bubblewrap")
async def test_a_sandbox_lets_exactly_so_many_of_its_callers_through(manager: Manager) -> None:
    held = await manager.create(Spec(policy=policy(rate("5/day"))))
    other = await manager.create(Spec(policy=policy(rate("5/day"))))
    outcomes: list[bool] = []

    async def call() -> None:
        result = await call_tool(Sandbox(held), "file_write", {"path": "a", "content": "x"})
        outcomes.append(result.error is None)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(call)
        assert sorted(outcomes) == [False] * 7 + [True] * 5
        with pytest.raises(PolicyDenied) as refused:
            await Sandbox(held).check_tool(LOOK)
        await Sandbox(other).check_tool(LOOK)
    assert held.trail is not None
    rules = {each.rule for each in find_violations(read_trail(held.trail.path))}
    assert rules == {refused.value.context["rule"]} == {"tools.rate: 5 in 86400 s, organisation (p.toml:3)"}
