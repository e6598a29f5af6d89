"""Which rule decides, and why: the questions a person may ask of a policy, answered by what decides at work."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType

from gloveport.errors import InvalidRequest, PolicyDenied
from gloveport.model import WORKSPACE, Decision, Policy, Verdict
from gloveport.policy.combine import check_allowed, writable
from gloveport.policy.commands.exec_rules import decide_reading
from gloveport.policy.commands.shell_grammar import read_shell
from gloveport.policy.commands.tool_rates import tool_rates
from gloveport.policy.commands.tool_rules import decide_tool
from gloveport.policy.decide import WRITABLE, decide_path
from gloveport.policy.egress.rules import decide_egress, parse_request
from gloveport.policy.files.host import HostView
from gloveport.policy.files.leading import follow
from gloveport.policy.files.showing import decide_shown, is_within
from gloveport.policy.files.writable import decide_writable

__all__ = ["Question", "explain"]

_GUESTS_OWN = ("/proc", "/dev", "/run/gloveport")
"""Places that every guest has beside the writable ones, and that are none of this host's."""


class Question(StrEnum):
    """What a policy can be asked about."""

    HOST = "host"
    READ = "read"
    WRITE = "write"
    COMMAND = "command"
    TOOL = "tool"


def explain(policy: Policy, question: Question, subject: str, host: HostView) -> Decision:
    """What the policy says of a host (`name:port`, `GET https://name/path`), a path in the guest, a command or a tool.

    No name is resolved and no file opened; a path is judged by where its links lead. Raises `InvalidRequest` for what
    is no host or no path.
    """
    return _ANSWERS[question](policy, subject, host)


def _of_host(policy: Policy, subject: str, _host: HostView) -> Decision:
    return decide_egress(policy, parse_request(subject))


def _of_command(policy: Policy, subject: str, _host: HostView) -> Decision:
    return decide_reading(policy, read_shell(subject))


def _of_tool(policy: Policy, subject: str, _host: HostView) -> Decision:
    decision = decide_tool(policy, subject)
    rates = "; ".join(f"no more often than {rate}" for rate in tool_rates(policy))
    if decision.verdict is Verdict.DENY or not rates:
        return decision
    return replace(decision, reason="; ".join(part for part in (decision.reason, rates) if part))


def _of_read(policy: Policy, subject: str, host: HostView) -> Decision:
    return _where_it_leads(policy, subject, host, _of_place)


def _of_write(policy: Policy, subject: str, host: HostView) -> Decision:
    return _where_it_leads(policy, subject, host, _of_change)


def _where_it_leads(
    policy: Policy, subject: str, host: HostView, decide: Callable[[Policy, str, HostView], Decision]
) -> Decision:
    """What `decide` says of the path without links that `subject` is in the guest."""
    if not subject or "\0" in subject:
        raise InvalidRequest("an empty path, or one with a NUL byte", hint="name a file")
    named = posixpath.normpath(posixpath.join(WORKSPACE, subject))
    path = follow(named, lambda place: _source(policy, place, host))
    decision = decide(policy, path, host)
    if path == named:
        return decision
    return replace(decision, reason=f"{named} leads to {path}; {decision.reason}")


def _of_place(policy: Policy, path: str, host: HostView) -> Decision:
    """As `_of_read`, for a path without links."""
    source = _source(policy, path, host)
    # What a rule names is mounted over the guest's own places, and the workspace over everything.
    if is_within(path, WORKSPACE) or (source is None and any(is_within(path, place) for place in WRITABLE)):
        return Decision(verdict=Verdict.ALLOW, rule="built-in: writable places", reason="the sandbox's own")
    if source is None and any(is_within(path, place) for place in _GUESTS_OWN):
        return Decision(verdict=Verdict.ALLOW, rule="built-in: the guest's own places", reason="the guest's own")
    hidden = _of_hidden(policy, source or path)
    if hidden is not None:
        return hidden
    if host.shows(path) or any(is_within(path, copy) for copy in host.etc):
        return Decision(verdict=Verdict.ALLOW, rule="built-in: system directories", reason="programs need them")
    return _of_named(policy, path, host)


def _of_change(policy: Policy, path: str, host: HostView) -> Decision:
    """As `_of_write`, for a path without links."""
    source = _source(policy, path, host)
    if source is None or is_within(path, WORKSPACE):
        return decide_path(path, write=True)
    hidden = _of_hidden(policy, source)
    if hidden is not None:
        return hidden
    for number, key, place in _named_places(policy):
        if key != "writable" or not is_within(path, place):
            continue
        origin = policy.layers[number].origin
        for decision in (_of_rule(policy, number, key, place, host), decide_writable(place, host)):
            if decision.verdict is not Verdict.ALLOW:
                return decision
        return Decision(
            verdict=Verdict.ALLOW, rule=f"files.writable: {origin}", reason=f"commands in the guest may write {place}"
        )
    return Decision(verdict=Verdict.DENY, rule="built-in: writable places", reason="it is shown, and can only be read")


def _of_hidden(policy: Policy, path: str) -> Decision | None:
    """The denial of a path of this host that a layer hides."""
    real = os.path.realpath(path)
    for layer in policy.layers:
        for hidden in layer.files.hidden if layer.files is not None else ():
            if is_within(real, os.path.realpath(hidden)):
                return Decision(
                    verdict=Verdict.DENY, rule=f"files.hidden: {layer.origin}", reason=f"{hidden} is hidden"
                )
    return None


def _source(policy: Policy, path: str, host: HostView) -> str | None:
    """Which path of this host a path of the guest shows."""
    if host.shows(path) or any(is_within(path, copy) for copy in host.etc):
        return path
    for _, key, place in _named_places(policy):
        for target in _targets(key, place):
            if is_within(path, target):
                return os.path.realpath(place) + path[len(target.rstrip("/")) :]
    return None


def _targets(key: str, place: str) -> Sequence[str]:
    """Where a guest finds a named path: what is only read, at the end of its links too."""
    return (place, os.path.realpath(place)) if key == "read_only" else (place,)


def _named_places(policy: Policy) -> Iterator[tuple[int, str, str]]:
    """The layer, the key and the path of every host path that a layer shows; whoever may write it may read it."""
    for number, layer in enumerate(policy.layers):
        for key in ("read_only", "writable") if layer.files is not None else ():
            for place in getattr(layer.files, key) or ():
                yield number, key, posixpath.normpath(place)


def _of_named(policy: Policy, path: str, host: HostView) -> Decision:
    for number, key, place in _named_places(policy):
        if any(is_within(path, target) for target in _targets(key, place)):
            return _of_rule(policy, number, key, place, host)
    return Decision(
        verdict=Verdict.DENY, rule="built-in: the allow-list", reason="what no rule shows does not exist in the guest"
    )


def _of_rule(policy: Policy, number: int, key: str, place: str, host: HostView) -> Decision:
    """Whether a layer, by its number, shows what it names: nothing built-in forbids it, and no layer above."""
    forbidden = decide_shown(place, host)
    if forbidden.verdict is Verdict.DENY:
        return forbidden
    try:
        if key == "read_only":
            check_allowed(place, policy.layers[:number])
        else:
            tuple(writable(replace(policy, layers=policy.layers[: number + 1])))
    except PolicyDenied as error:
        return Decision(verdict=Verdict.DENY, rule=str(error.context["rule"]), reason=error.message)
    origin = policy.layers[number].origin
    return Decision(verdict=Verdict.ALLOW, rule=f"files.{key}: {origin}", reason=f"{place} is shown")


_ANSWERS: Mapping[Question, Callable[[Policy, str, HostView], Decision]] = MappingProxyType(
    {
        Question.HOST: _of_host,
        Question.READ: _of_read,
        Question.WRITE: _of_write,
        Question.COMMAND: _of_command,
        Question.TOOL: _of_tool,
    }
)
