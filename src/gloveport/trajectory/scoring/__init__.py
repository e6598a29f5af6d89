"""Scoring how a trajectory went, step by step, by a rubric."""

from gloveport.trajectory.scoring.rubric import Rubric, parse_rubric, read_rubric
from gloveport.trajectory.scoring.score import CriterionScore, Score, score_trajectory

__all__ = ["CriterionScore", "Rubric", "Score", "parse_rubric", "read_rubric", "score_trajectory"]
