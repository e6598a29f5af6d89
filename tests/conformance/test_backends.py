"""Every backend of this machine against the shipped conformance suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from gloveport.backends import BACKENDS, make_backend
from gloveport.model import Limits, Plan, Spec, new_id
from gloveport.policy import PlanInputs, compile_plan, survey
from gloveport.testing.conformance import CHECKS, Bench, Check

pytestmark = pytest.mark.anyio


def new_plan(limits: Limits) -> Plan:
    return compile_plan(Spec(limits=limits), PlanInputs(sandbox=new_id(), host=survey(), lower=None))


@pytest.fixture(params=sorted(BACKENDS))
async def bench(request: pytest.FixtureRequest, state: Path) -> AsyncIterator[Bench]:
    async with make_backend(request.param, state) as backend:
        yield Bench(backend, new_plan)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.strip("_"))
async def test_conformance(bench: Bench, check: Check) -> None:
    with anyio.fail_after(90):
        await check(bench)
