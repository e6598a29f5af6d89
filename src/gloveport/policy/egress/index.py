"""A policy's egress rules by the hosts that they name, so that a decision does not look at all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gloveport.model import EgressRule, Policy
from gloveport.policy.egress.hosts import Address, Host, parse_network

__all__ = ["EgressIndex"]

_Network = tuple[int, int, int]
"""Version, bits of the prefix, and the prefix itself."""


class EgressIndex:
    """Takes out of a policy what speaks of some hosts. Made once for a policy, which never changes."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._layers = [_Rules(layer.egress or ()) for layer in policy.layers]

    def about(self, *hosts: Host) -> Policy:
        """The policy without the egress rules that name none of `hosts`: of these it says what the whole one says."""
        layers = [
            replace(layer, egress=rules.about(hosts)) if layer.egress else layer
            for layer, rules in zip(self._policy.layers, self._layers, strict=True)
        ]
        return replace(self._policy, layers=tuple(layers))


class _Rules:
    """Those of one layer, each where the hosts that it names look for it."""

    def __init__(self, rules: tuple[EgressRule, ...]) -> None:
        self._rules = rules
        self._by_pattern: dict[str, list[int]] = {}
        self._by_network: dict[_Network, list[int]] = {}
        for number, rule in enumerate(rules):
            self._by_pattern.setdefault(rule.host, []).append(number)
            network = parse_network(rule.host)
            if network is not None:
                place = _place(network.network_address, network.prefixlen)
                self._by_network.setdefault(place, []).append(number)
        self._has_wildcards = any(rule.host.startswith("*.") for rule in rules)
        self._lengths = sorted({(version, length) for version, length, _ in self._by_network})

    def about(self, hosts: tuple[Host, ...]) -> tuple[EgressRule, ...]:
        """In the order of the policy."""
        numbers = set(self._by_pattern.get("*", ()))
        for host in hosts:
            numbers.update(self._by_pattern.get(host.name, ()))
            if host.address is not None:
                for version, length in self._lengths:
                    if version == host.address.version:
                        numbers.update(self._by_network.get(_place(host.address, length), ()))
            elif self._has_wildcards:
                for pattern in _wildcards(host.name):
                    numbers.update(self._by_pattern.get(pattern, ()))
        return tuple(self._rules[number] for number in sorted(numbers))


def _wildcards(name: str) -> Iterator[str]:
    """Every pattern with a star that covers a name."""
    at = name.find(".")
    while at >= 0:
        yield f"*{name[at:]}"
        at = name.find(".", at + 1)


def _place(address: Address, length: int) -> _Network:
    return address.version, length, int(address) >> (address.max_prefixlen - length)
