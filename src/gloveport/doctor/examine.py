"""Attacks one backend: first as it is, then without each guard in turn, which shows that each attack works."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import reduce
from importlib import resources
from pathlib import Path

import anyio

from gloveport.backends import Backend
from gloveport.backends.bubblewrap import BubblewrapBackend
from gloveport.backends.bubblewrap.render import Places, render
from gloveport.doctor.attack import Attack, Finding, Outcome, Report
from gloveport.doctor.file_attacks import MARK, NEIGHBOUR_PORT, file_attacks, limit_attacks, peer_attacks
from gloveport.doctor.grounds import GROUNDS, Canaries, plant
from gloveport.doctor.guards import GUARDS, Guard
from gloveport.doctor.kernel_attacks import kernel_attacks
from gloveport.doctor.names import NameServer
from gloveport.doctor.network_attacks import network_attacks
from gloveport.doctor.witness import open_witness
from gloveport.egress import Gate, Inspection
from gloveport.errors import BackendUnavailable, GloveportError
from gloveport.model import ExecRequest, Plan, Policy, Ref, Spec
from gloveport.sandbox import Manager, Sandbox
from gloveport.sandbox.approvals import Window
from gloveport.sandbox.egress import make_gate
from gloveport.settings import Settings
from gloveport.store import Trail

__all__ = ["all_attacks", "examine", "try_without"]

Answers = dict[str, str]
"""Attack → what it got; nothing where it was refused."""
_ALONE_SECONDS = 60.0
_TOGETHER_SECONDS = 300.0
_PROGRAMS = ("harness", "kernel", "files", "network", "limits", "peers")
Tell = Callable[[str], None]


def all_attacks(canaries: Canaries) -> tuple[Attack, ...]:
    """Every attack, each name once."""
    return (
        *kernel_attacks(),
        *file_attacks(canaries),
        *peer_attacks(),
        *network_attacks(),
        *limit_attacks(),
    )


async def examine(place: Path, tell: Tell) -> Report:
    """Attack the default backend. `place` is an empty directory that every user may pass through; in the range."""
    canaries = plant(place)
    attacks = all_attacks(canaries)
    async with _open_network() as names:
        battle = _Battle(place, canaries, names)
        tell(f"{len(attacks)} attacks on the sandbox as it is")
        found = await battle.run(attacks)
        controls: Answers = {}
        for names_of_guards in dict.fromkeys((attack.guard, attack.behind) for attack in attacks):
            guards = [GUARDS[name] for name in names_of_guards if name]
            mine = [each for each in attacks if (each.guard, each.behind) == names_of_guards and not each.on_host]
            tell(f"{len(mine)} controls without: {', '.join(guard.name for guard in guards)}")
            controls |= await battle.run(mine, guards)
        controls |= await _run_on_host([attack for attack in attacks if attack.on_host])
        findings = [_judge(attack, found[attack.name], controls.get(attack.name, "")) for attack in attacks]
        return Report(backend="bubblewrap", findings=findings, plan_digests=battle.digests)


async def try_without(place: Path, guards: Sequence[Guard], tell: Tell) -> dict[str, Report]:
    """Sandboxes that lack one guard each: whether its want would be noticed, and under its own name.

    Each is attacked with all that the guard is to stop, and one thing that each of the others is to.
    """
    canaries = plant(place)
    attacks = all_attacks(canaries)
    reports = {}
    async with _open_network() as names:
        battle = _Battle(place, canaries, names)
        for guard in guards:
            chosen = _around(guard, attacks)
            tell(f"{len(chosen)} attacks without: {guard.name}")
            found = await battle.run(chosen, [guard])
            findings = [
                Finding(
                    attack=attack,
                    outcome=Outcome.SUCCEEDED if found[attack.name] else Outcome.HELD,
                    evidence=found[attack.name],
                )
                for attack in chosen
            ]
            reports[guard.name] = Report(backend="bubblewrap", findings=findings, plan_digests=dict(battle.digests))
    return reports


def _around(guard: Guard, attacks: Sequence[Attack]) -> list[Attack]:
    own = [attack for attack in attacks if attack.guard == guard.name]
    others = {attack.guard: attack for attack in reversed(attacks) if not attack.alone and attack.guard != guard.name}
    return [*own, *others.values()]


def _judge(attack: Attack, evidence: str, control: str) -> Finding:
    if evidence:
        outcome = Outcome.SUCCEEDED
    elif control:
        outcome = Outcome.HELD
    elif attack.on_host and os.geteuid() != 0:
        outcome = Outcome.UNTRIED
    else:
        outcome = Outcome.ABSENT if attack.optional else Outcome.UNPROVEN
    return Finding(attack=attack, outcome=outcome, evidence=evidence, control=control)


@asynccontextmanager
async def _open_network() -> AsyncIterator[NameServer]:
    names = NameServer()
    async with open_witness(), anyio.create_task_group() as tasks:
        tasks.start_soon(names.run)
        yield names
        tasks.cancel_scope.cancel()


class _Battle:
    """Rounds of attacks on sandboxes of one kind."""

    def __init__(self, place: Path, canaries: Canaries, names: NameServer) -> None:
        self.digests: dict[str, str] = {}
        self._settings = Settings(state=place / "state", data=place / "data")
        self._canaries = canaries
        self._names = names

    async def run(self, attacks: Sequence[Attack], without: Sequence[Guard] = ()) -> Answers:
        """What each attack gets, without some guards."""
        self._names.forget()
        answers: Answers = {}
        async with self._manager(without) as manager:
            for ground in dict.fromkeys(attack.ground for attack in attacks):
                mine = [attack for attack in attacks if attack.ground == ground]
                answers |= await self._run_on(manager, ground, mine)
        return answers

    def _manager(self, without: Sequence[Guard]) -> Manager:
        if not without:
            return Manager(self._settings)
        there = self._canaries.there

        def open_backend(_: str, state: Path) -> AbstractAsyncContextManager[Backend]:
            return _Weakened(state, without, there)

        def open_gate(sandbox: str, policy: Policy, trail: Trail, window: Window, inspection: Inspection) -> Gate:
            gate = make_gate(sandbox, policy, trail, window, inspection)
            return reduce(lambda weaker, guard: guard.gate(weaker), without, gate)

        return Manager(self._settings, open_backend=open_backend, make_gate=open_gate)

    async def _run_on(self, manager: Manager, ground: str, attacks: Sequence[Attack]) -> Answers:
        held = await manager.create(GROUNDS[ground](self._canaries))
        sandbox = Sandbox(held)
        try:
            await sandbox.require("python3")
            self.digests.setdefault(ground, (await sandbox.status()).plan_digest)
            async with AsyncExitStack() as stack:
                if any(attack.needs_neighbour for attack in attacks):
                    await stack.enter_async_context(_neighbour(manager))
                answers = await _attack(sandbox, [attack for attack in attacks if not attack.alone])
                for attack in attacks:
                    if attack.alone:
                        answers |= await _attack(sandbox, [attack])
        finally:
            await manager.delete(sandbox.id)
        return answers | {attack.name: self._proof(attack) for attack in attacks if attack.asks or attack.leaves}

    def _proof(self, attack: Attack) -> str:
        """What the host has of an attack whose success the guest itself cannot see."""
        if attack.asks:
            return f"{attack.asks} was looked up" if self._names.asked[attack.asks] else ""
        left = Path(attack.leaves)
        written = left.exists() and self._canaries.text not in left.read_text("utf-8", "replace")
        self._canaries.restore(left)
        return f"{left.name} was written" if written else ""


class _Weakened(BubblewrapBackend):
    """The backend without some guards."""

    def __init__(self, state: Path, without: Sequence[Guard], there: Mapping[str, str]) -> None:
        def weak(plan: Plan, places: Places) -> list[str]:
            return reduce(lambda argv, guard: guard.argv(argv), without, render(plan, places))

        super().__init__(state, render=weak)
        self._without = without
        self._there = there

    async def create(self, plan: Plan) -> Ref:
        return await super().create(reduce(lambda weak, guard: guard.plan(weak, self._there), self._without, plan))


@asynccontextmanager
async def _neighbour(manager: Manager) -> AsyncIterator[None]:
    sandbox = Sandbox(await manager.create(Spec()))
    dwell = (_source("peers"), str(NEIGHBOUR_PORT), MARK)
    process = await sandbox.start(("python3", "-c", *dwell))
    try:
        async for _ in process:
            break  # it said that it is there
        yield
    finally:
        await manager.delete(sandbox.id)


async def _attack(sandbox: Sandbox, attacks: Sequence[Attack]) -> Answers:
    refused = {attack.name: "" for attack in attacks}
    if not attacks:
        return refused
    alone = attacks[0].alone
    timeout = None if attacks[0].ground == "short" else _ALONE_SECONDS if alone else _TOGETHER_SECONDS
    request = ExecRequest(argv=("python3", "-c", _source("harness")), timeout=timeout)
    try:
        result = await sandbox.exec(request, input=_asked(attacks))
    except GloveportError:
        if alone:
            return refused  # its sandbox ended with it
        raise
    try:
        found: Answers = json.loads(result.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        if alone:
            return refused
        raise BackendUnavailable(
            f"the attacks did not run: {result.stderr[-300:].decode('utf-8', 'replace')}",
            hint="they need a working python3 in the sandbox",
        ) from None
    sys.stderr.write(result.stderr.decode())
    return refused | found


async def _run_on_host(attacks: Iterable[Attack]) -> Answers:
    """As root, in a network of its own: each is harmless, whatever comes of it."""
    given = list(attacks)
    if os.geteuid() != 0 or not given:
        return {}
    done = await anyio.run_process([sys.executable, "-I", "-c", _source("harness")], input=_asked(given))
    answers: Answers = json.loads(done.stdout.splitlines()[-1])
    return answers


def _asked(attacks: Sequence[Attack]) -> bytes:
    asked = {
        "modules": {name: _source(name) for name in _PROGRAMS},
        "attacks": [{"name": each.name, "run": each.run, "arguments": each.arguments} for each in attacks],
        "alone": attacks[0].alone,
    }
    return json.dumps(asked).encode()


def _source(name: str) -> str:
    return resources.files("gloveport.doctor.inside").joinpath(f"{name}.py").read_text("utf-8")
