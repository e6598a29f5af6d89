"""A policy's rules about commands by the programs that they name, so that a decision does not look at all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

from gloveport.model import ExecRule, Policy, Verdict
from gloveport.policy.commands.shell_grammar import SimpleCommand

__all__ = ["ExecIndex"]

_REMEMBERED = 64
"""Sets of programs that a policy names, for which its rules need not be picked out again."""
_ANY_MORE = "**"
_PATTERN = re.compile(r"[*?\[]")


class ExecIndex:
    """Takes out of a policy what speaks of some commands. Made once for a policy, which never changes."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._layers = [_Rules(layer.exec) if layer.exec else None for layer in policy.layers]
        self._named = frozenset(name for rules in self._layers if rules is not None for name in rules.by_program)
        self._about = lru_cache(_REMEMBERED)(self._of)

    def about(self, commands: Iterable[SimpleCommand]) -> Policy:
        """The policy without most rules that cover none of `commands`: of these it says what the whole one says.

        All rules stay where the program of a command is not known.
        """
        programs: set[str] = set()
        for command in commands:
            if not command.words:
                continue
            program = command.words[0]
            if not program.is_known or program.is_many:
                return self._policy
            programs.update((program.text, program.text.rpartition("/")[2]))
        return self._about(self._named & programs)

    def _of(self, programs: frozenset[str]) -> Policy:
        layers = [
            layer if rules is None else replace(layer, exec=rules.about(programs))
            for layer, rules in zip(self._policy.layers, self._layers, strict=True)
        ]
        return replace(self._policy, layers=tuple(layers))


class _Rules:
    """Those of one layer, which has some, each where the programs that it names look for it."""

    def __init__(self, rules: tuple[ExecRule, ...]) -> None:
        self._rules = rules
        self.by_program: dict[str, list[int]] = {}
        self._always = set(_kind(rules))
        for number, rule in enumerate(rules):
            program = rule.command[0] if rule.command else _ANY_MORE
            if _PATTERN.search(program):
                self._always.add(number)
            else:
                self.by_program.setdefault(program, []).append(number)

    def about(self, programs: Iterable[str]) -> tuple[ExecRule, ...]:
        """In the order of the policy."""
        numbers = set(self._always)
        for program in programs:
            numbers.update(self.by_program.get(program, ()))
        return tuple(self._rules[number] for number in sorted(numbers))


def _kind(rules: tuple[ExecRule, ...]) -> Iterator[int]:
    """The rules by which a layer is what it is, whatever they cover: one at all, and one that makes it a list."""
    yield 0
    yield from [number for number, rule in enumerate(rules) if rule.verdict is Verdict.ALLOW][:1]
