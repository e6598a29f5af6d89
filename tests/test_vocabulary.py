"""The glossary is law: one word for each concept, in code, in the command line and in the documents."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.rules import for_every

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "gloveport"

WRONG_NAMES = {
    # a name in our own code → the word to use
    "container": "sandbox", "sandbox_instance": "sandbox", "toolbox": "guestd", "execd": "guestd",
    "driver": "backend", "provider": "backend", "blueprint": "template", "preset": "template",
    "checkpoint": "snapshot", "episode": "run", "rollout": "run", "transcript": "trajectory",
    "permissions": "policy", "blacklist": "deny", "whitelist": "allow", "daemon": "runner",
    "outbound": "egress", "work_item": "job",
}  # fmt: skip

WRONG_WORDS = re.compile(
    r"\b(blacklist|whitelist|checkpoints?|rollouts?|episodes?|sandbox (?:instance|container|box)|exec daemon)\b",
    re.IGNORECASE,
)

ALLOWED = {
    # names of other people's things
    ("model/probe.py", "container"),  # an isolation level
    ("compat/agentsandbox/sandbox.py", "container"),  # AgentSandbox's own word
}


def python_files() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py"))


def names_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def words_of(name: str) -> set[str]:
    return set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_"))


@for_every(python_files())
def test_names_use_the_glossary(path: Path) -> None:
    here = str(path.relative_to(SOURCE))
    wrong = {
        name: WRONG_NAMES[word]
        for name in names_of(path)
        for word in words_of(name) & WRONG_NAMES.keys()
        if (here, word) not in ALLOWED
    }
    assert not wrong, f"{here}: {wrong}"


@for_every(sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]))
def test_documents_use_the_glossary(path: Path) -> None:
    if path.name == "glossary.md":
        return
    found = WRONG_WORDS.findall(path.read_text("utf-8"))
    assert not found, f"{path.relative_to(ROOT)}: {found}"


def test_every_word_of_the_glossary_is_defined_once() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    words = re.findall(r"^\| \*\*(.+?)\*\*", text, re.MULTILINE)
    assert len(words) == len(set(words)) >= 25
