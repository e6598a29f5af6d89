"""Whether traffic may go to a host: pure functions over a policy's layers, the same for every protocol."""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from gloveport.model import Decision, EgressRule, Grant, Policy, PolicyLayer, Verdict
from gloveport.policy.egress.hosts import (
    Address,
    Host,
    canonical_host,
    forbidden_reason,
    parse_network,
    split_port,
)

__all__ = [
    "EgressRequest",
    "decide_addresses",
    "decide_egress",
    "has_proxy",
    "has_way_out",
    "is_private",
    "must_inspect",
    "names_host",
    "parse_request",
    "rule_matches",
    "widen",
]

_HTTPS, _HTTP = 443, 80
_STRICTNESS = {Verdict.ALLOW: 0, Verdict.ASK: 1, Verdict.DENY: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRequest:
    """A connection, or one HTTP request where the proxy sees it."""

    host: Host
    port: int
    method: str | None = None
    """`None` where the proxy sees no request: a tunnel."""
    path: str | None = None


def parse_request(text: str) -> EgressRequest:
    """What a person writes for a request: `host`, `host:port`, a URL, or `GET https://host/path`.

    Raises `InvalidRequest`. A URL without a method is a connection: what a tunnel hides of it plays no part.
    """
    method, space, rest = text.partition(" ")
    url = urlsplit(rest if space else text)
    if url.scheme not in ("http", "https") or not url.netloc:
        host, port = split_port(text)
        return EgressRequest(host=canonical_host(host), port=port or _HTTPS)
    host, port = split_port(url.netloc)
    return EgressRequest(
        host=canonical_host(host),
        port=port or (_HTTPS if url.scheme == "https" else _HTTP),
        method=method if space else None,
        path=(url.path or "/") if space else None,
    )


def has_way_out(policy: Policy) -> bool:
    """Whether any rule lets anything out, if only after asking."""
    rules = [rule for layer in policy.layers for rule in layer.egress or ()]
    asking = any(layer.egress_default is Verdict.ASK for layer in policy.layers)
    return asking or any(rule.verdict is not Verdict.DENY for rule in rules)


def has_proxy(policy: Policy) -> bool:
    """Whether there is a proxy: always where a rule is, since one that denies has a reason to tell and to record.

    Where no rule says anything of egress there is none, and nothing to attack.
    """
    return has_way_out(policy) or any(layer.egress for layer in policy.layers)


def decide_egress(policy: Policy, request: EgressRequest) -> Decision:
    """What the policy says of a destination before its name is resolved: a refused name never is.

    Within a layer the strictest rule that matches wins. A lower layer can only tighten what a higher one says, and
    adds hosts only where every layer above leaves egress open. What no rule names is refused, or asked about where
    the policy says so.
    """
    found: Decision | None = None
    shut_by: PolicyLayer | None = None
    for layer in policy.layers:
        if layer.egress is None:
            continue
        rule = _strictest(layer.egress, request)
        if rule is not None and _counts(rule.verdict, found, shut_by):
            found = _decision(rule)
        if found is None and shut_by is None and "egress" not in layer.open:
            shut_by = layer
    return found or _unnamed(policy, request, shut_by)


def _counts(verdict: Verdict, found: Decision | None, shut_by: PolicyLayer | None) -> bool:
    """Whether what a layer says changes what the layers above it said."""
    if found is None:
        return shut_by is None or verdict is Verdict.DENY
    return _STRICTNESS[verdict] > _STRICTNESS[found.verdict]


def widen(decision: Decision, grant: Grant, request: EgressRequest) -> Decision:
    """What a grant makes of a decision: it allows what the policy asks about, and never what the policy denies."""
    if decision.verdict is not Verdict.ASK or (grant.host, grant.port) != (request.host.name, request.port):
        return decision
    return Decision(verdict=Verdict.ALLOW, rule=decision.rule, reason=f"{grant.granted_by} allowed it ({grant.scope})")


def decide_addresses(
    policy: Policy, request: EgressRequest, addresses: Sequence[Address], own: Collection[Address] = ()
) -> Decision:
    """What the policy says of the addresses that an allowed name was resolved to: one bad address refuses all."""
    rule = _allowing(policy, request)
    for address in addresses:
        there = replace(request, host=_as_host(address))
        denied = _strictest(_networks(policy, Verdict.DENY), there)
        if denied is not None:
            return _decision(denied, f"{request.host.name} leads to {address}")
        if request.host.address is None and request.method is None and must_inspect(policy, there.host, there.port):
            return Decision(
                verdict=Verdict.DENY,
                rule="built-in: methods and paths",
                reason=f"{request.host.name} leads to {address}, where a rule speaks of methods or paths, which only a "
                "rule for the name itself can judge",
            )
        reason = forbidden_reason(address, own)
        if reason is not None and not (rule is not None and rule.private) and not _named(policy, there):
            return Decision(
                verdict=Verdict.DENY,
                rule="built-in: private addresses",
                reason=f"{request.host.name} leads to {address}, {reason}",
            )
    if not addresses:
        return Decision(verdict=Verdict.DENY, rule="built-in: names", reason=f"{request.host.name} leads nowhere")
    return _decision(rule) if rule is not None else Decision(verdict=Verdict.ALLOW, rule="grant")


def is_private(policy: Policy, request: EgressRequest, own: Collection[Address] = ()) -> bool:
    """Whether a destination is a private one: by its address, or because a rule that does not deny says so.

    A matter of host and port alone, so that all requests on one connection go the same way.
    """
    if request.host.address is not None and forbidden_reason(request.host.address, own) is not None:
        return True
    rules = [rule for layer in policy.layers for rule in layer.egress or () if rule.verdict is not Verdict.DENY]
    return any(
        rule.private and rule.port in (None, request.port) and names_host(rule.host, request.host) for rule in rules
    )


def must_inspect(policy: Policy, host: Host, port: int) -> bool:
    """Whether TLS to this destination has to be terminated, because rules speak of its methods or paths."""
    rules = [rule for layer in policy.layers for rule in layer.egress or () if rule.methods or rule.paths]
    return any(rule.port in (None, port) and names_host(rule.host, host) for rule in rules)


def names_host(pattern: str, host: Host) -> bool:
    """Whether a rule's host pattern covers `host`. `*.name` covers every name below `name`, and not itself."""
    if pattern == "*":
        return True
    if host.address is not None:
        if pattern == host.name:
            return True
        network = parse_network(pattern)
        return network is not None and host.address.version == network.version and host.address in network
    if pattern.startswith("*."):
        return host.name.endswith(pattern[1:])
    return host.name == pattern


def _strictest(rules: Iterable[EgressRule], request: EgressRequest) -> EgressRule | None:
    matching = [rule for rule in rules if rule_matches(rule, request)]
    return max(matching, key=lambda rule: _STRICTNESS[rule.verdict], default=None)


def rule_matches(rule: EgressRule, request: EgressRequest) -> bool:
    """Whether one rule speaks of the request."""
    if rule.port is not None and rule.port != request.port:
        return False
    if not names_host(rule.host, request.host):
        return False
    if request.method is None or request.path is None:
        # A tunnel hides what a narrower rule judges: it counts where it allows, never where it denies.
        return rule.verdict is not Verdict.DENY or not (rule.methods or rule.paths)
    return _covers(rule.methods, request.method) and _covers_path(rule.paths, request.path)


def _covers(methods: tuple[str, ...], method: str) -> bool:
    return not methods or method in methods


def _covers_path(patterns: tuple[str, ...], path: str) -> bool:
    if not patterns:
        return True
    plain = _plain_path(path)
    return any(fnmatch.fnmatchcase(plain, pattern) for pattern in patterns)


def _plain_path(path: str) -> str:
    """As a server reads it: decoded once, without `.`, `..` and empty parts."""
    decoded = unquote(path.partition("?")[0])
    plain = posixpath.normpath("/" + decoded.lstrip("/"))
    return plain + "/" if decoded.endswith("/") and plain != "/" else plain


def _decision(rule: EgressRule, reason: str = "") -> Decision:
    return Decision(verdict=rule.verdict, rule=str(rule), reason=rule.reason or reason)


def _unnamed(policy: Policy, request: EgressRequest, shut_by: PolicyLayer | None) -> Decision:
    speaking = [layer for layer in policy.layers if layer.egress is not None]
    asking = bool(speaking) and all(layer.egress_default is Verdict.ASK for layer in speaking)
    where = f" ({shut_by.origin} allows no others)" if shut_by is not None else ""
    return Decision(
        verdict=Verdict.ASK if asking else Verdict.DENY,
        rule="egress.default",
        reason=f"no rule names {request.host.name}:{request.port}{where}",
    )


def _allowing(policy: Policy, request: EgressRequest) -> EgressRule | None:
    for layer in policy.layers:
        rule = _strictest(layer.egress or (), request)
        if rule is not None and rule.verdict is not Verdict.DENY:
            return rule
    return None


def _networks(policy: Policy, verdict: Verdict) -> list[EgressRule]:
    rules = [rule for layer in policy.layers for rule in layer.egress or ()]
    return [rule for rule in rules if rule.verdict is verdict and parse_network(rule.host) is not None]


def _named(policy: Policy, request: EgressRequest) -> bool:
    """Whether a rule allows this very address, or a network that holds it, by name."""
    return _strictest(_networks(policy, Verdict.ALLOW), request) is not None


def _as_host(address: Address) -> Host:
    return Host(str(address), address)
