"""The default backend: Linux namespaces by bubblewrap, no daemon, no root."""

from gloveport.backends.bubblewrap.backend import BubblewrapBackend

__all__ = ["BubblewrapBackend"]
