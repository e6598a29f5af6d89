"""`pip install`, `npm install` and `git clone` in a sandbox, with the real tools, from where this machine gets things.

The machine's set-up is a home of its own that names three servers on loopback, each at an address of its own.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.needs("bubblewrap")

PASSWORD = "hunter2-hunter2"
CLONED = "https://code.example/team/project.git"
"""What the machine's git rewrites to a server of its own."""


@dataclass(frozen=True)
class Tool:
    """One tool, and how it fetches something small."""

    group: str
    install: str
    proof: str
    """Prints `it works` when the thing is there."""


PIP = Tool(
    "@pip",
    "python3 -m pip install --no-cache-dir --disable-pip-version-check --retries 1 --target /workspace/site little",
    "PYTHONPATH=/workspace/site python3 -c 'import little; print(little.SAYS)'",
)
NPM = Tool(
    "@npm",
    "npm install --no-audit --no-fund --fetch-retries 0 --prefix /workspace little",
    "node -p 'require(\"/workspace/node_modules/little\")'",
)
GIT = Tool("@git", f"git clone {CLONED} /workspace/project", "cat /workspace/project/says")
TOOLS = {"pip": PIP, "npm": NPM, "git": GIT}


@dataclass(frozen=True)
class Place:
    """A server of static files."""

    address: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"


@dataclass(frozen=True)
class World:
    """The servers, by group, and the command line of somebody whose tools are set up for them."""

    cli: Any
    places: Mapping[str, Place]

    def create(self, *options: str) -> str:
        return str(self.cli.create("--empty", *options))

    def run(self, sandbox: str, script: str) -> subprocess.CompletedProcess[bytes]:
        done: subprocess.CompletedProcess[bytes] = self.cli("exec", sandbox, "--", "sh", "-c", script)
        return done

    def trail(self, sandbox: str) -> list[dict[str, Any]]:
        """What the audit trail says of connections, once the sandbox is gone."""
        self.cli.ok("rm", sandbox)
        events = [json.loads(line) for line in self.cli.ok("logs", sandbox, "--json").splitlines()]
        return [event["data"] for event in events if event["kind"] == "egress"]


class Files(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
        return


@contextmanager
def serving(directory: Path, address: str) -> Iterator[Place]:
    with ThreadingHTTPServer((address, 0), functools.partial(Files, directory=directory)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield Place(address, server.server_address[1])
        server.shutdown()


@pytest.fixture
def world(cli: Any, place: Path) -> Iterator[World]:
    with ExitStack() as stack:
        places = {}
        for number, group in enumerate(("@pip", "@npm", "@git"), 2):
            (directory := place / group[1:]).mkdir()
            places[group] = stack.enter_context(serving(directory, f"127.0.0.{number}"))
        make_index(place / "pip")
        make_registry(place / "npm", places["@npm"].url)
        make_repository(place / "git" / "team" / "project.git")
        home = make_home(place / "home", places)
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "PIP_CONFIG_FILE": str(home / "corporate-pip.conf")}
        yield World(replace(cli, env=env), places)


def make_home(home: Path, places: Mapping[str, Place]) -> Path:
    """As a company sets its people's machines up: mirrors, and here and there a password."""
    home.mkdir()
    signed_in = places["@pip"].url.replace("//", f"//me:{PASSWORD}@")
    (home / "corporate-pip.conf").write_text(f"[global]\nindex-url = {signed_in}/simple/\n")
    npm = places["@npm"]
    (home / ".npmrc").write_text(f"registry={npm.url}/\n//{npm.address}:{npm.port}/:_authToken={PASSWORD}\n")
    (home / ".gitconfig").write_text(f'[url "{places["@git"].url}/"]\n\tinsteadOf = https://code.example/\n')
    return home


def make_index(directory: Path) -> None:
    """An index as PEP 503 has it, with one wheel."""
    name = "little-1.0-py3-none-any.whl"
    metadata = "little-1.0.dist-info"
    files = {
        "little.py": "SAYS = 'it works'\n",
        f"{metadata}/METADATA": "Metadata-Version: 2.1\nName: little\nVersion: 1.0\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{metadata}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{metadata}/RECORD"))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    page = directory / "simple" / "little"
    page.mkdir(parents=True)
    (directory / name).write_bytes(data.getvalue())
    digest = hashlib.sha256(data.getvalue()).hexdigest()
    (page / "index.html").write_text(f'<!DOCTYPE html><a href="../../{name}#sha256={digest}">{name}</a>')


def make_registry(directory: Path, url: str) -> None:
    """A registry's document about one package, and its tarball."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for path, text in (
            ("package/package.json", json.dumps({"name": "little", "version": "1.0.0", "main": "index.js"})),
            ("package/index.js", "module.exports = 'it works';\n"),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    (directory / "little-1.0.0.tgz").write_bytes(data.getvalue())
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data.getvalue()).digest()).decode()
    version = {
        "name": "little",
        "version": "1.0.0",
        "dist": {"tarball": f"{url}/little-1.0.0.tgz", "integrity": integrity},
    }
    document = {"name": "little", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    (directory / "little").write_text(json.dumps(document))


def make_repository(path: Path) -> None:
    """A bare repository that any server of files can serve."""
    made = path.with_suffix("")
    made.mkdir(parents=True)
    (made / "says").write_text("it works\n")
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=made, check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(made), str(path)], check=True)
    subprocess.run(["git", "update-server-info"], cwd=path, check=True)


def lacks(name: str, world: World, sandbox: str) -> str:
    """Why this tool cannot be tried; empty when it can."""
    program = "python3 -m pip" if name == "pip" else name
    done = world.run(sandbox, f"{program} --version")
    return "" if done.returncode == 0 else f"no {program} in the sandbox: {done.stderr.decode()[-200:]}"


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest) -> tuple[str, Tool]:
    return request.param, TOOLS[request.param]


def open_sandbox(world: World, name: str, *options: str) -> str:
    sandbox = world.create(*options)
    missing = lacks(name, world, sandbox)
    if missing:
        pytest.skip(missing)
    return sandbox


def test_with_development_a_package_is_installed_and_each_download_is_in_the_trail(
    world: World, tool: tuple[str, Tool]
) -> None:
    name, does = tool
    sandbox = open_sandbox(world, name, "--policy", "development")
    done = world.run(sandbox, f"{does.install} && {does.proof}")
    assert done.returncode == 0, done
    assert b"it works" in done.stdout
    records = world.trail(sandbox)
    place = world.places[does.group]
    downloads = [record for record in records if record["host"] == place.address]
    assert downloads == records, "nothing else was asked for"
    assert len(downloads) >= 2
    for record in downloads:
        assert (record["allowed"], record["port"], record["address"]) == (True, place.port, place.address), record
        assert record["rule"].startswith(f"egress.allow: {place.address}:{place.port}, project (template development:")
        assert record["sent"] > 0, record
        assert record["received"] > 0, record
    if name != "git":
        assert any(record["path"].endswith((".whl", ".tgz")) and record["received"] > 200 for record in downloads)


def test_with_minimal_it_is_refused_with_the_reason_of_the_rule(world: World, tool: tuple[str, Tool]) -> None:
    name, does = tool
    place = world.places[does.group]
    told = {"pip": f"PIP_INDEX_URL=https://{place.address}:{place.port}/simple/"}
    told |= {"npm": f"npm_config_registry={place.url}/", "git": "GIT_TERMINAL_PROMPT=0"}
    sandbox = open_sandbox(world, name, "--policy", "minimal", "--memory", "256m", "--env", told[name])
    done = world.run(sandbox, does.install.replace("https://code.example", place.url))
    assert done.returncode != 0
    assert b"the template minimal lets nothing out" in done.stderr, done
    records = world.trail(sandbox)
    assert records
    for record in records:
        assert not record["allowed"], record
        assert (record["host"], record["port"]) == (place.address, place.port)
        assert record["rule"].startswith("egress.deny: *, project (template minimal:")
        assert record["reason"] == "the template minimal lets nothing out"
        assert (record["address"], record["received"]) == ("", 0), "nobody was dialled"


def test_a_guest_learns_where_its_tools_fetch_from_and_no_password_of_it(world: World) -> None:
    sandbox = world.create("--policy", "development")
    told = world.run(sandbox, "tr '\\0' '\\n' < /proc/self/environ").stdout.decode()
    pip, npm, git = (world.places[group].url for group in ("@pip", "@npm", "@git"))
    for line in (
        f"PIP_INDEX_URL={pip}/simple/",
        f"npm_config_registry={npm}/",
        f"GIT_CONFIG_KEY_0=url.{git}/.insteadOf",
    ):
        assert line in told.splitlines()
    everywhere = told + world.cli.ok("plan", "--empty", "--policy", "development", "--json")
    everywhere += world.cli.ok("policy", "check", "--policy", "development")
    world.trail(sandbox)
    everywhere += world.cli.ok("logs", sandbox, "--json")
    assert PASSWORD not in everywhere


def test_whoever_makes_a_sandbox_can_tell_its_tools_another_place(world: World) -> None:
    elsewhere = "PIP_INDEX_URL=http://elsewhere.example/simple"
    sandbox = world.create("--policy", "development", "--env", elsewhere)
    assert elsewhere in world.run(sandbox, "env").stdout.decode().splitlines()


MIRROR = """
open = ["egress"]
[egress]
allow = [{ host = "@pip", private = true, reason = "our mirror" }]
"""


def test_a_mirror_whose_name_leads_to_a_private_address_is_named_by_a_layer_above(world: World, place: Path) -> None:
    (place / "mirror.toml").write_text(MIRROR)
    with serving(place / "pip", "127.0.0.1") as local:
        settings = f"[global]\nindex-url = http://localhost:{local.port}/simple/\n"
        (place / "home" / "corporate-pip.conf").write_text(settings)
        fetch = f"env -u no_proxy -u NO_PROXY {PIP.install} && {PIP.proof}"
        refused = open_sandbox(world, "pip", "--policy", "development")
        done = world.run(refused, fetch)
        assert done.returncode != 0
        assert {record["rule"] for record in world.trail(refused)} == {"built-in: private addresses"}
        opened = world.create("--policy", str(place / "mirror.toml"), "--policy", "development")
        done = world.run(opened, fetch)
        assert b"it works" in done.stdout, done
        records = world.trail(opened)
        assert {(record["host"], record["reason"]) for record in records} == {("localhost", "our mirror")}
