"""`gloveport score`: how a trajectory went, by a rubric."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import note, print_json, print_table
from gloveport.cli.trajectories import find_trajectory
from gloveport.errors import InvalidRequest
from gloveport.settings import Settings
from gloveport.trajectory.scoring import CriterionScore, Score, read_rubric, score_trajectory

__all__ = ["command"]

_BELOW = 1
_MOST_SHOWN = 5


def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN|ID|FILE",
            help="A run (`last` is the newest), a sandbox whose tools were called, or a trajectory file: "
            "a name with a dot or a slash.",
        ),
    ],
    rubric: Annotated[Path, typer.Option(metavar="FILE", help="What to score it by: TOML, or JSON (`.json`).")],
    at_least: Annotated[
        float | None, typer.Option("--at-least", metavar="X", help="Exit with 1 when the score is less, 0 to 1.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Take what there is of a recording that goes on, or is broken.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Score how a trajectory went: 0 to 1, the weighted mean of a rubric's criteria. Nothing runs, no model is asked.

    gloveport score last --rubric rubric.toml
    """
    if at_least is not None and not 0 <= at_least <= 1:
        raise InvalidRequest(f"--at-least {at_least:g}", hint="0 to 1")
    criteria = read_rubric(rubric)
    trajectory = find_trajectory(Settings.load(), name, partial=partial)
    score = score_trajectory(trajectory, criteria)
    facts = score.to_json()
    if "incomplete" in trajectory.metadata:
        facts["incomplete"] = str(trajectory.metadata["incomplete"])
        note(f"incomplete: {facts['incomplete']}")
    if as_json:
        print_json(facts)
    else:
        _print(score)
    return _BELOW if at_least is not None and score.score < at_least else 0


def _print(score: Score) -> None:
    rows = [(each.name, f"{each.weight:g}", f"{each.score:g}", _steps(each), each.why) for each in score.criteria]
    print_table(("CRITERION", "WEIGHT", "SCORE", "STEPS", "FOUND"), rows)
    typer.echo(f"score {score.score:g}")


def _steps(one: CriterionScore) -> str:
    shown = ", ".join(map(str, one.steps[:_MOST_SHOWN]))
    return f"{shown}, …" if one.steps_total > _MOST_SHOWN else shown or "-"
