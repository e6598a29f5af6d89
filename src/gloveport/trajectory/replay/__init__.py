"""Replay: the tool calls of a trajectory again, held against what was recorded of them."""

from gloveport.trajectory.caches import CACHES
from gloveport.trajectory.replay.engine import replay, replay_on_forks
from gloveport.trajectory.replay.execution import OpenSandbox, ReplayRequest
from gloveport.trajectory.replay.live import Recording, accept, recording
from gloveport.trajectory.replay.normalise import Applied, Normalised, Normaliser, normalise
from gloveport.trajectory.replay.result import (
    Aspect,
    Difference,
    Divergence,
    DivergenceKind,
    ReplayResult,
    StepResult,
    Verdict,
)
from gloveport.trajectory.replay.table import NORMALISERS

__all__ = [
    "CACHES",
    "NORMALISERS",
    "Applied",
    "Aspect",
    "Difference",
    "Divergence",
    "DivergenceKind",
    "Normalised",
    "Normaliser",
    "OpenSandbox",
    "Recording",
    "ReplayRequest",
    "ReplayResult",
    "StepResult",
    "Verdict",
    "accept",
    "normalise",
    "recording",
    "replay",
    "replay_on_forks",
]
