"""Gloveport: the self-hosted place where coding agents work without being able to hurt anyone."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gloveport.errors import GloveportError
    from gloveport.model import ExecRequest, ExecResult, Exit, Grep, Limits, Source, Spec, TerminalSize
    from gloveport.sandbox import Manager, Sandbox, shell_request
    from gloveport.sandbox.blocking import blocking_sandbox
    from gloveport.settings import Settings

__all__ = [
    "ExecRequest",
    "ExecResult",
    "Exit",
    "GloveportError",
    "Grep",
    "Limits",
    "Manager",
    "Sandbox",
    "Settings",
    "Source",
    "Spec",
    "TerminalSize",
    "__version__",
    "blocking_sandbox",
    "shell_request",
]

__version__ = "0.1.0"

_HOMES = {
    "GloveportError": "gloveport.errors",
    "Manager": "gloveport.sandbox",
    "Sandbox": "gloveport.sandbox",
    "Settings": "gloveport.settings",
    "blocking_sandbox": "gloveport.sandbox.blocking",
    "shell_request": "gloveport.sandbox",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `import gloveport` alone costs nothing (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'gloveport' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "gloveport.model")), name)
