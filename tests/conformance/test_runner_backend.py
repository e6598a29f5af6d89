"""A runner is just a backend: the shipped conformance suite, against the sandboxes of another process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from gloveport.client import stop_runner
from gloveport.client.backend import RunnerBackend
from gloveport.errors import PolicyDenied
from gloveport.model import Limits, Plan, Spec, new_id
from gloveport.policy import PlanInputs, compile_plan, survey
from gloveport.settings import Settings
from gloveport.testing.conformance import CHECKS, Bench, Check

pytestmark = pytest.mark.anyio


def new_plan(limits: Limits) -> Plan:
    return compile_plan(Spec(limits=limits), PlanInputs(sandbox=new_id(), host=survey(), lower=None))


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    async with RunnerBackend(settings) as backend:
        yield Bench(backend, new_plan)
    stop_runner(settings.socket)


def is_decided_first(check: Check) -> bool:
    """What is refused in the backend is refused earlier here: a runner decides and records before it acts."""
    return check.__name__.endswith("only_the_workspace_and_temporary_places_are_writable")


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if not is_decided_first(check)], ids=lambda check: check.__name__.strip("_")
)
async def test_conformance(bench: Bench, check: Check) -> None:
    with anyio.fail_after(90):
        await check(bench)


async def test_a_write_outside_the_writable_places_is_refused_by_policy(bench: Bench) -> None:
    with anyio.fail_after(90):
        async with bench.sandbox() as ref:
            with pytest.raises(PolicyDenied):
                await bench.backend.write(ref, "/usr/probe", b"")
