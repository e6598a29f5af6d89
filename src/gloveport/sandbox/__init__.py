"""The sandbox as people use it: the handle, its manager, and the recorder that every call passes."""

from gloveport.sandbox.background import Background
from gloveport.sandbox.files import Files
from gloveport.sandbox.git import Git
from gloveport.sandbox.handle import Sandbox, shell_request
from gloveport.sandbox.manager import Held, Manager
from gloveport.sandbox.recorder import Recorder
from gloveport.sandbox.shell import Shell

__all__ = ["Background", "Files", "Git", "Held", "Manager", "Recorder", "Sandbox", "Shell", "shell_request"]
