"""`python -m gloveport.doctor PLACE [GUARD]...`: the attacks, in a network of their own; prints reports as JSON.

Without a guard's name the whole suite on the sandbox as it is; with names a report for each of them taken away.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from gloveport.doctor.examine import examine, try_without
from gloveport.doctor.guards import GUARDS
from gloveport.doctor.range import end_with_parent, enter_range
from gloveport.doctor.report import encode_reports
from gloveport.errors import GloveportError

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Attack, and print the reports; 1 when it could not be done, for the reason on stderr."""
    place, *guards = arguments
    try:
        enter_range()  # before there is a second thread
        end_with_parent()  # which the way into the range would undo
        if guards:
            reports = anyio.run(try_without, Path(place), [GUARDS[name] for name in guards], _tell)
        else:
            reports = {"": anyio.run(examine, Path(place), _tell)}
    except GloveportError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(encode_reports(reports) + "\n")
    return 0


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
