"""HostDoS: a limit that this host cannot keep refuses the sandbox, and the one of CPU time is kept."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from gloveport.backends.bubblewrap.cgroups import Cgroups
from gloveport.errors import Unsupported
from gloveport.model import Limits, Plan, Spec, new_id
from gloveport.sandbox import Manager, Sandbox
from gloveport.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

PATIENCE = 60
TWO_BUSY_PROCESSES = """
before=$EPOCHREALTIME
timeout 2 /bin/bash -c 'while :; do :; done' & timeout 2 /bin/bash -c 'while :; do :; done' & wait
echo "$before $EPOCHREALTIME"
times
"""


def things_below(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.iterdir()} if path.exists() else set()


async def test_cpu_time_that_no_control_group_bounds_refuses_to_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gloveport.backends.bubblewrap.backend.find_cgroups", lambda installation: Cgroups(version=2, roots={})
    )
    with anyio.fail_after(PATIENCE):
        async with Manager(settings) as manager:
            assert manager.probes()[0].limits["cpus"] == "missing"
            with pytest.raises(Unsupported) as caught:
                await manager.create(Spec(limits=Limits(cpus=0.5)))
            assert "Delegate" in caught.value.hint
            assert await manager.statuses() == []
            assert things_below(settings.state / "sandboxes") == set()
            assert await manager.create(Spec())  # the other limits are kept without


async def test_whole_cpus_are_kept_without_control_groups_and_the_guest_cannot_bind_itself_anew(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gloveport.backends.bubblewrap.backend.find_cgroups", lambda installation: Cgroups(version=2, roots={})
    )
    own = os.sched_getaffinity(0)
    if len(own) < 2:
        pytest.skip("this host has one CPU: nothing can be taken away")
    count = "import os; print(len(os.sched_getaffinity(0)))"
    widen = f"import os; os.sched_setaffinity(0, {own})"
    with anyio.fail_after(PATIENCE):
        async with Manager(settings) as manager:
            free = Sandbox(await manager.create(Spec()))
            assert (await free.exec(["/usr/bin/python3", "-c", count])).text == f"{len(own)}\n"
            bound = Sandbox(await manager.create(Spec(limits=Limits(cpus=1.5))))
            assert (await bound.exec(["/usr/bin/python3", "-c", count])).text == "1\n"
            assert b"PermissionError" in (await bound.exec(["/usr/bin/python3", "-c", widen])).stderr
            assert (await manager.create(Spec(limits=Limits(cpus=float(len(own)))))).limits.cpus == len(own)
    assert os.sched_getaffinity(0) == own


@pytest.mark.parametrize("plan", [{"network": "host"}, {"seccomp": "none"}], ids=str)
async def test_a_weaker_wall_than_the_backend_has_refuses_to_start(manager: Manager, plan: dict[str, str]) -> None:
    asked: Plan = replace(await manager.plan(Spec()), sandbox=new_id(), **plan)  # type: ignore[arg-type]
    with anyio.fail_after(PATIENCE), pytest.raises(Unsupported):
        await manager.apply(asked)
    assert await manager.statuses() == []


async def test_two_busy_processes_get_half_a_cpu_together_where_that_is_their_limit(manager: Manager) -> None:
    if manager.probes()[0].limits["cpus"] == "missing":
        pytest.skip("no control group is delegated to this user")
    with anyio.fail_after(PATIENCE):
        sandbox = Sandbox(await manager.create(Spec(limits=Limits(cpus=0.5))))
        done = await sandbox.exec(["/bin/bash", "-c", TWO_BUSY_PROCESSES])
    before, after = map(float, done.text.splitlines()[0].split())
    used = sum(60 * int(minutes) + float(seconds) for minutes, seconds in re.findall(r"(\d+)m([\d.]+)s", done.text))
    assert 0 < used <= 0.6 * (after - before), done.text
