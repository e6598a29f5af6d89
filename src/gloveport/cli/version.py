"""`gloveport version`."""

from __future__ import annotations

import platform
import sys
from argparse import ArgumentParser, Namespace

from gloveport import __version__
from gloveport.cli.output import print_json

__all__ = ["arguments", "command"]


def arguments(_parser: ArgumentParser) -> None:
    """None."""


def command(options: Namespace) -> None:
    """Print the version."""
    if options.json:
        print_json({"version": __version__, "python": platform.python_version()})
    else:
        sys.stdout.write(f"gloveport {__version__}\n")
