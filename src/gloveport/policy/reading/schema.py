"""The shape of a policy file, strictly: what is not here is an error."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt

__all__ = [
    "CommandRule",
    "Egress",
    "Environment",
    "Exec",
    "Files",
    "HostRule",
    "Inject",
    "Limits",
    "NamedTool",
    "PolicyDocument",
    "Rule",
    "Secret",
    "Source",
    "Tools",
]

_Section = Literal["egress", "exec", "environment", "files", "limits", "tools"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _as_host(value: object) -> object:
    return {"host": value} if isinstance(value, str) else value


def _as_command(value: object) -> object:
    return {"command": value} if isinstance(value, str) else value


def _as_tool(value: object) -> object:
    return {"tool": value} if isinstance(value, str) else value


class Rule(_Strict):
    """What every rule may say of itself."""

    reason: str = ""
    match: list[str] = []
    """Examples that the rule must cover; checked when the file is loaded."""
    not_match: list[str] = []
    """Examples that it must not cover."""


class HostRule(Rule):
    """`host`, `*.host`, `host:port`, an address, a network, or a group such as `@pip`."""

    host: str = Field(min_length=1)
    methods: list[Annotated[str, Field(pattern=r"^[A-Z]+$")]] = []
    paths: list[Annotated[str, Field(pattern=r"^/")]] = []
    private: bool = False


class CommandRule(Rule):
    """Words as a shell splits them; `*` is any one word, `**` at the end any more."""

    command: str = Field(min_length=1)


class NamedTool(Rule):
    """A tool's name; `*` is any characters."""

    tool: str = Field(min_length=1)


HostRules = list[Annotated[HostRule, BeforeValidator(_as_host)]]
CommandRules = list[Annotated[CommandRule, BeforeValidator(_as_command)]]
ToolRules = list[Annotated[NamedTool, BeforeValidator(_as_tool)]]


class Egress(_Strict):
    """Where traffic may go."""

    allow: HostRules = []
    ask: HostRules = []
    deny: HostRules = []
    default: Literal["deny", "ask"] = "deny"
    private: bool = False


class Exec(_Strict):
    """What commands may say. Advice: the kernel is the wall."""

    allow: CommandRules = []
    ask: CommandRules = []
    deny: CommandRules = []


class Tools(_Strict):
    """Which tools an agent is offered, and how often it may call them."""

    rate: str | None = None
    """`60/minute`: calls in any such time, of each sandbox."""
    allow: ToolRules = []
    ask: ToolRules = []
    deny: ToolRules = []


class Files(_Strict):
    """Host paths beyond the built-in ones; absolute, or below `~`."""

    read_only: list[str] | None = None
    hidden: list[str] = []
    writable: list[str] = []
    protected: list[str] = []


class Limits(_Strict):
    """Bounds; sizes as a number of bytes or with a unit (`512 MiB`), times in seconds."""

    exec_seconds: PositiveFloat | None = None
    sandbox_seconds: PositiveFloat | None = None
    memory: PositiveInt | str | None = None
    disk: PositiveInt | str | None = None
    tmp: PositiveInt | str | None = None
    output: PositiveInt | str | None = None
    processes: PositiveInt | None = None
    open_files: PositiveInt | None = None
    cpus: PositiveFloat | None = None


class Source(_Strict):
    """Where the host finds a secret."""

    env: str | None = None
    file: str | None = None
    command: list[str] | None = None
    keyring: str | None = None


class Inject(_Strict):
    """How a secret goes into a request."""

    header: str | None = None
    query: str | None = None
    basic: str | None = None
    """The user's name."""
    sigv4: str | None = None
    """The service and the region: `s3 eu-central-1`."""
    value: str = "Bearer {secret}"


class Secret(_Strict):
    """A credential and the hosts it is for."""

    source: Source
    hosts: list[str] = Field(min_length=1)
    inject: Inject = Inject()
    variable: str | None = None


class Environment(_Strict):
    """Variables of every process in the guest."""

    set: dict[str, str] = {}


class PolicyDocument(_Strict):
    """One file."""

    open: list[_Section] = []
    """Sections that files below this one may widen."""
    files: Files | None = None
    egress: Egress | None = None
    exec: Exec | None = None
    tools: Tools | None = None
    limits: Limits | None = None
    secrets: dict[str, Secret] = {}
    environment: Environment | None = None
