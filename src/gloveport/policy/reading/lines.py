"""Where things stand in a policy file: the line of every key and list item, for messages that point at it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence

import tree_sitter
import tree_sitter_json
import tree_sitter_toml

__all__ = ["Place", "line_numbers"]

Place = tuple[str | int, ...]
"""Keys and positions in lists, from the root."""


def line_numbers(text: str, *, is_json: bool) -> Mapping[Place, int]:
    """The line, from 1, of everything in a document that parses. What cannot be told is left out."""
    grammar = tree_sitter_json.language() if is_json else tree_sitter_toml.language()
    tree = tree_sitter.Parser(tree_sitter.Language(grammar)).parse(text.encode())
    lines: dict[Place, int] = {}
    if is_json:
        for value in tree.root_node.named_children:
            _value(value, (), lines)
    else:
        _document(tree.root_node, lines)
    return lines


def _document(root: tree_sitter.Node, lines: dict[Place, int]) -> None:
    """TOML: tables say where the pairs below them belong."""
    elements: dict[Place, int] = {}
    for node in root.named_children:
        if node.type == "pair":
            _pair(node, (), lines)
        elif node.type in ("table", "table_array_element"):
            head, *pairs = [child for child in node.named_children if child.type != "comment"]
            place = _place(tuple(_keys(head)), elements)
            lines.setdefault(place, _line(node))
            if node.type == "table_array_element":
                number = elements.get(place, 0)
                elements[place] = number + 1
                place = (*place, number)
                lines[place] = _line(node)
            for pair in pairs:
                _pair(pair, place, lines)


def _place(keys: Sequence[str], elements: Mapping[Place, int]) -> Place:
    """Where a table stands: below a list of tables it belongs to the last one so far."""
    place: Place = ()
    for key in keys[:-1]:
        place = (*place, key)
        if place in elements:
            place = (*place, elements[place] - 1)
    return (*place, keys[-1])


def _pair(node: tree_sitter.Node, above: Place, lines: dict[Place, int]) -> None:
    key, *values = [child for child in node.named_children if child.type != "comment"]
    place = (*above, *_keys(key))
    lines[place] = _line(node)
    for value in values:
        _value(value, place, lines)


def _value(node: tree_sitter.Node, place: Place, lines: dict[Place, int]) -> None:
    lines.setdefault(place, _line(node))
    children = [child for child in node.named_children if child.type != "comment"]
    if node.type == "array":
        for number, child in enumerate(children):
            _value(child, (*place, number), lines)
    elif node.type in ("inline_table", "object"):
        for child in children:
            _pair(child, place, lines)


def _keys(node: tree_sitter.Node) -> Iterator[str]:
    text = (node.text or b"").decode()
    if node.type == "dotted_key":
        for child in node.named_children:
            yield from _keys(child)
    elif node.type == "quoted_key":
        yield from tomllib.loads(f"{text} = 0")
    elif node.type == "string":
        yield str(json.loads(text))
    else:
        yield text


def _line(node: tree_sitter.Node) -> int:
    return node.start_point.row + 1
