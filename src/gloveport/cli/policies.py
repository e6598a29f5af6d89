"""Policies as commands name them: files and templates, with the command line's own limits as the lowest layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gloveport.model import Origin, Policy, PolicyLayer
from gloveport.policy.reading.load import load_policy

__all__ = ["find_policy"]


def find_policy(names: Sequence[str], limits: Mapping[str, float]) -> Policy:
    """The policy of the named files and templates, highest first, under the organisation's.

    Raises what `load_policy` raises.
    """
    command_line = PolicyLayer(origin=Origin(layer="command line"), limits=MappingProxyType(dict(limits)))
    return load_policy(names, command_line=command_line if limits else None)
