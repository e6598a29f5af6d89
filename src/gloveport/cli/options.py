"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["JsonOption", "SandboxArgument"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, errors included.")]
SandboxArgument = Annotated[str, typer.Argument(metavar="ID", help="A sandbox: its id, or the first letters of it.")]
