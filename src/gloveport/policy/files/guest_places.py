"""Directories of the guest that only the host fills."""

from __future__ import annotations

__all__ = ["GUEST_TOOLS", "RIPGREP", "SYSTEM_PROGRAMS"]

GUEST_TOOLS = "/run/gloveport/bin"
"""Where the platform's own helpers for the guest are."""
RIPGREP = f"{GUEST_TOOLS}/rg"
SYSTEM_PROGRAMS = frozenset(
    ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", GUEST_TOOLS)
)
"""Where a program's name means what everybody thinks: nothing in the guest can write there."""
