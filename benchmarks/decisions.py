"""What a decision costs where a policy has 1,000 rules of its kind: microseconds, no baseline."""

from __future__ import annotations

import ipaddress
import statistics
import time
from collections.abc import Callable
from functools import partial

from benchmarks.measure import Effort, Result, Sample, interleave
from gloveport.model import EgressRule, ExecRequest, ExecRule, Limits, Origin, Policy, PolicyLayer, Verdict
from gloveport.policy import decide_exec
from gloveport.policy.commands.index import ExecIndex
from gloveport.policy.egress.hosts import Host, canonical_host
from gloveport.policy.egress.index import EgressIndex
from gloveport.policy.egress.rules import EgressRequest, decide_addresses, decide_egress

__all__ = ["measure"]

BOUND_US = 50.0
RULES = 1000
_REPEATS = 20
_LIMITS = Limits()
_ANSWER = ipaddress.ip_address("203.0.113.7")
"""What the names are resolved to; public in the eyes of a policy."""


async def measure(effort: Effort) -> list[Result]:
    """Of each kind of destination, and of command, in turn; a row is of the slowest kind."""
    index = EgressIndex(_policy())
    asked = {
        "a name": "host-249.example",
        "a name below one": "deep.below-249.example",
        "a name that no rule has": "nobody.test",
        "an address": "198.51.100.7",
    }
    samples: dict[str, Sample] = {}
    for kind, host in asked.items():
        request = EgressRequest(host=canonical_host(host), port=443)
        samples[kind] = partial(_timed, partial(_decide, index, request))
        samples[f"{kind}, resolved"] = partial(_timed, partial(_decide_resolved, index, request))
    commands = _commands()
    decide_command = partial(_decide_command, commands, ExecIndex(commands))
    run = {
        "a listed command": ("tool-249", "do", "x"),
        "another of a listed program": ("tool-249", "undo"),
        "a program that no rule has": ("nobody", "x"),
    }
    samples |= {kind: partial(_timed, partial(decide_command, ExecRequest(argv=argv))) for kind, argv in run.items()}
    seconds = await interleave(samples, rounds=effort.fast, warmup=effort.warmup)
    return [
        _slowest(f"decision about a destination, {RULES:,} rules", {kind: seconds[kind] for kind in asked}, BOUND_US),
        _slowest(
            f"decision about its addresses, {RULES:,} rules",
            {kind: seconds[f"{kind}, resolved"] for kind in asked},
            None,
        ),
        _slowest(f"decision about a command, {RULES:,} rules", {kind: seconds[kind] for kind in run}, BOUND_US),
    ]


def _policy() -> Policy:
    hosts = [
        host
        for number in range(RULES // 4)
        for host in (
            f"host-{number}.example",
            f"*.below-{number}.example",
            f"198.51.{number}.0/24",
            f"2001:db8:{number:x}::/48",
        )
    ]
    rules = tuple(EgressRule(verdict=Verdict.ALLOW, host=host) for host in hosts)
    return Policy(layers=(PolicyLayer(origin=Origin(layer="project"), egress=rules),))


def _commands() -> Policy:
    rules = [
        ExecRule(verdict=verdict, command=(f"tool-{number}", word, "**"))
        for number in range(RULES // 2)
        for verdict, word in ((Verdict.ALLOW, "do"), (Verdict.DENY, "never"))
    ]
    return Policy(layers=(PolicyLayer(origin=Origin(layer="project"), exec=tuple(rules)),))


def _decide(index: EgressIndex, request: EgressRequest) -> object:
    return decide_egress(index.about(request.host), request)


def _decide_resolved(index: EgressIndex, request: EgressRequest) -> object:
    address = request.host.address or _ANSWER
    about = index.about(request.host, Host(str(address), address))
    return decide_addresses(about, request, [address])


def _decide_command(policy: Policy, index: ExecIndex, request: ExecRequest) -> object:
    return decide_exec(request, _LIMITS, policy=policy, env_bytes=0, index=index)


async def _timed(decide: Callable[[], object]) -> float:
    """Seconds of one, as the mean of some: one alone is near what the clock can tell."""
    began = time.perf_counter()
    for _ in range(_REPEATS):
        decide()
    return (time.perf_counter() - began) / _REPEATS


def _slowest(name: str, kinds: dict[str, list[float]], bound: float | None) -> Result:
    medians = {kind: statistics.median(seconds) * 1e6 for kind, seconds in kinds.items()}
    kind = max(medians, key=medians.__getitem__)
    return Result(name=name, unit="µs", value=medians[kind], bound=bound, rounds=len(kinds[kind]), note=kind)
