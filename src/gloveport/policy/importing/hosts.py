"""Network settings of other sandboxes as rules about egress."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gloveport.errors import InvalidRequest
from gloveport.policy.egress.hosts import canonical_pattern, forbidden_reason, parse_address, split_port
from gloveport.policy.importing.draft import Draft, Effect, as_object, as_texts, refuse_here
from gloveport.policy.reading.lines import Place

__all__ = ["import_hosts"]

_Places = Mapping[str, tuple[str, ...]]

_NO_SOCKETS = "no socket of the host is ever shown"
_ONE_PROXY = "traffic leaves through Gloveport's own proxy, or not at all"
_NOTES: Mapping[str, tuple[Effect, str]] = MappingProxyType(
    {
        "allowUnixSockets": (Effect.NARROWER, _NO_SOCKETS),
        "allowAllUnixSockets": (Effect.NARROWER, _NO_SOCKETS),
        "allowLocalBinding": (Effect.KEPT, "a guest has a loopback of its own, and may listen on it"),
        "allowMachLookup": (Effect.KEPT, "about macOS only"),
        "httpProxyPort": (Effect.LOST, f"{_ONE_PROXY}: what the other proxy refuses is not known here"),
        "socksProxyPort": (Effect.LOST, f"{_ONE_PROXY}: what the other proxy refuses is not known here"),
        "mitmProxy": (Effect.LOST, f"{_ONE_PROXY}: what the other proxy refuses is not known here"),
        "parentProxy": (Effect.NARROWER, "a proxy above is set for the runner, not by a policy"),
        "tlsTerminate": (Effect.NARROWER, "TLS is terminated only for rules with methods or paths, and for [secrets]"),
        "filterRequest": (Effect.LOST, "a function cannot be carried over: write methods and paths of egress"),
        "allowManagedDomainsOnly": (
            Effect.KEPT,
            "the organisation's policy file is above all others, which can only tighten it",
        ),
    }
)
_RULES = ("allowedDomains", "deniedDomains", "deniedDomainReasons", "deniedResolvedAddresses", "strictAllowlist")


def import_hosts(draft: Draft, said: Mapping[str, Any], places: _Places, *, asks: bool) -> None:
    """Add rules for what `said` names. `asks`: a host that nothing names is asked about, unless `said` is strict."""
    draft.section("egress")
    allowed = _allow(draft, as_texts(draft, said.get("allowedDomains", []), places.get("allowedDomains", ())), places)
    _deny(draft, said, places, allowed)
    if asks and said.get("strictAllowlist") is not True:
        draft.put("egress", "default", "ask")
    for key, place in places.items():
        if key in _NOTES:
            effect, reason = _NOTES[key]
            draft.note(place, effect if said[key] else Effect.KEPT, reason)
        elif key not in _RULES:
            draft.unknown(place)


def _allow(draft: Draft, texts: list[str], places: _Places) -> list[str]:
    """The hosts that became rules."""
    found = []
    for number, text in enumerate(texts):
        place: Place = (*places["allowedDomains"], number)
        objection = _objection(text)
        if objection:
            draft.note(place, Effect.NARROWER, objection, text)
        else:
            draft.add("egress", "allow", {"host": text, "reason": f"allowed in {draft.file}"}, place)
            found.append(text)
    return found


def _objection(text: str) -> str:
    """Why a host is not allowed here although the file allows it; empty for none."""
    if text == "*":
        return "every host at once: name those that are needed"
    try:
        host, _ = split_port(text)
        name = canonical_pattern(host)
    except InvalidRequest as error:
        return error.message
    if name.startswith("*.") and "." not in name[2:]:
        return "all names below a top-level domain: name those that are needed"
    address = parse_address(name)
    if address is not None and (address.is_loopback or address.is_link_local or address.is_unspecified):
        return forbidden_reason(address) or ""
    if name == "localhost" or name.endswith(".localhost"):
        return "this host's own services: a guest has a loopback of its own"
    return ""


def _deny(draft: Draft, said: Mapping[str, Any], places: _Places, allowed: list[str]) -> None:
    reasons = as_object(draft, said.get("deniedDomainReasons", {}), places.get("deniedDomainReasons", ()))
    for key in ("deniedDomains", "deniedResolvedAddresses"):
        for number, text in enumerate(as_texts(draft, said.get(key, []), places.get(key, ()))):
            place: Place = (*places[key], number)
            reason = reasons.get(text) or f"denied in {draft.file}"
            if not isinstance(reason, str):
                refuse_here(draft, places["deniedDomainReasons"], "not strings")
            for host in _denied(draft, text, place, allowed):
                draft.add("egress", "deny", {"host": host, "reason": reason}, place)


def _denied(draft: Draft, text: str, place: Place, allowed: list[str]) -> list[str]:
    """What a denied entry is in a policy. Raises `InvalidRequest`: no denial is passed over."""
    if text == "*":
        return [text]
    if text.startswith("*:"):
        # A policy has no port of every host. Whatever else is reached is refused or asked about anyway.
        port = text[2:]
        draft.note(place, Effect.KEPT, "holds for each allowed host; nothing else is let out unasked", text)
        return [f"{host}:{port}" for host in allowed if split_port(host)[1] is None]
    try:
        return [str(ipaddress.ip_network(text.strip("[]"), strict=False))]
    except ValueError:
        pass
    try:
        canonical_pattern(split_port(text)[0])
    except InvalidRequest as error:
        refuse_here(draft, place, error.message)
    return [text]
