"""`python -m benchmarks.prompts [--task NAME] [--json FILE]`: count approvals in both arms, print the reduction.

Exits 1 when the counts would mean nothing, and says why.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio

from benchmarks.__main__ import machine, say
from benchmarks.prompts.count import compare_arms, document, flaws, report
from benchmarks.prompts.tasks import TASKS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Count; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prompts", description=__doc__)
    names = [task.name for task in TASKS]
    parser.add_argument("--task", action="append", choices=names, metavar="NAME", help="one task; repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts, with the machine and the date")
    parser.add_argument("--at-a-time", type=int, default=2, metavar="N", help="runs at the same time (2)")
    given = parser.parse_args(arguments)
    chosen = [task for task in TASKS if not given.task or task.name in given.task]
    found = anyio.run(partial(compare_arms, chosen, at_a_time=given.at_a_time, say=say))
    print(report(found))
    if given.json is not None:
        record = {"machine": machine(), **document(found)}
        given.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    wrong = flaws(found)
    for line in wrong:
        say(f"wrong: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
