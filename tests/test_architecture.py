"""The rules of docs/architecture.md, as tests: layers, cycles, sizes, and the only ways to a process."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    "store": 1,
    "guest": 1,
    "client": 1,
    # 2: the sandbox people hold, and the tools over it
    "sandbox": 2,
    "tools": 2,
    # 3: what is done with sandboxes
    "agents": 3,
    "jobs": 3,
    "trajectory": 3,
    "testing": 3,
    # 4: the composition root and the faces
    "compose": 4,
    "runner": 5,
    "cli": 5,
    "__init__": 6,
}

SIDEWAYS: dict[str, set[str]] = {
    # docs/decisions/001: guestd's wire and the stores are the floor that backends and clients stand on.
    "backends": {"guest", "store"},
    "client": {"guest", "backends", "store"},
    "tools": {"sandbox"},
    "testing": {"agents"},
    "model": {"errors"},
    "settings": {"errors"},
    "cli": {"__init__"},
    "runner": {"__init__"},
}
"""What a package may import of its own layer (or, for `__init__`, the version above)."""

MAY_START_PROCESSES = {
    "backends/bubblewrap/launcher.py": "bubblewrap itself",
    "backends/bubblewrap/probe.py": "one empty trial sandbox",
    "sandbox/host_git.py": "git in clean repositories of the platform's own",
    "client/start.py": "the local runner",
}
"""There is no other: the Claude Code CLI, too, is an exec in a sandbox."""

PROCESS_CALLS = {
    ("os", name)
    for name in (
        "execl", "execle", "execlp", "execv", "execve", "execvp", "execvpe", "fork", "forkpty", "popen",
        "posix_spawn", "posix_spawnp", "spawnl", "spawnv", "spawnve", "system",
    )
} | {
    ("anyio", "open_process"), ("anyio", "run_process"),
    ("asyncio", "create_subprocess_exec"), ("asyncio", "create_subprocess_shell"),
    ("pty", "fork"), ("pty", "spawn"),
}  # fmt: skip
PROCESS_MODULES = {"subprocess", "multiprocessing"}


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


@pytest.mark.parametrize("path", modules(), ids=dotted)
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


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_own_code_is_imported_at_the_top(path: Path) -> None:
    top = set(parsed(path).body)
    for statement in parsed(path).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            top |= set(statement.body)
    for name, node in own_imports(path):
        assert node in top, f"{dotted(path)}:{node.lineno} imports {name} inside a function or branch"


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_modules_are_short(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= LONGEST_MODULE, f"{dotted(path)} has {lines} lines: split it by concept"


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(parsed(path)), f"{dotted(path)} has no docstring"


def process_starts(path: Path) -> list[str]:
    found = []
    for name, node in imports(path):
        if name.split(".")[0] in PROCESS_MODULES:
            found.append(f"line {node.lineno}: import {name}")
        if isinstance(node, ast.ImportFrom):
            found += [f"line {node.lineno}: {a.name}" for a in node.names if (name, a.name) in PROCESS_CALLS]
    for use in ast.walk(parsed(path)):
        if (
            isinstance(use, ast.Attribute)
            and isinstance(use.value, ast.Name)
            and (use.value.id, use.attr) in PROCESS_CALLS
        ):
            found.append(f"line {use.lineno}: {use.value.id}.{use.attr}")
    return found


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_only_listed_modules_start_processes_of_the_host(path: Path) -> None:
    found = process_starts(path)
    if str(path.relative_to(SOURCE)) not in MAY_START_PROCESSES:
        assert not found, f"{dotted(path)} starts processes: {found}"


def test_the_list_of_process_starters_is_exact() -> None:
    really = {str(path.relative_to(SOURCE)) for path in modules() if process_starts(path)}
    assert really == MAY_START_PROCESSES.keys()


def test_guest_processes_are_started_in_one_place() -> None:
    """`Channel.start` is the only way to a process of a guest; only the backend calls it."""
    callers = {
        str(path.relative_to(SOURCE))
        for path in modules()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "start"
        and isinstance(node.func.value, ast.Attribute) and node.func.value.attr == "channel"
    }  # fmt: skip
    assert callers == {"backends/bubblewrap/backend.py"}


def test_backends_are_used_only_through_the_recorder() -> None:
    """The manager is the only maker of backends, and hands out recorded ones only."""
    makers = {
        str(path.relative_to(SOURCE))
        for path in modules()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "make_backend"
    }
    assert makers == {"sandbox/manager.py"}
    manager = (SOURCE / "sandbox" / "manager.py").read_text("utf-8")
    assert "Held(ref, recorder," in manager


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_nothing_relies_on_finalizers(path: Path) -> None:
    names = {node.name for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef)}
    assert "__del__" not in names


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_import_does_no_work(path: Path) -> None:
    """Top-level statements define; they do not call for effect."""
    for node in parsed(path).body:
        bare_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        assert not bare_call or path.name == "__main__.py", f"{dotted(path)}:{node.lineno} calls at import"
        assert not isinstance(node, ast.For | ast.While | ast.With | ast.Try), (
            f"{dotted(path)}:{node.lineno} works at import"
        )
