"""Which rule decides, and why: the questions a person may ask of a policy, answered by what decides at work."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

from gloveport.errors import InvalidRequest, PolicyDenied
from gloveport.model import WORKSPACE, Decision, Policy, Verdict
from gloveport.policy.combine import check_allowed
from gloveport.policy.commands.exec_rules import decide_reading
from gloveport.policy.commands.shell_grammar import read_shell
from gloveport.policy.commands.tool_rules import decide_tool
from gloveport.policy.decide import WRITABLE, decide_path
from gloveport.policy.egress.rules import decide_egress, parse_request
from gloveport.policy.files.host import HostView
from gloveport.policy.files.showing import decide_shown, is_within

__all__ = ["Question", "explain"]


class Question(StrEnum):
    """What a policy can be asked about."""

    HOST = "host"
    READ = "read"
    WRITE = "write"
    COMMAND = "command"
    TOOL = "tool"


def explain(policy: Policy, question: Question, subject: str, host: HostView) -> Decision:
    """What the policy says of a host (`name:port`, `GET https://name/path`), a path in the guest, a command or a tool.

    Nothing is resolved or opened. Raises `InvalidRequest` for what is no host or no path.
    """
    return _ANSWERS[question](policy, subject, host)


def _of_host(policy: Policy, subject: str, _host: HostView) -> Decision:
    return decide_egress(policy, parse_request(subject))


def _of_write(_policy: Policy, subject: str, _host: HostView) -> Decision:
    return decide_path(subject, write=True)


def _of_command(policy: Policy, subject: str, _host: HostView) -> Decision:
    return decide_reading(policy, read_shell(subject))


def _of_tool(policy: Policy, subject: str, _host: HostView) -> Decision:
    return decide_tool(policy, subject)


def _of_read(policy: Policy, subject: str, host: HostView) -> Decision:
    if not subject or "\0" in subject:
        raise InvalidRequest("an empty path, or one with a NUL byte", hint="name a file")
    path = posixpath.normpath(posixpath.join(WORKSPACE, subject))
    if any(is_within(path, place) for place in WRITABLE):
        return Decision(verdict=Verdict.ALLOW, rule="built-in: writable places", reason="the sandbox's own")
    real = os.path.realpath(path)
    for layer in policy.layers:
        for hidden in layer.files.hidden if layer.files is not None else ():
            if is_within(real, os.path.realpath(hidden)):
                return Decision(
                    verdict=Verdict.DENY, rule=f"files.hidden: {layer.origin}", reason=f"{hidden} is hidden"
                )
    if host.shows(path) or any(is_within(path, copy) for copy in host.etc):
        return Decision(verdict=Verdict.ALLOW, rule="built-in: system directories", reason="programs need them")
    return _of_named(policy, path, host)


def _of_named(policy: Policy, path: str, host: HostView) -> Decision:
    for number, layer in enumerate(policy.layers):
        for place in layer.files.read_only if layer.files is not None else ():
            if not is_within(path, place):
                continue
            forbidden = decide_shown(place, host)
            if forbidden.verdict is Verdict.DENY:
                return forbidden
            try:
                check_allowed(place, policy.layers[:number])
            except PolicyDenied as error:
                return Decision(verdict=Verdict.DENY, rule=str(error.context["rule"]), reason=error.message)
            return Decision(verdict=Verdict.ALLOW, rule=f"files.read_only: {layer.origin}", reason=f"{place} is shown")
    return Decision(
        verdict=Verdict.DENY, rule="built-in: the allow-list", reason="what no rule shows does not exist in the guest"
    )


_ANSWERS: Mapping[Question, Callable[[Policy, str, HostView], Decision]] = MappingProxyType(
    {
        Question.HOST: _of_host,
        Question.READ: _of_read,
        Question.WRITE: _of_write,
        Question.COMMAND: _of_command,
        Question.TOOL: _of_tool,
    }
)
