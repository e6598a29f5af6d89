"""The runner: the host process that owns backends and serves this user's sandboxes over a unix socket."""

from gloveport.runner.server import Runner

__all__ = ["Runner"]
