"""`gloveport doctor`: whether sandboxes can work here, what to do when they cannot, and whether they hold."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import anyio
import typer

from gloveport import __version__
from gloveport.cli.options import JsonOption
from gloveport.cli.output import print_json, print_table
from gloveport.client import encode
from gloveport.doctor.attack import AttackKind, Outcome, Report
from gloveport.doctor.receipt import keep_receipt, prepare_receipts, write_receipt
from gloveport.doctor.visit import attack_host, attack_without
from gloveport.errors import STATUSES, Conflict, InvalidRequest
from gloveport.model import Enforcement, Probe, Spec
from gloveport.sandbox import Manager
from gloveport.settings import Settings

__all__ = ["command"]


def command(
    attack: Annotated[bool, typer.Option("--attack", help="Attack the default backend, in a network apart.")] = False,
    without: Annotated[
        str | None, typer.Option(metavar="GUARD", help="Attack a sandbox that lacks this guard: it must be missed.")
    ] = None,
    receipt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was attacked and what came of it, signed.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Examine every backend on this host, or attack the default one.

    The exit status is 69 when the default backend cannot work, and 1 when an attack succeeds or is not shown to work.
    """
    if not attack and (without is not None or receipt is not None):
        raise InvalidRequest("--without and --receipt speak of attacks", hint="add --attack")
    if without is not None and receipt is not None:
        raise InvalidRequest("there is no receipt for a sandbox that lacks a guard", hint="leave one of the two out")
    settings = Settings.load()
    if attack:
        return _attack(settings, without, receipt, as_json)
    probes = anyio.run(_examine, settings)
    if as_json:
        print_json([{**encode(probe), "available": probe.available} for probe in probes])
    else:
        for probe in probes:
            _print(probe)
    usable = any(probe.available for probe in probes if probe.backend == Spec().backend)
    return 0 if usable else STATUSES["backend_unavailable"].exit


def _attack(settings: Settings, without: str | None, receipt: Path | None, as_json: bool) -> int:
    if without is not None:
        report = anyio.run(attack_without, [without])[without]
        _show(report, (), as_json)
        return 0 if report.holds else 1
    # What would lose the result after a minute of attacks is found out before.
    prepare_receipts(settings.data)
    if receipt is not None and receipt.exists():
        raise Conflict(f"{receipt} exists", hint="name another file: no receipt is overwritten")
    watched = _watched(anyio.run(_examine, settings))
    report = anyio.run(attack_host)
    _show(report, watched, as_json)
    sys.stdout.flush()
    signed = keep_receipt(report, settings.data, __version__, watched)
    if receipt is not None:
        write_receipt(signed, receipt)
    return 0 if report.holds else 1


def _watched(probes: Sequence[Probe]) -> tuple[str, ...]:
    """The limits that the default backend keeps by measuring alone."""
    limits = next(probe.limits for probe in probes if probe.backend == Spec().backend)
    return tuple(name for name, how in limits.items() if how is Enforcement.WATCHDOG)


def _show(report: Report, watched: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json({**encode(report), "watched": list(watched)})
    else:
        _tabulate(report, watched)


def _tabulate(report: Report, watched: Sequence[str]) -> None:
    rows = [("KIND", *(outcome.upper() for outcome in Outcome))]
    counted = Counter((finding.attack.kind, finding.outcome) for finding in report.findings)
    rows += [(kind, *(str(counted[kind, outcome] or "-") for outcome in Outcome)) for kind in AttackKind]
    sys.stdout.write(f"{report.backend}: {len(report.findings)} attacks\n\n")
    print_table(rows[0], rows[1:])
    for finding in report.findings:
        if finding.outcome is Outcome.SUCCEEDED:
            sys.stdout.write(f"\n  {finding.attack.name} succeeded: {finding.evidence}\n")
            sys.stdout.write(f"  missing: {finding.attack.guard}\n")
        elif finding.outcome is Outcome.UNPROVEN:
            sys.stdout.write(f"\n  {finding.attack.name} failed even without: {finding.attack.guard}\n")
    held, rest = report.count(Outcome.HELD), len(report.findings) - report.count(Outcome.HELD)
    verdict = f"missing: {', '.join(report.missing)}" if report.missing else "no attack succeeded"
    sys.stdout.write(f"\n{verdict}: {held} held, {rest} not shown here\n" if report.holds else f"\n{verdict}\n")
    if watched:
        limits = ", ".join(watched)
        sys.stdout.write(f"watched, not walled: {limits}: a guest faster than these attacks passes them for a moment\n")


async def _examine(settings: Settings) -> list[Probe]:
    async with Manager(settings) as manager:
        return manager.probes()


def _print(probe: Probe) -> None:
    verdict = "works here" if probe.available else "does not work here"
    versions = ", ".join(f"{name} {version}" for name, version in probe.versions.items())
    sys.stdout.write(f"{probe.backend}: {verdict} (isolation: {probe.isolation}; {versions})\n")
    sys.stdout.write(f"  can: {', '.join(sorted(probe.capabilities))}\n\n")
    print_table(("  LIMIT", "KEPT BY"), [(f"  {name}", str(how)) for name, how in probe.limits.items()])
    for finding in probe.findings:
        severity = "problem" if finding.fatal else "weakness"
        sys.stdout.write(f"\n  {severity}: {finding.problem}\n  remedy: {finding.remedy}\n")
