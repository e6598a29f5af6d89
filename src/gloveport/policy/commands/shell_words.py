"""What a word of a shell text stands for, as far as that is known before the shell runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tree_sitter

__all__ = ["WORD_TYPES", "Word", "join_words", "known", "mask", "read_word", "source_of"]

WORD_TYPES = frozenset(
    (
        "ansi_c_string",
        "arithmetic_expansion",
        "brace_expression",
        "command_substitution",
        "concatenation",
        "expansion",
        "extglob_pattern",
        "number",
        "process_substitution",
        "raw_string",
        "regex",
        "simple_expansion",
        "string",
        "translated_string",
        "word",
    )
)
"""Types of the grammar's nodes that are words."""

_WIDE = re.compile(r"[^\x00-\xff]")
_MASKED = re.compile(r"\x01([0-9a-f]+)\x02")
_PLAIN_WORD = re.compile(r"[\w./:,@%+=-]+", re.ASCII)
_GLOB = re.compile(r"[*?\[]|[@!+](?=\()")
_BRACES = re.compile(r"\{.*(?:,|\.\.).*\}", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED_IN_QUOTES = re.compile(r'\\([\\"$`\n])')
_ANSI = re.compile(
    r"\\(?:x(?P<hex>[0-9a-fA-F]{1,2})|u(?P<u>[0-9a-fA-F]{1,4})|U(?P<U>[0-9a-fA-F]{1,8})"
    r"|(?P<octal>[0-7]{1,3})|(?P<plain>.))",
    re.DOTALL,
)
_ANSI_PLAIN = dict(
    zip("abeEfnrtv\\'\"?", ("\a", "\b", "\x1b", "\x1b", "\f", "\n", "\r", "\t", "\v", "\\", "'", '"', "?"), strict=True)
)
_HIGHEST = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Word:
    """One word."""

    text: str
    """What it stands for when that is known; else as it is written."""
    is_known: bool = True
    is_many: bool = False
    """It may become any number of words: an unquoted expansion, a pattern of file names."""
    holds_secret_code: bool = False
    """A quoted part holds what a second reading by the shell would run."""


def known(texts: Sequence[str]) -> tuple[Word, ...]:
    """Words that are what they are, as in an argument list."""
    return tuple(Word(text) for text in texts)


def join_words(words: Sequence[Word]) -> str | None:
    """The text that `eval` reads; `None` where it is not known."""
    return " ".join(word.text for word in words) if all(word.is_known for word in words) else None


def source_of(node: tree_sitter.Node) -> str:
    """A node as it is written."""
    return _MASKED.sub(lambda found: chr(int(found[1], 16)), (node.text or b"").decode())


def mask(text: str) -> bytes:
    """The text as the grammar gets it: its scanner, which is C, reads beyond its tables at characters above U+00FF.

    They are letters to a shell, and so is what stands for them here. `text` has none of the two control characters.
    """
    return _WIDE.sub(lambda found: f"\x01{ord(found[0]):x}\x02", text).encode()


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a word."""

    text: str | None
    """`None`: only the running shell knows."""
    is_quoted: bool
    is_many: bool = False


def read_word(node: tree_sitter.Node) -> Word:
    """What the node of one word stands for."""
    source = source_of(node)
    if _PLAIN_WORD.fullmatch(source):
        return Word(source)
    pieces = list(_pieces(node))
    quoted = "".join(piece.text or "" for piece in pieces if piece.is_quoted)
    secret = "$(" in quoted or "`" in quoted
    if any(piece.text is None for piece in pieces):
        return Word(source, False, any(piece.is_many for piece in pieces), secret)
    loose = "".join(piece.text or "" for piece in pieces if not piece.is_quoted)
    if _GLOB.search(loose) or _BRACES.search(loose):
        return Word(source, False, True, secret)
    if pieces and not pieces[0].is_quoted and (pieces[0].text or "").startswith("~"):
        return Word(source, False, False, secret)
    return Word("".join(piece.text or "" for piece in pieces), True, False, secret)


def _pieces(node: tree_sitter.Node) -> Iterator[_Piece]:
    match node.type:
        case "word" | "number":
            yield from _loose(source_of(node))
        case "raw_string":
            yield _Piece(source_of(node)[1:-1], True)
        case "ansi_c_string":
            yield _Piece(_decode_ansi(source_of(node)[2:-1]), True)
        case "string":
            yield _in_quotes(node)
        case "concatenation" | "command_name":
            end = node.start_byte
            for child in node.children:
                if not child.is_named or child.start_byte != end:  # the grammar passed over something
                    yield _Piece(None, False, True)
                yield from _pieces(child)
                end = child.end_byte
        case "process_substitution":
            yield _Piece(None, True)
        case _:
            yield _Piece(None, False, True)


def _loose(text: str) -> Iterator[_Piece]:
    """Text outside quotes: what a backslash protects is as good as quoted."""
    end = 0
    for found in _ESCAPED.finditer(text):
        yield from _plain(text[end : found.start()])
        if found[1] != "\n":
            yield _Piece(found[1], True)
        end = found.end()
    yield from _plain(text[end:])


def _plain(text: str) -> Iterator[_Piece]:
    if text:
        yield _Piece(None if "$" in text.rstrip("$") or "`" in text else text, False, False)


def _in_quotes(node: tree_sitter.Node) -> _Piece:
    """The grammar drops some blanks between the parts of a string, so what has no expansion is read from the source."""
    source = source_of(node)
    if all(child.type in ('"', "$", "string_content") for child in node.children):
        body = source[1:-1]
        if not re.search(r"(?<!\\)(?:\\\\)*[$`](?=[\w({\[@*#?!$-])", body) and "`" not in body.replace("\\`", ""):
            return _Piece(_ESCAPED_IN_QUOTES.sub(lambda found: found[1] if found[1] != "\n" else "", body), True)
    return _Piece(None, True, "@" in source)


def _decode_ansi(text: str) -> str | None:
    """The text of `$'…'`; `None` for what differs between shells."""
    unknown = False

    def decode(found: re.Match[str]) -> str:
        nonlocal unknown
        digits = found["hex"] or found["u"] or found["U"]
        number = int(digits, 16) if digits else int(found["octal"], 8) if found["octal"] else None
        if number is not None:
            # Bytes of a character beyond ASCII come one at a time; a NUL ends the word.
            unknown |= not 0 < number <= _HIGHEST or (number > 0x7F and not (found["u"] or found["U"]))
            return "" if unknown else chr(number)
        plain = found["plain"]
        unknown |= plain not in _ANSI_PLAIN
        return _ANSI_PLAIN.get(plain, plain)

    decoded = _ANSI.sub(decode, text)
    return None if unknown else decoded
