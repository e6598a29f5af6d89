"""HostLeak by a hostile repository or a hostile plan: what it names of this host is not in the sandbox."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from gloveport.client import connect, stop_runner
from gloveport.errors import GloveportError, NotFound, PolicyDenied
from gloveport.model import Assembled, Bind, ExecRequest, Overlay, Source, Spec, new_id
from gloveport.sandbox import Manager, Sandbox
from gloveport.settings import Settings
from gloveport.store import read_trail

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

PATIENCE = 60
SECRET = "heron-4711-of-the-host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What an attack wants: a home with a key in it, and a directory of somebody's documents."""

    home: Path
    documents: Path
    repository: Path
    """The stranger's."""

    @property
    def wanted(self) -> list[str]:
        return [str(self.home / ".ssh" / "id"), str(self.documents / "letter")]


@pytest.fixture
def host(place: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(home=place / "heron", documents=place / "documents", repository=place / "repository")
    for path in made.wanted:
        Path(path).parent.mkdir(parents=True)
        Path(path).write_text(SECRET)
    made.repository.mkdir()
    monkeypatch.setenv("HOME", str(made.home))
    return made


def plant(host: Host, home: Path) -> Spec:
    """The stranger's `.venv`, and the spec of whoever works on the repository as the README says."""
    (host.repository / ".venv").mkdir()
    (host.repository / ".venv" / "pyvenv.cfg").write_text(f"home = {home}\n")
    return spec_of(host)


def spec_of(host: Host) -> Spec:
    shown = str(host.repository / ".venv")
    return Spec(source=Source(repo=str(host.repository)), read_only=(shown,))


def by_a_home(host: Host, _settings: Settings) -> Spec:
    return plant(host, host.home / "bin")


def by_a_home_with_a_python(host: Host, _settings: Settings) -> Spec:
    (host.home / "bin").mkdir()
    (host.home / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    return plant(host, host.home / "bin")


def by_documents(host: Host, _settings: Settings) -> Spec:
    (host.documents / "bin").mkdir()
    (host.documents / "bin" / "python3").touch(mode=0o755)
    return plant(host, host.documents / "bin")


def by_the_state(host: Host, settings: Settings) -> Spec:
    return plant(host, settings.state / "bin")


def by_a_link(host: Host, _settings: Settings) -> Spec:
    (host.repository / ".venv").symlink_to(host.documents)
    return spec_of(host)


def by_a_toolchain(host: Host, _settings: Settings) -> Spec:
    return Spec(language="go")


Attack = Callable[[Host, Settings], Spec]
ATTACKS: list[Attack] = [by_a_home, by_a_home_with_a_python, by_documents, by_the_state, by_a_link, by_a_toolchain]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_a_repository_does_not_choose_what_of_the_host_is_shown(
    host: Host, manager: Manager, settings: Settings, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    go = host.home / "bin" / "go"
    spec = attack(host, settings)
    if spec.language == "go":
        go.parent.mkdir()
        go.touch(mode=0o755)
        monkeypatch.setenv("PATH", str(go.parent))
    with anyio.fail_after(PATIENCE):
        try:
            sandbox = Sandbox(await manager.create(spec))
        except (NotFound, PolicyDenied) as error:
            assert error.hint  # noqa: PT017 - refusing is as good as not showing
            return
        for path in (*host.wanted, str(settings.state), str(settings.data)):
            assert not await sandbox.files.exists(path), path


@pytest.mark.parametrize("what", ["home", "documents above the state", "a home as the image", "a home as the source"])
async def test_a_person_cannot_show_them_by_mistake(host: Host, manager: Manager, place: Path, what: str) -> None:
    spec = {
        "home": Spec(read_only=(str(host.home),)),
        "documents above the state": Spec(read_only=(str(place),)),
        "a home as the image": Spec(image=str(host.home)),
        "a home as the source": Spec(source=Source(repo=str(host.home))),
    }[what]
    with anyio.fail_after(PATIENCE), pytest.raises(PolicyDenied):
        await manager.create(spec)
    assert await manager.statuses() == []


async def test_a_plan_cannot_show_them_either(host: Host, manager: Manager, settings: Settings) -> None:
    plan = await manager.plan(Spec())
    for mount in (
        Bind(str(host.home), "/x"),
        Bind(str(settings.state), "/x"),
        Bind(str(settings.data / "audit"), "/x"),
        Bind("/", "/x"),
        Overlay(str(host.home)),
        Assembled(str(host.home), {}, (str(host.home / ".ssh"),)),
    ):
        with anyio.fail_after(PATIENCE), pytest.raises(PolicyDenied):
            await manager.apply(replace(plan, sandbox=new_id(), mounts=(*plan.mounts, mount)))
    assert await manager.statuses() == []
    assert await manager.apply(plan)


def test_a_caller_of_the_runner_cannot_show_its_socket(settings: Settings) -> None:
    try:
        with connect(settings) as runner:
            plan = runner.call("plan", spec={})["plan"]
        bind = {"operation": "bind", "source": str(settings.socket), "target": "/run/runner.sock"}
        with connect(settings) as runner, pytest.raises(PolicyDenied):
            runner.call("apply", plan={**plan, "mounts": [*plan["mounts"], bind]})
        with connect(settings) as runner:
            assert runner.call("apply", plan=plan)["status"]["state"] == "running"
    finally:
        stop_runner(settings.socket)


PYTHONS = [path for path in (Path("/usr/bin/python3"), Path(sys.base_prefix) / "bin" / "python3") if path.exists()]


@pytest.mark.parametrize("python", PYTHONS, ids=str)
async def test_an_ordinary_virtual_environment_works(manager: Manager, place: Path, python: Path) -> None:
    made = place / "project" / ".venv"
    subprocess.run([python, "-m", "venv", "--without-pip", made], check=True)
    (mine,) = made.glob("lib/python3.*/site-packages")
    (mine / "dependency.py").write_text("VALUE = 42")
    with anyio.fail_after(PATIENCE):
        sandbox = Sandbox(await manager.create(Spec(source=Source(repo=str(made.parent)), read_only=(str(made),))))
        for program in (f"{made}/bin/python", "python3"):
            done = await sandbox.exec([program, "-c", "import dependency, json, ssl; print(dependency.VALUE)"])
            assert done.text == "42\n", done.stderr


async def test_guestds_own_functions_are_no_way_around_the_policy(manager: Manager, settings: Settings) -> None:
    with anyio.fail_after(PATIENCE):
        sandbox = Sandbox(await manager.create(Spec()))
        with pytest.raises(PolicyDenied):
            await sandbox.files.mkdir("/usr/x")
        with pytest.raises(PolicyDenied):
            await sandbox.files.remove("/etc", recursive=True)
        with pytest.raises(PolicyDenied):
            await sandbox.files.rename("/tmp/a", "/usr/a")
        for argv in (("write", "/workspace/a", "-", "1"), ("read", "/etc/passwd", "0", "0"), ("hello",)):
            with pytest.raises(GloveportError):
                await sandbox.start(ExecRequest(argv=argv, builtin=True))
        assert not await sandbox.files.exists("/workspace/a")
    decided = [event.data for event in read_trail(settings.data / "audit" / f"{sandbox.id}.jsonl")]
    refused = [fact["argv"][0] for fact in decided if fact.get("verdict") == "deny"]
    assert refused == ["mkdir", "remove", "rename"]
