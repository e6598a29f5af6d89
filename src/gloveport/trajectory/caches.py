"""Which files of a workspace are caches: what tools keep for themselves says nothing of what was done there."""

from __future__ import annotations

import re

__all__ = ["CACHES"]

CACHES = re.compile(
    r"(?:^|/)(?:__pycache__|\.pytest_cache|\.mypy_cache|\.ruff_cache|\.hypothesis|\.tox|\.nox|node_modules/\.cache)"
    r"(?:/|$)|\.py[co]$|(?:^|/)\.coverage(?:\.|$)"
)
"""Finds paths of what tools keep for themselves, with times and addresses in it."""
