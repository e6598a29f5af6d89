"""Variables that keep a real Claude Code process offline and at home, for tests and demos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["PLACEHOLDER_KEY", "claude_code_variables"]

PLACEHOLDER_KEY = "placeholder-not-a-key"


def claude_code_variables(home: Path, *, url: str, uds: Path | None = None) -> Mapping[str, str]:
    """Variables for a Claude Code process that writes only below `home` and connects only to `url`.

    `uds` is the unix socket behind `url`, if any. `home` and what is needed in it are made.
    The Agent SDK adds the caller's own variables, so its other `ANTHROPIC_` and `CLAUDE` ones must be unset.
    """
    scratch = home / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    variables = {
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "CLAUDE_CODE_TMPDIR": str(scratch),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "ANTHROPIC_API_KEY": PLACEHOLDER_KEY,
        "ANTHROPIC_BASE_URL": url,
    }
    return variables if uds is None else variables | {"ANTHROPIC_UNIX_SOCKET": str(uds)}
