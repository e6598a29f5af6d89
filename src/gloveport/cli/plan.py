"""`gloveport plan`: what `create` would do, without doing it."""

from __future__ import annotations

import json
import sys

from gloveport.cli.options import JsonOption
from gloveport.cli.spec import takes_spec
from gloveport.client import connect, encode
from gloveport.model import Spec
from gloveport.settings import Settings

__all__ = ["command"]


@takes_spec
def command(spec: Spec, as_json: JsonOption = False) -> None:
    """Print, as JSON, every operation that makes this sandbox; on one line with --json. Nothing is made."""
    with connect(Settings.load()) as runner:
        answer = runner.call("plan", spec=encode(spec))
    sys.stdout.write(json.dumps(answer["plan"], indent=None if as_json else 2) + "\n")
