"""The command line: each command is a module that is imported only when it is invoked."""

from gloveport.cli.main import main

__all__ = ["main"]
