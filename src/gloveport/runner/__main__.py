"""`python -m gloveport.runner [--detach]`: the runner as a process."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from functools import partial

import anyio

from gloveport.errors import GloveportError
from gloveport.runner.daemon import detach
from gloveport.runner.server import Runner
from gloveport.settings import Settings
from gloveport.store import make_private

__all__ = ["main"]


def main() -> int:
    """Run until stopped; the exit status. With `--detach`, in the background, returning once it listens."""
    detached = "--detach" in sys.argv[1:]
    try:
        settings = Settings.load()
        if detached:
            return detach(make_private(settings.data) / "runner.log", partial(_run, settings))
        _run(settings)
    except GloveportError as error:
        if detached:
            sys.stdout.write(json.dumps(error.body()))
        else:
            sys.stderr.write(f"error: {error}\n  next: {error.hint}\n")
        return error.status.exit
    return 0


def _run(settings: Settings, ready: Callable[[], None] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    anyio.run(Runner(settings).run, ready)


if __name__ == "__main__":
    sys.exit(main())
