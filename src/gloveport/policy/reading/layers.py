"""From policy files to one policy: rules in canonical form, examples checked, layers in their order."""

from __future__ import annotations

import ipaddress
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from types import MappingProxyType
from typing import Any

from gloveport.errors import InvalidRequest
from gloveport.model import (
    EgressRule,
    ExecRule,
    FileRules,
    Injection,
    Limits,
    Origin,
    Policy,
    PolicyLayer,
    SecretBinding,
    SecretSource,
    ToolRate,
    ToolRule,
    Verdict,
    parse_size,
)
from gloveport.policy.commands.patterns import matches_command
from gloveport.policy.commands.rate_limit import parse_rate
from gloveport.policy.egress.hosts import canonical_host, canonical_pattern, split_port
from gloveport.policy.egress.rules import parse_request, rule_matches
from gloveport.policy.files.protected import check_pattern
from gloveport.policy.reading.document import Document, Mistake, refuse
from gloveport.policy.reading.lines import Place
from gloveport.policy.reading.schema import HostRule, Rule, Secret

__all__ = ["Defaults", "Groups", "compile_layer", "merge_layers"]

Groups = Mapping[str, Sequence[str]]
"""Hosts (with or without port) by the name of their group, `@` included."""
Defaults = Mapping[str, Mapping[str, str]]
"""Variables by the name of the group that they let a guest's tools find."""

_VERDICTS = (Verdict.ALLOW, Verdict.ASK, Verdict.DENY)
_SIZES = {"memory": "memory_bytes", "disk": "disk_bytes", "tmp": "tmp_bytes", "output": "output_bytes"}


def compile_layer(
    document: Document, name: str, *, groups: Groups | None = None, defaults: Defaults | None = None
) -> PolicyLayer:
    """What one file says, as a layer called `name`. Raises `InvalidRequest` that lists every mistake with its line."""
    reader = _Reader(document, name, groups or {}, defaults or {})
    layer = reader.layer()
    if reader.mistakes:
        refuse(document.file, reader.mistakes)
    return layer


def merge_layers(layers: Sequence[PolicyLayer], base: Limits | None = None) -> Policy:
    """One policy of layers from the highest to the lowest.

    A limit that a layer names holds for the layers below it too: they can only lower it, unless it is open.
    """
    limits = base or Limits()
    bounded: set[str] = set()
    for layer in layers:
        for name, value in layer.limits.items():
            before = getattr(limits, name)
            tightened = value if name not in bounded or before is None else min(before, value)
            changed: dict[str, Any] = {name: tightened}
            limits = replace(limits, **changed)
        if "limits" not in layer.open:
            bounded |= set(layer.limits)
    return Policy(layers=tuple(layers), limits=limits)


class _Reader:
    """Turns one document into a layer and collects what is wrong with it."""

    def __init__(self, document: Document, name: str, groups: Groups, defaults: Defaults) -> None:
        self.mistakes: list[Mistake] = []
        self._document = document
        self._name = name
        self._groups = groups
        self._group_defaults = defaults

    def layer(self) -> PolicyLayer:
        body = self._document.body
        environment = body.environment
        return PolicyLayer(
            origin=Origin(layer=self._name, file=self._document.file),
            egress=tuple(self._egress()) if body.egress is not None else None,
            egress_default=Verdict(body.egress.default) if body.egress is not None else Verdict.DENY,
            exec=tuple(self._exec()) if body.exec is not None else None,
            tools=tuple(self._tools()) if body.tools is not None else None,
            tool_rate=self._tool_rate(body.tools.rate) if body.tools is not None else None,
            files=self._files() if body.files is not None else None,
            limits=MappingProxyType(dict(self._limits())),
            secrets=tuple(binding for name, secret in body.secrets.items() for binding in self._secret(name, secret)),
            environment=MappingProxyType(dict(environment.set) if environment is not None else {}),
            defaults=MappingProxyType(dict(self._defaults())),
            open=frozenset(body.open),
        )

    def _egress(self) -> Iterator[EgressRule]:
        section = self._document.body.egress
        for verdict in _VERDICTS:
            for number, written in enumerate(getattr(section, verdict)):
                place = ("egress", str(verdict), number)
                rules = list(self._host_rules(written, verdict, place, private=section is not None and section.private))
                yield from rules
                self._check_examples(written, place, partial(_reaches, rules))

    def _host_rules(
        self, written: HostRule, verdict: Verdict, place: tuple[str | int, ...], *, private: bool
    ) -> Iterator[EgressRule]:
        hosts: Sequence[str] = (written.host,)
        if written.host.startswith("@"):
            if written.host not in self._groups:
                known = ", ".join(sorted(self._groups)) or "none on this machine"
                self._mistake(place, f"no group {written.host!r}; known: {known}")
                return
            hosts = self._groups[written.host]
        for host in hosts:
            try:
                name, port = _destination(host)
            except InvalidRequest as error:
                self._mistake(place, error.message)
                continue
            yield EgressRule(
                verdict=verdict,
                host=name,
                port=port,
                methods=tuple(written.methods),
                paths=tuple(written.paths),
                private=written.private or private,
                reason=written.reason,
                origin=self._origin(place),
            )

    def _defaults(self) -> Iterator[tuple[str, str]]:
        """What the groups bring that this file lets out, if only after asking."""
        section = self._document.body.egress
        for rule in (*section.allow, *section.ask) if section is not None else ():
            yield from self._group_defaults.get(rule.host, {}).items()

    def _exec(self) -> Iterator[ExecRule]:
        section = self._document.body.exec
        for verdict in _VERDICTS:
            for number, written in enumerate(getattr(section, verdict)):
                place = ("exec", str(verdict), number)
                try:
                    words = tuple(shlex.split(written.command))
                except ValueError as error:
                    self._mistake(place, f"not words of a shell: {error}")
                    continue
                rule = ExecRule(verdict=verdict, command=words, reason=written.reason, origin=self._origin(place))
                yield rule
                self._check_examples(written, place, partial(matches_command, words))

    def _tools(self) -> Iterator[ToolRule]:
        section = self._document.body.tools
        for verdict in _VERDICTS:
            for number, written in enumerate(getattr(section, verdict)):
                place = ("tools", str(verdict), number)
                rule = ToolRule(verdict=verdict, tool=written.tool, reason=written.reason, origin=self._origin(place))
                yield rule
                self._check_examples(written, place, partial(_names_tool, written.tool))

    def _tool_rate(self, text: str | None) -> ToolRate | None:
        if text is None:
            return None
        place = ("tools", "rate")
        try:
            calls, seconds = parse_rate(text)
        except InvalidRequest as error:
            self._mistake(place, f"{error.message}; {error.hint}")
            return None
        return ToolRate(calls=calls, seconds=seconds, origin=self._origin(place))

    def _files(self) -> FileRules:
        """Paths of the host in full: `~` is the home of who loads the policy."""
        found: dict[str, tuple[str, ...]] = {}
        for key, texts in self._document.body.files or ():
            if texts is None:
                continue
            whole = []
            for number, text in enumerate(texts):
                path = text if key == "protected" else os.path.expanduser(text)
                if key != "protected" and (not path.startswith("/") or ".." in path.split("/") or "\0" in path):
                    self._mistake(("files", key, number), f"not a whole path: {text!r}")
                elif key == "protected":
                    self._check_pattern(("files", key, number), text)
                whole.append(path)
            found[key] = tuple(whole)
        return FileRules(**found)

    def _check_pattern(self, place: Place, text: str) -> None:
        try:
            check_pattern(text)
        except InvalidRequest as error:
            self._mistake(place, f"{error.message}; {error.hint}")

    def _limits(self) -> Iterator[tuple[str, float]]:
        section = self._document.body.limits
        if section is None:
            return
        for name, value in section:
            if value is None:
                continue
            try:
                yield _SIZES.get(name, name), parse_size(value) if isinstance(value, str) else value
            except InvalidRequest as error:
                self._mistake(("limits", name), error.message)

    def _secret(self, name: str, written: Secret) -> Iterator[SecretBinding]:
        place = ("secrets", name)
        sources: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in written.source if v is not None
        }
        if len(sources) != 1:
            self._mistake((*place, "source"), "name exactly one source: env, file, command or keyring")
            return
        injections = {key: v for key, v in written.inject if v is not None and key != "value"}
        if len(injections) > 1:
            self._mistake((*place, "inject"), "name one of header, query, basic and sigv4")
            return
        hosts = []
        for number, text in enumerate(written.hosts):
            try:
                hosts.append(canonical_host(text).name)
            except InvalidRequest as error:
                self._mistake((*place, "hosts", number), f"{error.message} (a secret is bound to plain names)")
        kind, target = next(iter(injections.items()), ("header", "Authorization"))
        yield SecretBinding(
            name=name,
            source=SecretSource(**sources),
            hosts=tuple(hosts),
            injection=Injection(kind=kind, name=target, value=written.inject.value),
            variable=written.variable,
            origin=self._origin(place),
        )

    def _check_examples(self, written: Rule, place: Place, matches: Callable[[str], bool]) -> None:
        for key, examples, expected in (("match", written.match, True), ("not_match", written.not_match, False)):
            for number, text in enumerate(examples):
                try:
                    found = matches(text)
                except InvalidRequest as error:
                    self._mistake((*place, key, number), error.message)
                    continue
                if found is not expected:
                    says = "is not covered by its rule" if expected else "is covered by its rule"
                    self._mistake((*place, key, number), f"the example {text!r} {says}")

    def _mistake(self, place: Place, what: str) -> None:
        self.mistakes.append(Mistake(line=self._document.line(*place), what=what))

    def _origin(self, place: Place) -> Origin:
        return Origin(layer=self._name, file=self._document.file, line=self._document.line(*place))


def _destination(text: str) -> tuple[str, int | None]:
    """A rule's host in canonical form, and its port."""
    if text == "*":
        return text, None
    try:
        return str(ipaddress.ip_network(text)), None
    except ValueError:
        pass
    if "/" in text:
        raise InvalidRequest(f"not a network: {text!r}", hint="write it as 10.0.0.0/8, without host bits")
    host, port = split_port(text)
    return canonical_pattern(host), port


def _reaches(rules: Sequence[EgressRule], text: str) -> bool:
    """Whether any of the rules covers an example."""
    request = parse_request(text)
    return any(rule_matches(rule, request) for rule in rules)


def _names_tool(pattern: str, tool: str) -> bool:
    return fnmatchcase(tool, pattern)
