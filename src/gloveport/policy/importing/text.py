"""An imported policy as a TOML file that a person goes on with: every rule beside the line it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gloveport.policy.reading.document import Document

__all__ = ["policy_text"]

_ESCAPED = re.compile(r'[\x00-\x1f"\\\x7f]')


def policy_text(document: Document) -> str:
    """The policy of a document whose lines are those of an imported file.

    Sections hold lists of texts and of flat tables, and single values: the shapes that an import makes.
    """
    source = _comment(document.file)
    body = document.body.model_dump(exclude_defaults=True)
    return "\n".join([f"# Imported from {source}.", *_sections(body, document, source)]) + "\n"


def _sections(body: Mapping[str, Any], document: Document, source: str) -> Iterator[str]:
    for section, keys in body.items():
        yield ""
        yield f"[{section}]"
        for key, value in keys.items():
            if not isinstance(value, list):
                yield f"{key} = {_value(value)}"
                continue
            yield f"{key} = ["
            for number, item in enumerate(value):
                yield f"  {_value(item)},  # {source}:{document.line(section, key, number)}"
            yield "]"


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            escaped = _ESCAPED.sub(lambda found: "\\u" + format(ord(found[0]), "04x"), value)
            return f'"{escaped}"'
        case dict():
            pairs = sorted(value.items(), key=lambda pair: pair[0] == "reason")
            return f"{{ {', '.join(f'{key} = {_value(inner)}' for key, inner in pairs)} }}"
    return str(value)


def _comment(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
