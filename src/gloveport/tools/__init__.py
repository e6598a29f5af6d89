"""Tools that a model may call, each thin over the handle of one sandbox; `standard` and `claude` are the two sets."""

from gloveport.tools.schema import Parameter, Tool

__all__ = ["Parameter", "Tool"]
