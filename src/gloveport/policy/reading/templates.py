"""Templates: the policies that come with Gloveport, by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

from gloveport.errors import NotFound
from gloveport.policy.reading.document import Document, parse_document

__all__ = ["list_templates", "read_template"]

_PURPOSES: Mapping[str, str] = MappingProxyType(
    {
        "minimal": "no way out at all, 1 CPU, 256 MiB, 30 s a command: code that nobody trusts",
        "standard": "packages and git after asking, 2 CPUs, 512 MiB, 60 s a command: everyday work",
        "development": "packages and git without asking, 4 CPUs, 2 GiB, 300 s a command: a project with dependencies",
    }
)
"""From the tightest to the widest."""


def list_templates() -> Mapping[str, str]:
    """What each template is for, in one line, by its name; from the tightest to the widest."""
    return _PURPOSES


def read_template(name: str) -> Document:
    """The template called `name`, as `read_document` would read a file. Raises `NotFound` for any other name.

    Every call reads it anew: nobody can change what the next one gets.
    """
    if name not in _PURPOSES:
        raise NotFound(
            f"no template of a policy is called {name!r}",
            hint=f"one of: {', '.join(_PURPOSES)}; or name a file",
            template=name,
        )
    data = resources.files("gloveport.policy.reading").joinpath("templates", f"{name}.toml").read_bytes()
    return parse_document(data, f"template {name}")
