"""Reads a bash text to every simple command in it, and says what cannot be known before it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from gloveport.policy.commands.shell_carriers import Carried, carried, program_of, redefines
from gloveport.policy.commands.shell_redirects import Redirects, read_redirects
from gloveport.policy.commands.shell_words import WORD_TYPES, Word, known, mask, read_word, source_of

if TYPE_CHECKING:
    import tree_sitter

__all__ = ["Finding", "Position", "ShellReading", "SimpleCommand", "read_argv", "read_shell"]

LONGEST_TEXT = 32 * 1024
"""Bytes of one text. What is longer is a program, not a command line."""
_LONGEST_TOGETHER = 4 * LONGEST_TEXT
_HEAVY = {"=(": 1000, "<<": 500, "()": 2000, "|": 2000}
"""What takes the grammar time that grows with the square of its number, and how many of it are read."""
MOST_COMMANDS = 2_000
"""Simple commands, those of nested texts included."""
DEEPEST = 12
"""Texts within texts (`sh -c "sh -c …"`)."""

_ODD = re.compile(r"[^\S \t\n]|[\x00-\x08\x0e-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2060\ufeff]")
"""Blanks to the grammar that are letters to a shell, and what no screen shows."""
_BLANK = re.compile(rb"(?:[ \t]|\\\n)*[ \t](?:[ \t]|\\\n)*")
_RESERVED = frozenset(
    ("!", "[[", "{", "}", "case", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if", "in", "select",
     "then", "until", "while")
)  # fmt: skip
_AGAIN = frozenset(("variable_assignment", "test_command", "declaration_command", "unset_command", "for_statement"))
"""Where a quoted value may be read once more, by arithmetic or `@P`."""
_PARTS = WORD_TYPES | {"array", "unary_expression", "binary_expression", "parenthesized_expression"}
_NAMEREF = re.compile(r"-\w*n\w*")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where something stands in its own text; both from 1. Columns count bytes, more where letters are wide."""

    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimpleCommand:
    """One program, or one function of the shell, with its words."""

    words: tuple[Word, ...]
    position: Position
    within: tuple[str, ...] = ()
    """The programs that run it, the outermost first."""
    writes: tuple[str, ...] = ()
    """Where its output is redirected to, as far as that is known; files only."""
    is_mere: bool = False
    """It does nothing but run other commands that are listed here too."""

    @property
    def program(self) -> str | None:
        """The last name of the program; `None` where only the running shell knows it."""
        return program_of(self.words)

    def __str__(self) -> str:
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that cannot be known, and where."""

    reason: str
    position: Position
    within: tuple[str, ...] = ()
    fed_by: tuple[str, ...] = ()
    """Programs whose output is the script that cannot be known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellReading:
    """What a text will run."""

    commands: tuple[SimpleCommand, ...]
    hidden: tuple[Finding, ...]
    """What may run anything: the text is no bash, or only the running shell knows."""
    redefined: tuple[Finding, ...]
    """What changes the meaning of names: `PATH=…`, `LD_PRELOAD=…`, start-up files."""
    multiplying: tuple[Finding, ...] = ()
    """Functions that call themselves more than once: fork bombs."""


def read_shell(text: str) -> ShellReading:
    """Everything that bash would start for `text`. Never raises."""
    reader = _Reader()
    reader.read(text, (), ())
    return reader.reading()


def read_argv(argv: Sequence[str]) -> ShellReading:
    """Everything that an argument list starts, which is one simple command and what that runs."""
    reader = _Reader()
    reader.take(known(argv), _Scene(position=Position()))
    return reader.reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """What surrounds a simple command."""

    position: Position
    within: tuple[str, ...] = ()
    redirects: Redirects = field(default_factory=Redirects)
    fed_by: tuple[str, ...] = ()


class _Reader:
    """Collects the simple commands of a text and of the texts within it."""

    def __init__(self) -> None:
        self._commands: list[SimpleCommand] = []
        self._hidden: dict[Finding, None] = {}
        self._read = 0
        self._redefined: list[Finding] = []
        self._multiplying: list[Finding] = []

    def reading(self) -> ShellReading:
        return ShellReading(
            commands=tuple(self._commands),
            hidden=tuple(self._hidden),
            redefined=tuple(self._redefined),
            multiplying=tuple(self._multiplying),
        )

    def read(self, text: str, within: tuple[str, ...], positionals: Sequence[Word]) -> None:
        start = _Scene(position=Position(), within=within)
        data = text.encode("utf-8", "replace")
        self._read += len(data)
        heavy = any(text.count(sign) > most for sign, most in _HEAVY.items())
        if heavy or len(data) > LONGEST_TEXT or self._read > _LONGEST_TOGETHER or len(within) > DEEPEST:
            self._hide("the text is too long, or too deep within others, to be read", start)
            return
        odd = _ODD.search(text) or re.search(r"[\ud800-\udfff]", text)
        if odd is not None:
            position = Position(text.count("\n", 0, odd.start()) + 1, odd.start() - text.rfind("\n", 0, odd.start()))
            self._hide(f"the character U+{ord(odd[0]):04X}, which readers understand differently", start, position)
        tree = _parse(mask(text))
        last = _last_if_alone(tree.root_node) if positionals else None
        for node in _descend(tree.root_node):
            if len(self._commands) > MOST_COMMANDS:
                self._hide(f"more than {MOST_COMMANDS} commands", start)
                return
            self._visit(node, within, positionals if last is not None and node == last else ())

    def take(self, words: Sequence[Word], scene: _Scene) -> None:
        """Note one simple command, and what it runs."""
        if not words:
            return
        found = carried(words)
        name = program_of(words)
        if name in _RESERVED:
            self._hide(f"{name} where a command is expected", scene)
        self._commands.append(
            SimpleCommand(
                words=tuple(words),
                position=scene.position,
                within=scene.within,
                writes=scene.redirects.writes,
                is_mere=found.is_mere,
            )
        )
        self._follow(name or "", found, scene)

    def _follow(self, name: str, found: Carried, scene: _Scene) -> None:
        inner = (*scene.within, name)
        for reason in found.hidden:
            self._hide(reason, scene)
        for reason in found.redefines:
            self._redefine(reason, scene)
        if found.reads_script:
            script = scene.redirects.script
            if script is None:
                self._hide(f"{name} runs a script that comes from elsewhere", scene)
            else:
                self.read(script, inner, ())
        for code in found.code:
            self.read(code.text, inner, code.positionals)
        for words in found.commands:
            if len(inner) > DEEPEST:
                self._hide("commands too deep within others to be read", scene)
                return
            self.take(words, replace(scene, within=inner))

    def _visit(self, node: tree_sitter.Node, within: tuple[str, ...], positionals: Sequence[Word]) -> None:
        scene = _Scene(position=_position(node), within=within)
        match node.type:
            case "ERROR":
                self._hide("no bash that can be read", scene)
            case _ if node.is_missing:
                self._hide(f"no bash that can be read: {node.type!r} is missing", scene)
            case "command":
                self._command(node, scene, positionals)
            case "command_substitution" if source_of(node).startswith("`") and "\\" in source_of(node):
                self._hide("backslashes between backquotes", scene)
            case "variable_name":
                self._variable(node, scene)
            case "declaration_command" | "unset_command":
                self._declaration(node, scene)
            case "function_definition":
                self._function(node, scene)
            case "heredoc_redirect" | "redirected_statement":
                self._redirected(node, scene)
            case "raw_string" | "ansi_c_string" | "string" if (
                _is_read_again(node) and read_word(node).holds_secret_code
            ):
                self._hide("a quoted value with a command in it, which the shell may read again", scene)

    def _command(self, node: tree_sitter.Node, scene: _Scene, positionals: Sequence[Word]) -> None:
        statement = node.parent if node.parent is not None and node.parent.type == "redirected_statement" else None
        redirects = read_redirects(node, statement)
        scene = replace(scene, redirects=redirects, fed_by=(*redirects.fed_by, *_fed_by(statement or node)))
        if redirects.trouble:
            self._hide(redirects.trouble, scene)
        words: list[Word] = []
        end: int | None = None
        source = node.text or b""
        for child in node.children:
            if child.is_missing or child.type in ("variable_assignment", "ERROR"):
                pass
            elif child.type == "command_name" or child.type in WORD_TYPES:
                words.append(_positional(child, positionals) or read_word(child))
            elif not child.type.endswith("_redirect") and child.type != "comment":
                self._hide(f"{source_of(child)!r} in a place where bash and the grammar may differ", scene)
            if end is not None and not _BLANK.fullmatch(
                source[end - node.start_byte : child.start_byte - node.start_byte]
            ):
                self._hide("words that bash and the grammar may divide differently", scene)
            end = child.end_byte
        self.take((*words, *redirects.words), scene)

    def _variable(self, node: tree_sitter.Node, scene: _Scene) -> None:
        parent = node.parent
        name = source_of(node)
        if parent is None or not redefines(name) or parent.type == "simple_expansion":
            return
        if parent.type == "expansion" and not any(child.type in ("=", ":=") for child in parent.children):
            return
        if parent.type in ("declaration_command", "unset_command"):
            return
        self._redefine(f"{name} is set, which decides what names stand for", scene)

    def _declaration(self, node: tree_sitter.Node, scene: _Scene) -> None:
        """`export NAME=value` is a node of its own; what it is told in words is judged here."""
        for child in node.named_children:
            if child.type not in WORD_TYPES:
                continue
            word = read_word(child)
            name = word.text.partition("=")[0].rstrip("+")
            if not word.is_known:
                self._redefine(f"only the running shell knows which variable {word.text} is", scene)
            elif redefines(name) or _NAMEREF.fullmatch(word.text):
                self._redefine(f"{word.text} decides what names stand for", scene)

    def _function(self, node: tree_sitter.Node, scene: _Scene) -> None:
        name = source_of(node.named_children[0]) if node.named_children else ""
        called = [found for found in _descend(node) if found.type == "command_name" and source_of(found) == name]
        if len(called) > 1:
            reason = f"the function {name} starts itself {len(called)} times"
            self._multiplying.append(Finding(reason=reason, position=scene.position, within=scene.within))

    def _redirected(self, node: tree_sitter.Node, scene: _Scene) -> None:
        body = node.named_children[0] if node.type == "redirected_statement" and node.named_children else None
        if body is not None and body.type != "command":
            redirects = read_redirects(node, node)
            if redirects.words:
                self._hide("words behind a redirection", scene)
        for child in node.named_children:
            if child.type == "heredoc_body" and _has_quiet_code(node, child):
                self._hide("a here-document with backquotes in it", scene)

    def _hide(self, reason: str, scene: _Scene, position: Position | None = None) -> None:
        finding = Finding(reason=reason, position=position or scene.position, within=scene.within, fed_by=scene.fed_by)
        self._hidden[finding] = None

    def _redefine(self, reason: str, scene: _Scene) -> None:
        self._redefined.append(Finding(reason=reason, position=scene.position, within=scene.within))


def _parse(data: bytes) -> tree_sitter.Tree:
    from tree_sitter import Parser  # noqa: PLC0415 - only a policy with rules about commands pays for the grammar

    return Parser(_language()).parse(data)


@cache
def _language() -> tree_sitter.Language:
    import tree_sitter_bash  # noqa: PLC0415 - as above
    from tree_sitter import Language  # noqa: PLC0415

    return Language(tree_sitter_bash.language())


def _descend(root: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    """All nodes in the order of the text; without recursion, which a text could exhaust."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(node.children))


def _position(node: tree_sitter.Node) -> Position:
    return Position(node.start_point.row + 1, node.start_point.column + 1)


def _last_if_alone(root: tree_sitter.Node) -> tree_sitter.Node | None:
    """The last statement, where none before it can have changed `$1`: only `exec` and `trap` come before."""
    statements = [child for child in root.named_children if child.type != "comment"]
    if not statements or statements[-1].type != "command":
        return None
    for statement in statements[:-1]:
        command = statement.named_children[0] if statement.type == "redirected_statement" else statement
        name = command.named_children[0] if command.type == "command" and command.named_children else None
        if name is None or source_of(name) not in ("exec", "trap"):
            return None
        if any(node.type in ("command_substitution", "expansion", "simple_expansion") for node in _descend(statement)):
            return None
    return statements[-1]


_POSITIONAL = re.compile(r'"\$([1-9])"')


def _positional(node: tree_sitter.Node, positionals: Sequence[Word]) -> Word | None:
    found = _POSITIONAL.fullmatch(source_of(node))
    number = int(found[1]) if found is not None else 0
    return positionals[number - 1] if 0 < number <= len(positionals) else None


def _fed_by(node: tree_sitter.Node) -> tuple[str, ...]:
    """The programs before a command in its pipeline, and in the substitutions of its words."""
    sources: list[tree_sitter.Node] = []
    parent = node.parent
    if parent is not None and parent.type == "pipeline":
        sources += [child for child in parent.named_children if child.start_byte < node.start_byte]
        parent = parent.parent
    if parent is not None and parent.type == "heredoc_redirect" and parent.parent is not None:
        sources += parent.parent.named_children[:1]
    sources += [child for child in node.named_children if child.type in WORD_TYPES]
    names = (found for source in sources for found in _descend(source) if found.type == "command_name")
    return tuple(dict.fromkeys(source_of(name).rpartition("/")[2] for name in names))


def _is_read_again(node: tree_sitter.Node) -> bool:
    while node.parent is not None and node.parent.type in _PARTS:
        node = node.parent
    return node.parent is not None and node.parent.type in _AGAIN


def _has_quiet_code(redirect: tree_sitter.Node, body: tree_sitter.Node) -> bool:
    """Whether a here-document holds backquotes that the shell runs and the grammar passes over."""
    start = next((child for child in redirect.named_children if child.type == "heredoc_start"), None)
    is_quoted = start is not None and set(source_of(start)) & set("'\"\\")
    return not is_quoted and "`" in source_of(body)
