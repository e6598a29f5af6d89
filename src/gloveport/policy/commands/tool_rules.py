"""Whether an agent may be offered a tool, and may call it."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from gloveport.model import Decision, Policy, PolicyLayer, ToolRule, Verdict
from gloveport.policy.commands.lists import shut_by

__all__ = ["decide_tool"]

_ALLOWED = Decision(verdict=Verdict.ALLOW, rule="built-in: the tools work in the sandbox")


def decide_tool(policy: Policy, name: str) -> Decision:
    """What the policy says of the tool called `name`.

    A rule that denies wins. Where a layer has a rule that allows, its rules are a list, and what is not on it is
    denied; what a rule asks about is on it. A lower layer can only tighten, and add to a list that is open.
    """
    layers = [layer for layer in policy.layers if layer.tools]
    denied = _first(layers, name, Verdict.DENY)
    if denied is not None:
        reason = denied.reason or f"the tool {name!r} is denied"
        return Decision(verdict=Verdict.DENY, rule=str(denied), reason=reason)
    lists = [layer for layer in layers if _is_list(layer)]
    shut = shut_by(lists, "tools", [number for number, layer in enumerate(lists) if _lists(layer, name)])
    if shut is not None:
        rule = f"tools: the allow-list, {shut.origin}"
        return Decision(verdict=Verdict.DENY, rule=rule, reason=f"no rule allows the tool {name!r}")
    asked = _first(layers, name, Verdict.ASK)
    return _ALLOWED if asked is None else Decision(verdict=Verdict.ASK, rule=str(asked), reason=asked.reason)


def _first(layers: Sequence[PolicyLayer], name: str, verdict: Verdict) -> ToolRule | None:
    rules = (rule for layer in layers for rule in layer.tools or () if rule.verdict is verdict)
    return next((rule for rule in rules if _covers(rule, name)), None)


def _is_list(layer: PolicyLayer) -> bool:
    return any(rule.verdict is Verdict.ALLOW for rule in layer.tools or ())


def _lists(layer: PolicyLayer, name: str) -> bool:
    return any(_covers(rule, name) for rule in layer.tools or () if rule.verdict is not Verdict.DENY)


def _covers(rule: ToolRule, name: str) -> bool:
    return fnmatchcase(name, rule.tool)
