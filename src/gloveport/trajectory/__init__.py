"""Trajectories: reading what a run recorded."""

from gloveport.trajectory.digest import CommandRun, Digest, digest_events

__all__ = ["CommandRun", "Digest", "digest_events"]
