"""Groups of hosts: `@pip`, `@npm`, `@apt` and `@git` as this machine's own tools are set up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urlsplit

from gloveport.errors import InvalidRequest
from gloveport.policy.egress.hosts import canonical_pattern
from gloveport.policy.reading.asking import Machine, default_index, default_registry, git_settings, this_machine
from gloveport.policy.reading.carrying import carried, carried_rewrites
from gloveport.policy.reading.layers import Groups
from gloveport.policy.reading.package_sources import Sources, apt_sources, npm_sources, pip_sources, uv_sources

__all__ = ["GROUP_NAMES", "Group", "find_groups", "survey_groups"]

GROUP_NAMES = ("@pip", "@npm", "@apt", "@git")

_PORTS = MappingProxyType({"https": 443, "http": 80, "git": 9418})
_REWRITES = r"^url\..*\.insteadof$"
_SIGNED_IN = r"^credential\..*\.(helper|username)$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One group, as it is on this machine."""

    name: str
    hosts: tuple[str, ...] = ()
    """`host:port`, in canonical form and without credentials. Empty: the group names nothing here."""
    variables: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What tells the group's tools in a guest to use the same places: addresses without credentials."""
    notes: tuple[str, ...] = ()
    """What was left out, and why; fit to be printed."""


def find_groups(
    machine: Machine | None = None, *, names: Collection[str] = GROUP_NAMES, repositories: Sequence[str] = ()
) -> Groups:
    """The hosts of each group in `names`, as `compile_layer` takes them; on this machine where none is given.

    A group that names nothing here is there and empty: rules about it cover nothing. `repositories` are URLs that a
    person named, and count for `@git`. Takes as long as pip and npm need to say their default, seconds at most, and
    never raises for what it finds.
    """
    found = survey_groups(machine or this_machine(), names=names, repositories=repositories)
    return MappingProxyType({group.name: group.hosts for group in found})


def survey_groups(
    machine: Machine, *, names: Collection[str] = GROUP_NAMES, repositories: Sequence[str] = ()
) -> tuple[Group, ...]:
    """As `find_groups`, with what was left out."""
    finders: dict[str, Callable[[], Group]] = {
        "@pip": lambda: _pip(machine),
        "@npm": lambda: _npm(machine),
        "@apt": lambda: _apt(machine),
        "@git": lambda: _git(machine, repositories),
    }
    return tuple(finders[name]() for name in GROUP_NAMES if name in names)


def _pip(machine: Machine) -> Group:
    pip, uv = pip_sources(machine), uv_sources(machine)
    variables = {**carried(pip), **carried(uv)}
    urls, notes = [*pip.urls, *uv.urls], [*pip.notes, *uv.notes]
    default = default_index(machine)
    is_default_named = _hosts(default[:1], []).keys() & _hosts(urls, []).keys()
    if is_default_named or not (pip.is_set or uv.is_set):
        urls += default  # its files are on a host of their own
    if not urls and not default:
        notes.append("no index is set, and no pip is here to say its own")
    return _group("@pip", urls, notes, variables)


def _npm(machine: Machine) -> Group:
    found = npm_sources(machine)
    default = () if found.is_set else default_registry(machine)
    if not found.is_set and not default:
        found.notes.append("no registry is set, and no npm is here to say its own")
    variables = carried(found)
    return _group("@npm", [*found.urls, *default], found.notes, variables)


def _apt(machine: Machine) -> Group:
    found: Sources = apt_sources(machine)
    if not found.urls and not found.notes:
        found.notes.append("no sources of apt are here")
    return _group("@apt", found.urls, found.notes)


def _git(machine: Machine, repositories: Sequence[str]) -> Group:
    """What URLs are rewritten to, and where the person signs in: settings of git that no repository writes."""
    rewrites = [(_named(name, "url."), prefix) for name, prefix in git_settings(machine, _REWRITES)]
    signed_in = [_named(name, "credential.") for name, _ in git_settings(machine, _SIGNED_IN)]
    notes: list[str] = []
    variables = carried_rewrites(rewrites, notes)
    return _group("@git", [*repositories, *(base for base, _ in rewrites), *signed_in], notes, variables)


def _named(setting: str, first: str) -> str:
    """The URL in the name of a setting."""
    return setting.removeprefix(first).rpartition(".")[0]


def _group(name: str, urls: Iterable[str], notes: Sequence[str], variables: Mapping[str, str] | None = None) -> Group:
    left = list(notes)
    hosts = tuple(_hosts(urls, left))
    return Group(
        name=name, hosts=hosts, variables=MappingProxyType(dict(variables or {})), notes=tuple(dict.fromkeys(left))
    )


def _hosts(urls: Iterable[str], notes: list[str]) -> Mapping[str, None]:
    """`host:port` of each URL. No note ever holds a URL: it may hold a password."""
    found: dict[str, None] = {}
    for url in urls:
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
        except ValueError:
            scheme, host, port = "", "", None
        if scheme in ("file", "copy", "cdrom") or url.startswith("/"):
            notes.append("left out: a directory of this machine, which no sandbox reaches by network")
            continue
        if scheme not in _PORTS:
            notes.append("left out: a place that is no http or https URL")
            continue
        try:
            name = canonical_pattern(host)
        except InvalidRequest:
            notes.append("left out: a URL without a host that can be understood")
            continue
        found[f"[{name}]:{port or _PORTS[scheme]}" if ":" in name else f"{name}:{port or _PORTS[scheme]}"] = None
    return found
