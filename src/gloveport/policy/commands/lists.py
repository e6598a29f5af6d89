"""How the allow-lists of several layers come together, and what asks where nobody is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gloveport.model import Decision, PolicyLayer, Verdict

__all__ = ["shut_by", "unanswered"]


def unanswered(decision: Decision) -> Decision:
    """A decision where nobody can be asked: what asks is denied."""
    if decision.verdict is not Verdict.ASK:
        return decision
    reason = ": ".join(part for part in ("nobody can be asked here", decision.reason) if part)
    return Decision(verdict=Verdict.DENY, rule=decision.rule, reason=reason)


def shut_by(lists: Sequence[PolicyLayer], section: str, covering: Collection[int]) -> PolicyLayer | None:
    """The highest list that lacks something which those numbered `covering` have, if nothing makes up for it.

    Every list must have it: a lower layer can only tighten. But a list that is open takes what a list below it adds,
    and what it has itself need not be said again below.
    """
    for number, layer in enumerate(lists):
        if number in covering:
            continue
        below = section in layer.open and any(other > number for other in covering)
        above = any(other < number and section in lists[other].open for other in covering)
        if not (below or above):
            return layer
    return None
