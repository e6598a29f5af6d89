"""Policy: what a sandbox is made of and what may happen in it, as pure functions over data."""

from gloveport.policy.compile import GUEST_TOOLS, PlanInputs, check_limits, check_plan, compile_plan
from gloveport.policy.decide import (
    check_bounds,
    decide_exec,
    decide_path,
    encode_text,
    enforce,
)
from gloveport.policy.files.host import HostView, survey
from gloveport.policy.files.showing import check_shown, decide_shown

__all__ = [
    "GUEST_TOOLS",
    "HostView",
    "PlanInputs",
    "check_bounds",
    "check_limits",
    "check_plan",
    "check_shown",
    "compile_plan",
    "decide_exec",
    "decide_path",
    "decide_shown",
    "encode_text",
    "enforce",
    "survey",
]
