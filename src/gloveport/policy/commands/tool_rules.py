"""Whether an agent may be offered a tool, and may call it."""

from __future__ import annotations

from fnmatch import fnmatchcase

from gloveport.model import Decision, Policy, PolicyLayer, ToolRule, Verdict
from gloveport.policy.commands.lists import NOBODY_TO_ASK, shut_by

__all__ = ["decide_tool"]

_ALLOWED = Decision(verdict=Verdict.ALLOW, rule="built-in: the tools work in the sandbox")


def decide_tool(policy: Policy, name: str) -> Decision:
    """What the policy says of the tool called `name`.

    A rule that denies wins. Where a layer has a rule that allows, its rules are a list, and what is not on it is
    denied. A lower layer can only tighten, and add to a list that is open.
    """
    layers = [layer for layer in policy.layers if layer.tools]
    for verdict in (Verdict.DENY, Verdict.ASK):
        for layer in layers:
            for rule in layer.tools or ():
                if rule.verdict is verdict and _covers(rule, name):
                    asks = NOBODY_TO_ASK if verdict is Verdict.ASK else ""
                    said = ": ".join(part for part in (asks, rule.reason) if part) or f"the tool {name!r} is denied"
                    return Decision(verdict=Verdict.DENY, rule=str(rule), reason=said)
    lists = [layer for layer in layers if _is_list(layer)]
    shut = shut_by(lists, "tools", [number for number, layer in enumerate(lists) if _lists(layer, name)])
    if shut is None:
        return _ALLOWED
    return Decision(
        verdict=Verdict.DENY, rule=f"tools: the allow-list, {shut.origin}", reason=f"no rule allows the tool {name!r}"
    )


def _is_list(layer: PolicyLayer) -> bool:
    return any(rule.verdict is Verdict.ALLOW for rule in layer.tools or ())


def _lists(layer: PolicyLayer, name: str) -> bool:
    return any(_covers(rule, name) for rule in layer.tools or () if rule.verdict is Verdict.ALLOW)


def _covers(rule: ToolRule, name: str) -> bool:
    return fnmatchcase(name, rule.tool)
