"""Scoring what was recorded: no sandbox takes part in it."""

from __future__ import annotations

from dataclasses import fields
from functools import partial

import anyio

from gloveport.mcp.progress import Progress
from gloveport.mcp.sandboxes import Sandboxes
from gloveport.mcp.shapes import CriterionScored, Scored, ScoreTrajectory
from gloveport.mcp.travel import read_given
from gloveport.trajectory import scoring

__all__ = ["score_trajectory"]


async def score_trajectory(_sandboxes: Sandboxes, asked: ScoreTrajectory, progress: Progress) -> Scored:
    """Score how a trajectory went, by a rubric."""
    rubric = scoring.parse_rubric(asked.rubric)
    trajectory = read_given(asked.trajectory)
    await progress.say(f"scoring {len(trajectory.steps)} steps")
    found = await anyio.to_thread.run_sync(partial(scoring.score_trajectory, trajectory, rubric))
    return Scored(score=found.score, total_steps=found.total_steps, criteria=tuple(map(_scored, found.criteria)))


def _scored(one: scoring.CriterionScore) -> CriterionScored:
    return CriterionScored(**{each.name: getattr(one, each.name) for each in fields(one)})
