"""The interface of knowlyr's AgentSandbox: `from gloveport.compat.agentsandbox import Sandbox, SandboxConfig`.

Where that one did not do what its documents say, this one does: see docs/reference/agentsandbox.md.
"""

from gloveport.compat.agentsandbox.config import SandboxConfig, TaskConfig
from gloveport.compat.agentsandbox.env import SandboxEnv, TimeStep
from gloveport.compat.agentsandbox.replay import Trajectory, replay_trajectory
from gloveport.compat.agentsandbox.sandbox import Sandbox
from gloveport.tools.standard import ToolResult

__all__ = [
    "Sandbox",
    "SandboxConfig",
    "SandboxEnv",
    "TaskConfig",
    "TimeStep",
    "ToolResult",
    "Trajectory",
    "replay_trajectory",
]
