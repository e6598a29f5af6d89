"""`gloveport version`."""

from __future__ import annotations

import platform
import sys

from gloveport import __version__
from gloveport.cli.options import JsonOption
from gloveport.cli.output import print_json

__all__ = ["command"]


def command(as_json: JsonOption = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__, "python": platform.python_version()})
    else:
        sys.stdout.write(f"gloveport {__version__}\n")
