"""The composition root of replays in which the agent itself works again."""

from gloveport.compose_replay.fork import ForkPoint, fork_run
from gloveport.compose_replay.session import session_replay

__all__ = ["ForkPoint", "fork_run", "session_replay"]
