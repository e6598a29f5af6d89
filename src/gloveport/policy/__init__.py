"""Policy: what a sandbox is made of and what may happen in it, as pure functions over data."""

from gloveport.policy.compile import GUEST_TOOLS, PlanInputs, check_limits, compile_plan
from gloveport.policy.decide import (
    Decision,
    Verdict,
    check_bounds,
    decide_exec,
    decide_path,
    encode_text,
    enforce,
)
from gloveport.policy.host import HostView, survey

__all__ = [
    "GUEST_TOOLS",
    "Decision",
    "HostView",
    "PlanInputs",
    "Verdict",
    "check_bounds",
    "check_limits",
    "compile_plan",
    "decide_exec",
    "decide_path",
    "encode_text",
    "enforce",
    "survey",
]
