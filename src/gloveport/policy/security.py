"""What happens to a tool call before it is carried out: one pipeline, from the rate limit to the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gloveport.errors import InvalidRequest
from gloveport.model import WORKSPACE, Decision, Policy, Verdict
from gloveport.policy.commands.exec_rules import decide_reading, has_exec_rules
from gloveport.policy.commands.rate_limit import RateLimiter
from gloveport.policy.commands.risk import Risk, RiskCategory, RiskLevel, RiskReason, assess_path, assess_risk
from gloveport.policy.commands.shell_grammar import read_shell
from gloveport.policy.commands.tool_rules import decide_tool
from gloveport.policy.decide import decide_path, enforce

__all__ = ["Judgement", "SecurityManager", "ToolRequest", "assess_request", "decide_request"]

_COMMANDS: Mapping[str, str] = MappingProxyType({"Bash": "command", "shell": "command"})
"""Tools that run a command line, and the argument that holds it."""
_READS: Mapping[str, str] = MappingProxyType(
    {"Read": "file_path", "Glob": "path", "Grep": "path", "file_read": "path", "search": "path"}
)
_WRITES: Mapping[str, str] = MappingProxyType({"Edit": "file_path", "Write": "file_path", "file_write": "path"})

_ALLOWED = Decision(verdict=Verdict.ALLOW, rule="built-in: the sandbox is the wall")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRequest:
    """A tool call that somebody asks for."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    cwd: str = WORKSPACE
    """The directory in the guest that relative paths start at."""
    principal: str = ""
    """Whose rate it counts against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What was decided, and how dangerous the request looks."""

    decision: Decision
    risk: Risk = field(default_factory=Risk)

    @property
    def is_allowed(self) -> bool:
        """Whether the call may go on."""
        return self.decision.verdict is Verdict.ALLOW


def decide_request(policy: Policy, request: ToolRequest) -> Decision:
    """What the policy says of a tool call: its tools, its commands, its paths, in this order; the first denial stands.

    An argument that is not text is left to the tool's own check.
    """
    decision = decide_tool(policy, request.tool)
    if decision.verdict is not Verdict.ALLOW:
        return decision
    command = _argument(request, _COMMANDS)
    if command is not None and has_exec_rules(policy):
        return decide_reading(policy, read_shell(command))
    for table, write in ((_READS, False), (_WRITES, True)):
        path = _argument(request, table)
        if path:
            return _decide_path(path, write=write, cwd=request.cwd)
    return _ALLOWED


def assess_request(request: ToolRequest) -> Risk:
    """How dangerous a tool call looks, whatever the policy says."""
    command = _argument(request, _COMMANDS)
    if command is not None:
        return assess_risk(read_shell(command))
    for table, write in ((_READS, False), (_WRITES, True)):
        path = _argument(request, table)
        level = assess_path(path, write=write) if path else RiskLevel.NONE
        if level is not RiskLevel.NONE:
            category = RiskCategory.FILESYSTEM_DESTRUCTION if write else RiskCategory.INFORMATION_DISCLOSURE
            return Risk(reasons=(RiskReason(level=level, category=category, reason=f"names {path}"),))
    return Risk()


class SecurityManager:
    """Rate limit → tool lists → command analysis → path rules → decision → audit, for the tool calls of one policy.

    `audit` gets the facts of every refusal, as JSON values, before the caller hears of it. With `refuse_from`, what
    looks at least so dangerous is refused too; without, risk is only recorded.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        audit: Callable[[Mapping[str, Any]], object],
        limiter: RateLimiter | None = None,
        refuse_from: RiskLevel | None = None,
    ) -> None:
        self._policy = policy
        self._audit = audit
        self._limiter = limiter
        self._refuse_from = refuse_from

    def judge(self, request: ToolRequest) -> Judgement:
        """Decide one tool call; a refusal is recorded."""
        decision = self._decide_rate(request)
        if decision.verdict is Verdict.ALLOW:
            decision = decide_request(self._policy, request)
        risk = Risk()
        if decision.verdict is not Verdict.ALLOW or self._refuse_from is not None:
            risk = assess_request(request)
        if decision.verdict is Verdict.ALLOW and self._refuse_from is not None and risk.level >= self._refuse_from:
            decision = Decision(verdict=Verdict.DENY, rule=f"risk: {risk.level}", reason=risk.reasons[0].reason)
        if decision.verdict is not Verdict.ALLOW:
            self._audit(_facts(request, decision, risk))
        return Judgement(decision=decision, risk=risk)

    def check(self, request: ToolRequest) -> None:
        """Raise `PolicyDenied` unless the call may go on."""
        enforce(self.judge(request).decision, request.tool)

    def _decide_rate(self, request: ToolRequest) -> Decision:
        wait = self._limiter.admit(request.principal) if self._limiter is not None else 0.0
        if self._limiter is None or wait <= 0:
            return _ALLOWED
        rate = f"{self._limiter.times} in {self._limiter.seconds:g} s"
        return Decision(
            verdict=Verdict.DENY, rule=f"rate: {rate}", reason=f"too many tool calls; the next one in {wait:.1f} s"
        )


def _decide_path(path: str, *, write: bool, cwd: str) -> Decision:
    try:
        return decide_path(path, write=write, cwd=cwd)
    except InvalidRequest as error:
        return Decision(verdict=Verdict.DENY, rule="built-in: paths", reason=error.message)


def _argument(request: ToolRequest, table: Mapping[str, str]) -> str | None:
    value = request.arguments.get(table.get(request.tool, ""))
    return value if isinstance(value, str) else None


def _facts(request: ToolRequest, decision: Decision, risk: Risk) -> Mapping[str, Any]:
    return {
        "tool": request.tool,
        "arguments": {key: str(value)[:_LONGEST] for key, value in list(request.arguments.items())[:_MOST]},
        "verdict": str(decision.verdict),
        "rule": decision.rule,
        "reason": decision.reason,
        "level": str(max(risk.level, RiskLevel.LOW)),
        "categories": sorted({str(reason.category) for reason in risk.reasons}),
    }


_LONGEST = 2000
"""Characters of one argument that are recorded."""
_MOST = 20
