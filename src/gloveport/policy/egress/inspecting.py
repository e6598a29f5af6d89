"""Where a policy has the egress proxy look into TLS: rules on methods and paths, and hosts that have a secret."""

from __future__ import annotations

from gloveport.model import Policy, SecretBinding
from gloveport.policy.egress.hosts import Host
from gloveport.policy.egress.rules import has_way_out, must_inspect

__all__ = ["inspects", "inspects_any", "secret_bindings"]


def inspects(policy: Policy, host: Host, port: int) -> bool:
    """Whether TLS to this destination ends at the proxy. Every other tunnel stays closed to it."""
    bound = any(host.name in binding.hosts for binding in secret_bindings(policy))
    return bound or must_inspect(policy, host, port)


def inspects_any(policy: Policy) -> bool:
    """Whether there is any such destination: then the guest has to trust the proxy's certificates."""
    rules = [rule for layer in policy.layers for rule in layer.egress or ()]
    narrow = any(rule.methods or rule.paths for rule in rules)
    return has_way_out(policy) and (narrow or bool(secret_bindings(policy)))


def secret_bindings(policy: Policy) -> tuple[SecretBinding, ...]:
    """Of all layers."""
    return tuple(binding for layer in policy.layers for binding in layer.secrets)
