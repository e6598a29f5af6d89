"""`gloveport doctor`: whether sandboxes can work here, and what to do when they cannot."""

from __future__ import annotations

import sys

import anyio

from gloveport.cli.options import JsonOption
from gloveport.cli.output import print_json, print_table
from gloveport.client import encode
from gloveport.errors import STATUSES
from gloveport.model import Probe, Spec
from gloveport.sandbox import Manager
from gloveport.settings import Settings

__all__ = ["command"]


def command(as_json: JsonOption = False) -> int:
    """Examine every backend on this host. The exit status is 69 when the default one cannot work."""
    settings = Settings.load()
    probes = anyio.run(_examine, settings)
    if as_json:
        print_json([{**encode(probe), "available": probe.available} for probe in probes])
    else:
        for probe in probes:
            _print(probe)
    usable = any(probe.available for probe in probes if probe.backend == Spec().backend)
    return 0 if usable else STATUSES["backend_unavailable"].exit


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
