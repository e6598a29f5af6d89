"""Where Gloveport keeps things and which model it talks to: read from the environment once, by the faces."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gloveport.errors import InvalidRequest

__all__ = ["Settings"]

_DEFAULT_UPSTREAM = "https://api.anthropic.com"
_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes; our own file name needs a few


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One installation's places and defaults."""

    state: Path
    """Volatile: sandboxes, sockets, helpers. Nothing in it outlives the sandboxes."""
    data: Path
    """Kept: runs, audit trails, fetched repositories."""
    idle_seconds: float = 300.0
    """How long a runner without sandboxes and calls stays."""
    upstream: str = _DEFAULT_UPSTREAM
    """The Messages API."""
    api_key: str | None = field(default=None, repr=False)
    auth_token: str | None = field(default=None, repr=False)
    model: str | None = None
    prices: Path | None = None
    """A file of model prices beside those that are built in."""
    extra_authorities: Path | None = None
    """A PEM file of certificate authorities that servers may have, beside those that this host trusts: where the egress
    proxy terminates TLS, it is the one that verifies them."""
    parent_proxy: str | None = None
    """`http://host:port` of the proxy that everything a policy lets out goes through, where this host needs one."""
    parent_credentials: Path | None = None
    """A file that holds `user:password` for it."""

    @property
    def socket(self) -> Path:
        """The runner's socket."""
        return self.state / "runner.sock"

    @property
    def desks(self) -> Path:
        """Where each run that asks has the socket of its desk: `<run>.sock`."""
        return self.state / "desks"

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Settings from `env` (the process's environment unless given).

        `GLOVEPORT_STATE`, `GLOVEPORT_DATA`, `GLOVEPORT_IDLE_SECONDS`, `ANTHROPIC_API_KEY`, `ANTHROPIC_AUTH_TOKEN`,
        `ANTHROPIC_BASE_URL`, `GLOVEPORT_MODEL`, `GLOVEPORT_PRICES`, `GLOVEPORT_CA_FILE`,
        `GLOVEPORT_PARENT_PROXY`, `GLOVEPORT_PARENT_PROXY_CREDENTIALS`, and the XDG base directories. `HTTP_PROXY` and
        its like are never heeded: sandboxes go through another proxy only where somebody says so for them.
        """
        variables = os.environ if env is None else env
        home = Path(variables.get("HOME") or Path.home())
        state = Path(variables.get("GLOVEPORT_STATE") or _default_state(variables, home))
        data_home = variables.get("XDG_DATA_HOME") or home / ".local" / "share"
        data = Path(variables.get("GLOVEPORT_DATA") or Path(data_home) / "gloveport")
        if len(os.fsencode(state)) > _LONGEST_SOCKET_PATH:
            raise InvalidRequest(
                f"the state directory's path is too long for a unix socket: {state}",
                hint=f"set GLOVEPORT_STATE to a path of at most {_LONGEST_SOCKET_PATH} bytes",
            )
        return cls(
            state=state,
            data=data,
            idle_seconds=_seconds(variables.get("GLOVEPORT_IDLE_SECONDS"), 300.0),
            upstream=variables.get("ANTHROPIC_BASE_URL") or _DEFAULT_UPSTREAM,
            api_key=variables.get("ANTHROPIC_API_KEY") or None,
            auth_token=variables.get("ANTHROPIC_AUTH_TOKEN") or None,
            model=variables.get("GLOVEPORT_MODEL") or None,
            prices=Path(prices) if (prices := variables.get("GLOVEPORT_PRICES")) else None,
            extra_authorities=Path(extra) if (extra := variables.get("GLOVEPORT_CA_FILE")) else None,
            parent_proxy=variables.get("GLOVEPORT_PARENT_PROXY") or None,
            parent_credentials=Path(file) if (file := variables.get("GLOVEPORT_PARENT_PROXY_CREDENTIALS")) else None,
        )


def _default_state(variables: Mapping[str, str], home: Path) -> Path:
    # Root's sandboxes run as other users of the host, who cannot pass through root's home.
    if os.geteuid() == 0:
        return Path("/var/lib/gloveport")
    return Path(variables.get("XDG_STATE_HOME") or home / ".local" / "state") / "gloveport"


def _seconds(text: str | None, default: float) -> float:
    if not text:
        return default
    try:
        return float(text)
    except ValueError as error:
        raise InvalidRequest(
            f"GLOVEPORT_IDLE_SECONDS is not a number: {text!r}", hint="give seconds, for example 300"
        ) from error
