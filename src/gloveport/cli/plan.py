"""`gloveport plan`: what `create` would do, without doing it."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace

from gloveport.cli.spec import add_spec, make_spec
from gloveport.client import connect, encode
from gloveport.settings import Settings

__all__ = ["arguments", "command"]


def arguments(parser: ArgumentParser) -> None:
    """A spec."""
    add_spec(parser)


def command(options: Namespace) -> None:
    """Print, as JSON, every operation that makes this sandbox; on one line with --json. Nothing is made."""
    spec = make_spec(options)
    with connect(Settings.load()) as runner:
        answer = runner.call("plan", spec=encode(spec))
    sys.stdout.write(json.dumps(answer["plan"], indent=None if options.json else 2) + "\n")
