"""What the redirections of a shell command say: files written, a script on standard input, words between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gloveport.policy.commands.shell_words import WORD_TYPES, Word, read_word, source_of

if TYPE_CHECKING:
    import tree_sitter

__all__ = ["Redirects", "read_redirects"]

_NO_FILES = frozenset(("/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty"))
_PLAIN_END = re.compile(r"""\\?[\w.-]+|'[\w.-]+'|"[\w.-]+\"""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirects:
    """All redirections of one command."""

    writes: tuple[str, ...] = ()
    """Files, as they are spelt."""
    script: str | None = None
    """Standard input, where it is a text that is known."""
    words: tuple[Word, ...] = ()
    """Words of the command that stand behind a redirection."""
    fed_by: tuple[str, ...] = ()
    trouble: str = ""
    """Why they cannot be read as bash reads them."""


def read_redirects(*holders: tree_sitter.Node | None) -> Redirects:
    """The redirections that are direct children of the nodes."""
    writes: list[str] = []
    words: list[Word] = []
    inputs: list[str | None] = []
    trouble = ""
    for node in _redirects(holders):
        if node.type == "heredoc_redirect":
            text, problem = _here_document(node)
            trouble = trouble or problem
            inputs.append(text)
            words += [read_word(child) for child in node.named_children if child.type in WORD_TYPES]
        elif node.type == "herestring_redirect":
            told = [read_word(child) for child in node.named_children if child.type in WORD_TYPES]
            inputs.append(told[0].text if len(told) == 1 and told[0].is_known else None)
        else:
            told = [read_word(child) for child in node.named_children if child.type in WORD_TYPES]
            signs = {child.type for child in node.children if not child.is_named}
            if signs & {"<", "<&"}:
                inputs.append(None)
            elif told and not (">&" in signs and re.fullmatch(r"\d+-?|-", told[0].text)):
                writes += [told[0].text] if told[0].text not in _NO_FILES else []
            words += told[1:]
    # Of several, the last one is standard input; they are rare enough to give up on.
    script = inputs[0] if len(inputs) == 1 else None
    return Redirects(writes=tuple(writes), script=script, words=tuple(words), trouble=trouble)


def _redirects(holders: tuple[tree_sitter.Node | None, ...]) -> Iterator[tree_sitter.Node]:
    seen: set[int] = set()
    for holder in holders:
        for child in holder.named_children if holder is not None else ():
            if child.type.endswith("_redirect") and child.id not in seen:
                seen.add(child.id)
                yield child
                if child.type == "heredoc_redirect":
                    yield from (inner for inner in child.named_children if inner.type == "file_redirect")


def _here_document(node: tree_sitter.Node) -> tuple[str | None, str]:
    """The text, where no expansion can change it; and what is wrong with its shape."""
    parts = {child.type: child for child in node.named_children}
    start, body, end = (parts.get(name) for name in ("heredoc_start", "heredoc_body", "heredoc_end"))
    if start is None or end is None or not _PLAIN_END.fullmatch(source_of(start)):
        return None, "a here-document whose end is not plain"
    text = source_of(body) if body is not None else ""
    delimiter = source_of(start).strip("'\"\\")
    strips = any(child.type == "<<-" for child in node.children)
    lines = text.split("\n")
    if source_of(end) != delimiter or any((line.lstrip("\t") if strips else line) == delimiter for line in lines):
        return None, "a here-document that may end elsewhere"
    is_quoted = delimiter != source_of(start)
    if not is_quoted and set(text) & set("$`\\"):
        return None, ""
    return "\n".join(line.lstrip("\t") for line in lines) if strips else text, ""
