"""The rules of docs/architecture.md, as tests: layers, cycles, sizes, and the only ways to a process."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest
from tests.rules import for_every

from gloveport.model import Spec
from gloveport.sandbox import Manager, Recorder

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "gloveport"
LONGEST_MODULE = 400

LAYERS: dict[str, int] = {
    # 0: the vocabulary
    "errors": 0,
    "model": 0,
    "settings": 0,
    # 1: parts that know nothing of each other
    "policy": 1,
    "backends": 1,
    "egress": 1,
    "store": 1,
    "guest": 1,
    "client": 1,
    # 2: the sandbox people hold, and the tools over it
    "sandbox": 2,
    "tools": 2,
    # 3: what is done with sandboxes
    "agents": 3,
    "jobs": 3,
    "listen": 3,
    "trajectory": 3,
    "doctor": 3,
    "evaluate": 3,
    "testing": 3,
    # 4: the composition root and the faces
    "compose": 4,
    "compose_evaluation": 4,
    "compose_replay": 4,
    "runner": 5,
    "mcp": 5,
    "compat": 5,
    "cli": 5,
    "__init__": 6,
}

SIDEWAYS: dict[str, set[str]] = {
    # docs/decisions/001: guestd's wire and the stores are the floor that backends and clients stand on.
    "backends": {"guest", "store"},
    "client": {"guest", "backends", "store"},
    "tools": {"sandbox"},
    "compose_evaluation": {"compose_replay"},
    "testing": {"agents"},
    "model": {"errors"},
    "settings": {"errors"},
    "cli": {"__init__"},
    "runner": {"__init__"},
    "mcp": {"__init__"},
    "listen": {"__init__"},
}
"""What a package may import of its own layer (or, for `__init__`, the version above)."""

MAY_START_PROCESSES = {
    "backends/bubblewrap/launcher.py": "bubblewrap itself",
    "backends/bubblewrap/probe.py": "one empty trial sandbox",
    "sandbox/host_git.py": "git in clean repositories of the platform's own",
    "policy/reading/asking.py": "this host's own pip, npm and git, about their set-up; never a repository's",
    "client/start.py": "the local runner",
    "sandbox/secrets.py": "a command that the operator's policy names for a secret",
    "store/identity.py": "makes files as a sandbox's user: no process, but the same library",
    "doctor/visit.py": "the attacks, in a network of their own",
    "doctor/range.py": "the namespaces of that network: no process, but the same library",
    "doctor/examine.py": "as root, attacks that no namespace gives the power for, as controls: harmless ones",
    "doctor/inside/harness.py": "attacks, in a sandbox",
    "doctor/inside/kernel.py": "attacks, in a sandbox",
    "doctor/inside/limits.py": "attacks, in a sandbox",
    "doctor/inside/peers.py": "attacks, in a sandbox",
}
"""There is no other: the Claude Code CLI, too, is an exec in a sandbox."""

PROCESS_NAMES = {
    # os, posix
    "execl", "execle", "execlp", "execlpe", "execv", "execve", "execvp", "execvpe", "fork", "forkpty", "fork1",
    "popen", "posix_spawn", "posix_spawnp", "spawnl", "spawnle", "spawnlp", "spawnlpe", "spawnv", "spawnve", "spawnvp",
    "spawnvpe", "system",
    # anyio, asyncio, concurrent.futures
    "open_process", "to_process", "create_subprocess_exec", "create_subprocess_shell", "subprocess_exec",
    "subprocess_shell", "ProcessPoolExecutor",
}  # fmt: skip
"""Wherever one of these is an attribute, an imported name or the text that `getattr` is given, a process is started."""
PROCESS_MODULES = {"_posixsubprocess", "cffi", "ctypes", "multiprocessing", "pexpect", "pty", "runpy", "subprocess"}
ANYIO_PROCESS_NAMES = {"run_process"}
"""Ours has a function of this name: counted only where it is anyio's."""
OWN_WORDS = {"fork"}
"""Sandboxes have a method of this name: counted only where it is imported, or a module's."""

MAY_IMPORT_BY_NAME = {
    "__init__.py": "the public names, when they are first used",
    "backends/__init__.py": "the backend that is asked for",
    "cli/application.py": "the command that is invoked",
    "compose_replay/__init__.py": "what starts an agent, when a replay asks for one",
    "egress/sigv4.py": "what signs for AWS, when a policy binds a key of it",
    "sandbox/inspection.py": "the certificate authority, when a policy looks into TLS",
    "cli/main.py": "the command that is invoked",
    "mcp/entry.py": "the server, where its SDK is installed",
    "doctor/inside/harness.py": "the attacks that it was sent, in a sandbox",
}
"""There is no other way to a module than an import that this file's tests see."""


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if "skills" not in path.parts)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def room(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    parts = ["gloveport", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, node
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)


def own_imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    return ((name, node) for name, node in imports(path) if name.split(".")[0] == "gloveport")


@for_every(modules(), dotted)
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    for name, node in own_imports(path):
        there = name.split(".")[1] if "." in name else "__init__"
        if there == here:
            continue
        assert there in LAYERS, f"{dotted(path)}:{node.lineno} imports {name}, which has no layer"
        allowed = LAYERS[there] < LAYERS[here] or there in SIDEWAYS.get(here, set())
        assert allowed, f"{dotted(path)}:{node.lineno} imports {name}: layer {LAYERS[here]} → {LAYERS[there]}"


def test_every_room_has_a_layer() -> None:
    rooms = {room(path) for path in modules()} - {"__main__"}
    assert rooms <= LAYERS.keys(), f"no layer for {sorted(rooms - LAYERS.keys())}"


def test_there_is_no_import_cycle() -> None:
    known = {dotted(path) for path in modules()}
    edges: dict[str, set[str]] = {dotted(path): set() for path in modules()}
    for path in modules():
        for name, node in own_imports(path):
            targets = {name}
            if isinstance(node, ast.ImportFrom):
                targets |= {f"{name}.{alias.name}" for alias in node.names}
            edges[dotted(path)] |= (targets & known) - {dotted(path)}
    # A package's __init__ gathers its modules' names: a module that imports its own package would close a circle.
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(edges[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())


@for_every(modules(), dotted)
def test_own_code_is_imported_at_the_top(path: Path) -> None:
    top = set(parsed(path).body)
    for statement in parsed(path).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            top |= set(statement.body)
    for name, node in own_imports(path):
        assert node in top, f"{dotted(path)}:{node.lineno} imports {name} inside a function or branch"


@for_every(modules(), dotted)
def test_modules_are_short(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= LONGEST_MODULE, f"{dotted(path)} has {lines} lines: split it by concept"


@for_every(modules(), dotted)
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(parsed(path)), f"{dotted(path)} has no docstring"


def words(node: ast.AST) -> Iterator[str]:
    """Names through which `node` reaches something: attributes, imports, and texts for `getattr`."""
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.ImportFrom):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        yield from (text.value for text in node.args if isinstance(text, ast.Constant) and isinstance(text.value, str))


def is_own_word(node: ast.AST, imported: set[str]) -> bool:
    """Whether an attribute has one of `OWN_WORDS` of something that is no module."""
    if not isinstance(node, ast.Attribute) or node.attr not in OWN_WORDS:
        return False
    parts = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
    parts |= {part.attr for part in ast.walk(node.value) if isinstance(part, ast.Attribute)}
    return not parts & (imported | {"os", "posix"})


def process_starts(tree: ast.Module) -> list[str]:
    found = []
    imports_of = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    imported = {(alias.asname or alias.name).split(".")[0] for node in imports_of for alias in node.names}
    for node in ast.walk(tree):
        if is_own_word(node, imported):
            continue
        modules_named: list[str] = []
        if isinstance(node, ast.Import):
            modules_named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules_named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [f"import {name}" for name in modules_named if set(name.split(".")) & PROCESS_MODULES]
        found += [word for word in words(node) if word in PROCESS_NAMES | PROCESS_MODULES]
        own = isinstance(node, ast.ImportFrom) and str(node.module).startswith("gloveport.")
        found += [word for word in words(node) if word in ANYIO_PROCESS_NAMES and not own]
    return found


@pytest.mark.parametrize(
    "text",
    [
        "import os as o\no.fork()",
        "import pty\npty.os.fork()",
        "from os import posix_spawn as p\np('x', [], {})",
        "import os\nf = getattr(os, 'system')",
        "from asyncio import subprocess",
        "import asyncio\nasyncio.subprocess.Process",
        "import subprocess as s",
        "import anyio as a\na.open_process(['x'])",
        "from anyio import run_process as r",
        "loop.subprocess_exec(None, 'x')",
        "import ctypes",
    ],
)
def test_a_start_of_a_process_is_seen_under_any_name(text: str) -> None:
    assert process_starts(ast.parse(text))


@for_every(modules(), dotted)
def test_only_listed_modules_start_processes_of_the_host(path: Path) -> None:
    found = process_starts(parsed(path))
    if str(path.relative_to(SOURCE)) not in MAY_START_PROCESSES:
        assert not found, f"{dotted(path)} starts processes: {found}"


def test_the_list_of_process_starters_is_exact() -> None:
    really = {str(path.relative_to(SOURCE)) for path in modules() if process_starts(parsed(path))}
    assert really == MAY_START_PROCESSES.keys()


def users(module: str, name: str) -> set[str]:
    """Files that can use `name` of `module`: they import it, or the whole module, under whatever name."""
    package, _, last = module.rpartition(".")
    found = set()
    for path in modules():
        for imported, node in imports(path):
            if isinstance(node, ast.Import):
                reaches = f"{module}.".startswith(f"{imported}.")
            else:
                names = {alias.name for alias in node.names}  # type: ignore[attr-defined]
                reaches = (imported == module and bool(names & {name, "*"})) or (imported == package and last in names)
            if reaches:
                found.add(str(path.relative_to(SOURCE)))
    return found


def mentions(word: str) -> set[str]:
    """Files in whose code `word` stands: as a name, an attribute, an import, or at the end of `module:name`."""
    found = set()
    for path in modules():
        for node in ast.walk(parsed(path)):
            names = {getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "name", None)}
            text = node.value if isinstance(node, ast.Constant) else ""
            if word in names or str(text).endswith(f":{word}"):
                found.add(str(path.relative_to(SOURCE)))
    return found


def test_guest_processes_are_started_in_one_place() -> None:
    """A process of a guest begins with guestd's `START`: one module makes it, one sends it, one opens channels."""
    assert users("gloveport.guest.wire", "Start") == {"backends/bubblewrap/backend.py", "guest/channel.py"}
    assert users("gloveport.guest.wire", "encode_start") == {"guest/channel.py"}
    assert users("gloveport.guest.wire", "_frame") == set()
    assert users("gloveport.guest.channel", "Channel") == {
        "backends/bubblewrap/live.py",  # opens it
        "backends/bubblewrap/watch.py",  # kills through it
    }


def test_backends_are_used_only_through_the_recorder() -> None:
    """One module makes backends, the manager alone has it made, and what the manager hands out is recorded."""
    assert users("gloveport.backends", "make_backend") == {"sandbox/manager.py"}
    assert mentions("BubblewrapBackend") == {
        "backends/__init__.py",
        "backends/bubblewrap/__init__.py",
        "backends/bubblewrap/backend.py",
        "doctor/examine.py",  # without a guard, and opened by a manager like any other
    }
    assert users("gloveport.sandbox.manager", "Recorder") == set()
    assert users("gloveport.sandbox.recorder", "Recorder") == {"sandbox/__init__.py", "sandbox/manager.py"}


@for_every(modules(), dotted)
def test_nobody_reaches_into_what_wraps_a_backend(path: Path) -> None:
    """The bare backend is an attribute of the manager and of recorders, which they keep to themselves."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and node.attr in ("_backend", "_backends", "_sandboxes", "_channel"):
            is_own = isinstance(node.value, ast.Name) and node.value.id == "self"
            assert is_own, f"{dotted(path)}:{node.lineno} reaches for {ast.unparse(node)}"


@pytest.mark.anyio
@pytest.mark.needs("bubblewrap")
async def test_a_manager_hands_out_no_bare_backend(manager: Manager) -> None:
    held = await manager.create(Spec())
    assert [type(held.backend), manager.get(held.ref.id)] == [Recorder, held]
    public = {name: getattr(Manager, name) for name in dir(Manager) if not name.startswith("_")}
    for name, member in public.items():
        returned = get_type_hints(member.fget if isinstance(member, property) else member)["return"]
        assert "Backend" not in str(returned), f"Manager.{name} gives a backend away"


@for_every(modules(), dotted)
def test_modules_are_imported_in_plain_sight(path: Path) -> None:
    nodes = list(ast.walk(parsed(path)))
    found = any("import_module" in words(node) for node in nodes) or any(
        isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in ("__import__", "eval", "exec")
        for node in nodes
    )
    assert found == (str(path.relative_to(SOURCE)) in MAY_IMPORT_BY_NAME), f"{dotted(path)}: an import by name"


@for_every(modules(), dotted)
def test_nothing_relies_on_finalizers(path: Path) -> None:
    names = {node.name for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef)}
    assert "__del__" not in names


@for_every(modules(), dotted)
def test_import_does_no_work(path: Path) -> None:
    """Top-level statements define; they do not call for effect."""
    for node in parsed(path).body:
        bare_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        assert not bare_call or path.name == "__main__.py", f"{dotted(path)}:{node.lineno} calls at import"
        assert not isinstance(node, ast.For | ast.While | ast.With | ast.Try), (
            f"{dotted(path)}:{node.lineno} works at import"
        )
