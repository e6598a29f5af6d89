"""Gloveport: the self-hosted place where coding agents work without being able to hurt anyone."""

__all__ = ["__version__"]

__version__ = "0.1.0"
