"""The score of a trajectory by a rubric: the weighted mean of what its criteria found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gloveport.trajectory.scoring.checks import look
from gloveport.trajectory.scoring.rubric import Rubric
from gloveport.trajectory.steps import Trajectory

__all__ = ["CriterionScore", "Score", "score_trajectory"]

_MOST_STEPS = 100
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CriterionScore:
    """What came of one criterion."""

    name: str
    check: str
    weight: float
    score: float
    """0 to 1."""
    why: str
    steps: tuple[int, ...]
    """The steps that it is about, from 0: the first hundred."""
    steps_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What came of all of them."""

    score: float
    """0 to 1, in six digits."""
    total_steps: int
    criteria: tuple[CriterionScore, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def score_trajectory(trajectory: Trajectory, rubric: Rubric) -> Score:
    """Score how a trajectory went. Nothing is run and no model is asked: the same record has the same score.

    It takes a time that grows with the length of the record, times the number of criteria.
    """
    steps = trajectory.steps
    found = []
    for criterion in rubric.criteria:
        finding = look(criterion, steps)
        found.append(
            CriterionScore(
                name=criterion.name,
                check=criterion.check,
                weight=criterion.weight,
                score=round(finding.score, _DIGITS),
                why=finding.why,
                steps=finding.steps[:_MOST_STEPS],
                steps_total=len(finding.steps),
            )
        )
    weights = sum(each.weight for each in found)
    mean = sum(each.weight * each.score for each in found) / weights
    return Score(score=round(mean, _DIGITS), total_steps=len(steps), criteria=tuple(found))
