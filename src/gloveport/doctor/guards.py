"""The guards, one by one, and how each is taken away: to show that an attack works, and that the doctor would notice.

What takes a guard away is a pure function: of the plan, of bubblewrap's command line, or of the gate at the way out.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from gloveport.egress import Answer, Destination, EgressRecord, Gate, Judge
from gloveport.egress.dial import dial
from gloveport.egress.inspection import Inspection
from gloveport.model import GIB, Bind, Limits, Plan, Tmpfs
from gloveport.policy.egress.hosts import Address, forbidden_reason

__all__ = ["GUARDS", "Guard"]

Argv = Sequence[str]


def _same_plan(plan: Plan, _: Mapping[str, str]) -> Plan:
    return plan


def _same_argv(argv: Argv) -> list[str]:
    return list(argv)


def _same_gate(gate: Gate) -> Gate:
    return gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """One thing between a guest and the host, and the sandbox without it. Most leave two of the three as they are."""

    name: str
    keeps: str
    """What it is for, in one sentence."""
    plan: Callable[[Plan, Mapping[str, str]], Plan] = _same_plan
    """The plan without it; given what the host has that attacks look for, by name."""
    argv: Callable[[Argv], list[str]] = _same_argv
    """Bubblewrap's command line without it."""
    gate: Callable[[Gate], Gate] = _same_gate
    """The way out without it."""


# Of bubblewrap's command line


def _without(*words: str) -> Callable[[Argv], list[str]]:
    return lambda argv: [word for word in argv if word not in words]


def _cut(argv: Argv, *pattern: str | None) -> list[str]:
    """Without every run of words that fits; `None` fits any word."""
    left, at = list(argv), 0
    while at + len(pattern) <= len(left):
        if all(want in (None, word) for want, word in zip(pattern, left[at:], strict=False)):
            del left[at : at + len(pattern)]
        else:
            at += 1
    return left


def _without_pid_namespace(argv: Argv) -> list[str]:
    left = _without("--unshare-pid", "--as-pid-1")(argv)
    at = left.index("--proc")
    return [*left[:at], "--bind", "/proc", *left[at + 1 :]]


def _without_covers(argv: Argv) -> list[str]:
    left = list(argv)
    for target in {word for word in argv if word.startswith("/proc/") and word != "/proc/sys"}:
        left = _cut(left, "--ro-bind", "/dev/null", target)
        left = _cut(left, "--perms", None, "--size", None, "--tmpfs", target, "--remount-ro", target)
    return left


def _with_all_devices(argv: Argv) -> list[str]:
    left = _cut(_cut(_cut(argv, "--remount-ro", "/dev"), "--mqueue", None), "--dev", None)
    left = _cut(left, "-w", "/dev/mqueue")
    at = left.index("--proc")
    return [*left[:at], "--dev-bind", "/dev", "/dev", *left[at:]]


def _without_landlock(argv: Argv) -> list[str]:
    at = argv.index("--")
    return [*argv[:at], *_cut(argv[at:], "-w", None)]


# Of the plan


def _shows(*canaries: str) -> Callable[[Plan, Mapping[str, str]], Plan]:
    def weaken(plan: Plan, there: Mapping[str, str]) -> Plan:
        shown = tuple(Bind(there[name], there[name]) for name in canaries if os.path.isdir(there[name]))
        return replace(plan, mounts=(*plan.mounts, *shown))

    return weaken


def _writes_below(plan: Plan, there: Mapping[str, str]) -> Plan:
    mounts = tuple(
        replace(mount, writable=True) if isinstance(mount, Bind) and mount.source == there["shown"] else mount
        for mount in plan.mounts
    )
    return replace(plan, mounts=mounts)


def _writes_the_source(plan: Plan, there: Mapping[str, str]) -> Plan:
    return replace(plan, mounts=(*plan.mounts, Bind(there["source"], "/workspace", writable=True)))


def _with_variables(plan: Plan, there: Mapping[str, str]) -> Plan:
    return replace(plan, env={**plan.env, "HOST_VARIABLE": there["variable"]})


def _with_limits(**wider: float) -> Callable[[Plan, Mapping[str, str]], Plan]:
    def weaken(plan: Plan, _: Mapping[str, str]) -> Plan:
        limits: Limits = replace(plan.limits, **wider)  # type: ignore[arg-type]
        return replace(plan, limits=limits)

    return weaken


def _with_room_in_memory(plan: Plan, _: Mapping[str, str]) -> Plan:
    wider = tuple(replace(m, size_bytes=GIB) if isinstance(m, Tmpfs) else m for m in plan.mounts)
    return replace(plan, mounts=wider, limits=replace(plan.limits, memory_bytes=2 * GIB))


# Of the way out

_YES = Answer(allowed=True, rule="none: the guard is off")


async def _allow(_: Destination) -> Answer:
    return _YES


def _judge_addresses(_: Destination, addresses: Sequence[Address]) -> Answer:
    """The address check by itself: no rule names a place, so every private one is refused."""
    forbidden = [address for address in addresses if forbidden_reason(address, ()) is not None]
    return Answer(allowed=not forbidden, rule="private addresses")


def _without_policy(gate: Gate) -> Gate:
    gate.judge = Judge(before=_allow, after=_judge_addresses)
    gate.canonical = lambda text: text.strip("[]").rstrip(".").lower()
    return gate


def _without_address_check(gate: Gate) -> Gate:
    gate.judge = Judge(before=gate.judge.before, after=lambda *_: _YES)
    return gate


def _as(kind: type[Gate], gate: Gate) -> Gate:
    return kind(
        sandbox=gate.sandbox,
        judge=gate.judge,
        canonical=gate.canonical,
        resolve=gate.resolve,
        tell=gate.tell,
        budget=gate.budget,
        inspection=gate.inspection,
    )


class _ResolvesTwice(Gate):
    """Judges one answer of the name server and dials another."""

    async def connect(self, destination: Destination, record: EgressRecord) -> socket.socket:
        (await super().connect(destination, record)).close()
        judge = Judge(before=_allow, after=lambda *_: _YES)
        return await dial(destination, record, judge=judge, resolve=self.resolve, seconds=self.budget.dial_seconds)


class _ResolvesFirst(Gate):
    """Looks every name up, also those that it refuses."""

    async def connect(self, destination: Destination, record: EgressRecord) -> socket.socket:
        with contextlib.suppress(OSError):
            await self.resolve(destination.host)
        return await super().connect(destination, record)


def _without_alarms(gate: Gate) -> Gate:
    gate.inspection = Inspection(termination=gate.inspection.termination)
    return gate


_ALL = (
    Guard(
        name="system-call filter",
        keeps="the kernel's rarely needed calls out of reach",
        argv=lambda argv: _cut(argv, "--seccomp", None),
    ),
    Guard(name="Landlock", keeps="writing where the plan says, whatever is mounted there", argv=_without_landlock),
    Guard(
        name="Linux capabilities dropped",
        keeps="power over the sandbox's own namespaces from the guest",
        argv=lambda argv: ["--cap-add" if word == "--cap-drop" else word for word in argv],
    ),
    Guard(name="network namespace", keeps="every interface of the host out", argv=_without("--unshare-net")),
    Guard(name="process namespace", keeps="the host's processes out of sight", argv=_without_pid_namespace),
    Guard(
        name="IPC namespace",
        keeps="the host's shared memory out of reach",
        argv=lambda argv: _cut(_cut(_without("--unshare-ipc")(argv), "--mqueue", None), "-w", "/dev/mqueue"),
    ),
    Guard(
        name="host name namespace",
        keeps="the host's name to itself",
        argv=lambda argv: _cut(_without("--unshare-uts")(argv), "--hostname", None),
    ),
    Guard(
        name="control group namespace",
        keeps="where on the host a sandbox is to itself",
        argv=_without("--unshare-cgroup-try"),
    ),
    Guard(name="covered /proc", keeps="what the kernel tells of the host to itself", argv=_without_covers),
    Guard(
        name="read-only /proc/sys",
        keeps="the kernel's settings as they are",
        argv=lambda argv: _cut(argv, "--ro-bind", "/proc/sys", None),
    ),
    Guard(name="device allow-list", keeps="the host's devices out", argv=_with_all_devices),
    Guard(
        name="root allow-list",
        keeps="what is not named out of the guest's file system",
        plan=_shows("home", "etc", "run", "log"),
    ),
    Guard(name="read-only mounts", keeps="what is shown from being written", plan=_writes_below),
    Guard(name="workspace overlay", keeps="the repository as it was", plan=_writes_the_source),
    Guard(name="declared variables", keeps="the host's variables out", plan=_with_variables),
    Guard(name="process limit", keeps="process numbers for others", plan=_with_limits(processes=2000)),
    Guard(name="memory limit", keeps="memory for others", plan=_with_limits(memory_bytes=2 * GIB)),
    Guard(name="disk limit", keeps="disk for others", plan=_with_limits(disk_bytes=4 * GIB)),
    Guard(name="bounded /tmp", keeps="what lies in memory small", plan=_with_room_in_memory),
    Guard(name="open files limit", keeps="the kernel's tables for others", plan=_with_limits(open_files=4096)),
    Guard(name="output limit", keeps="the host from drowning in output", plan=_with_limits(output_bytes=GIB)),
    Guard(name="time limit", keeps="every command's end", plan=_with_limits(exec_seconds=60.0)),
    Guard(name="egress policy", keeps="traffic to the hosts that the policy names", gate=_without_policy),
    Guard(
        name="address check",
        keeps="names from leading to private places",
        gate=_without_address_check,
    ),
    Guard(
        name="one resolution",
        keeps="the address that was judged the one that is dialled",
        gate=lambda gate: _as(_ResolvesTwice, gate),
    ),
    Guard(
        name="no lookup of refused names",
        keeps="data out of questions to name servers",
        gate=lambda gate: _as(_ResolvesFirst, gate),
    ),
    Guard(name="placeholder alarm", keeps="placeholders of secrets where they belong", gate=_without_alarms),
)

GUARDS: Mapping[str, Guard] = MappingProxyType({guard.name: guard for guard in _ALL})
"""By name."""
