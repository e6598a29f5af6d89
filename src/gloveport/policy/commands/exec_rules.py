"""What a policy's rules about commands say of an exec. Advice, however strict: the kernel is the wall."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from gloveport.model import Decision, ExecRequest, ExecRule, Policy, PolicyLayer, Verdict
from gloveport.policy.commands.index import ExecIndex
from gloveport.policy.commands.lists import shut_by
from gloveport.policy.commands.shell_grammar import Finding, ShellReading, SimpleCommand, read_argv
from gloveport.policy.commands.shell_words import Word
from gloveport.policy.files.guest_places import RIPGREP, SYSTEM_PROGRAMS

__all__ = ["HARMLESS_BUILTINS", "LONGEST_ASKED", "decide_reading", "decide_rules", "has_exec_rules", "spell"]

HARMLESS_BUILTINS = frozenset(
    ("[", ":", "break", "cd", "continue", "echo", "exec", "exit", "false", "printf", "pwd", "return", "set", "shift",
     "test", "true", "wait")
)  # fmt: skip
"""Functions of the shell that start nothing and change nothing outside it: an allow-list need not name them."""

LONGEST_ASKED = 4096
"""Characters of commands in one question: nobody allows what is too long to be read."""

_ALLOWED = Decision(verdict=Verdict.ALLOW, rule="built-in: the sandbox is the wall")
_OWN = Decision(verdict=Verdict.ALLOW, rule="built-in: the platform's own question")
_OWN_GIT = ("git", "check-ignore", "-z", "--stdin")
_RIPGREP_RUNS = ("--pre", "--hostname-bin")
_UNREADABLE = "exec: what cannot be read"
_REDEFINED = "exec: names that mean something else"
_UNLISTED = "exec: the allow-list"
_ANY_MORE = "**"


def has_exec_rules(policy: Policy) -> bool:
    """Whether any layer says anything of commands: otherwise none is read."""
    return any(layer.exec for layer in policy.layers)


def decide_rules(policy: Policy, request: ExecRequest, index: ExecIndex | None = None) -> Decision:
    """What the rules say of an exec, with everything that it would run, as far as that can be known.

    A rule that denies, or asks, counts wherever it may cover a command. Where a layer has a rule that allows, its rules
    are a list: every simple command has to be on it, if only as one that is asked about. A lower layer can only
    tighten, and add to a list that is open. `index`, of this very policy, makes no difference but in time.
    """
    if not has_exec_rules(policy):
        return _ALLOWED
    if _is_own(request):
        return _OWN
    reading = read_argv(request.argv)
    return decide_reading(policy if index is None else index.about(reading.commands), reading)


def decide_reading(policy: Policy, reading: ShellReading) -> Decision:
    """As `decide_rules`, for commands that are read already."""
    layers = [layer for layer in policy.layers if layer.exec]
    return next(_objections(layers, reading), None) or _ask(layers, reading) or _ALLOWED


def _objections(layers: Sequence[PolicyLayer], reading: ShellReading) -> Iterator[Decision]:
    """What a rule denies, what nobody can tell, what is on no list."""
    for command in reading.commands:
        for rule in _covering(layers, command, Verdict.DENY):
            yield _deny(str(rule), f"{rule.reason or f'{str(command)!r} is not allowed'}{_place(command)}")
    if not layers:
        return
    for found in reading.hidden:
        yield _deny(_UNREADABLE, f"{found.reason}{_place(found)}")
    lists = [layer for layer in layers if _is_list(layer)]
    if not lists:
        return
    for found in reading.redefined:
        yield _deny(_REDEFINED, f"{found.reason}{_place(found)}")
    for command in reading.commands:
        if command.is_mere or _is_harmless(command):
            continue
        shut = shut_by(lists, "exec", [number for number, layer in enumerate(lists) if _lists(layer, command)])
        if shut is not None:
            yield _deny(f"{_UNLISTED}, {shut.origin}", f"no rule allows {str(command)!r}{_place(command)}")


def _ask(layers: Sequence[PolicyLayer], reading: ShellReading) -> Decision | None:
    """One question about all commands that any rule asks about."""
    found = [(rule, command) for command in reading.commands for rule in _covering(layers, command, Verdict.ASK)]
    if not found:
        return None
    rules, reasons, spelt = (
        "; ".join(dict.fromkeys(part for part in parts if part))
        for parts in zip(*((str(rule), rule.reason, spell(command)) for rule, command in found), strict=True)
    )
    if len(spelt) > LONGEST_ASKED:
        return _deny(rules, f"{len(spelt)} characters are more than a person is asked to read")
    return Decision(verdict=Verdict.ASK, rule=rules, reason=reasons, subject=spelt)


def _covering(layers: Sequence[PolicyLayer], command: SimpleCommand, verdict: Verdict) -> Iterator[ExecRule]:
    rules = (rule for layer in layers for rule in layer.exec or () if rule.verdict is verdict)
    return (rule for rule in rules if _may_cover(rule.command, command.words))


def spell(command: SimpleCommand) -> str:
    """The words of a command for a person to judge: no two that differ are spelt alike, every character is seen."""
    return " ".join(_quote(word.text) if word.is_known else _visible(word.text) for word in command.words)


def _quote(text: str) -> str:
    return shlex.quote(text) if text.isprintable() else f"$'{_visible(text)}'"


def _visible(text: str) -> str:
    """What is not printed is spelt out; a backslash is two where anything is."""
    return text if text.isprintable() else text.encode("unicode_escape").decode().replace("'", "\\'")


def _is_list(layer: PolicyLayer) -> bool:
    return any(rule.verdict is Verdict.ALLOW for rule in layer.exec or ())


def _lists(layer: PolicyLayer, command: SimpleCommand) -> bool:
    return any(
        _surely_covers(rule.command, command.words) for rule in layer.exec or () if rule.verdict is not Verdict.DENY
    )


def _surely_covers(pattern: Sequence[str], words: Sequence[Word]) -> bool:
    """Whether a rule covers the command whatever its unknown words become."""
    fixed, is_open = _split(pattern)
    if not fixed:
        return is_open
    if not words[0].is_known or not _names_program(fixed, words[0].text):
        return False
    rest = list(words[1:])
    for part in fixed[1:]:
        if not rest or rest[0].is_many:
            return False
        word = rest.pop(0)
        if not (fnmatchcase(word.text, part) if word.is_known else part == "*"):
            return False
    return is_open or not rest


def _names_program(fixed: Sequence[str], program: str) -> bool:
    """A rule with a plain name speaks of the system's program of that name, not of any file that is called so."""
    directory, slash, name = program.rpartition("/")
    if "/" in fixed[0] or not slash:
        return fnmatchcase(program, fixed[0])
    return directory in SYSTEM_PROGRAMS and fnmatchcase(name, fixed[0])


def _may_cover(pattern: Sequence[str], words: Sequence[Word]) -> bool:
    """Whether some outcome of the unknown words is what the rule names."""
    fixed, is_open = _split(pattern)
    rest = list(words)
    for number, part in enumerate(fixed):
        if not rest:
            return False
        word = rest.pop(0)
        if word.is_many:
            return True
        if word.is_known and not _matches(part, word.text, is_program=number == 0):
            return False
    return is_open or not rest or all(word.is_many for word in rest)


def _matches(part: str, text: str, *, is_program: bool) -> bool:
    return fnmatchcase(text.rpartition("/")[2] if is_program and "/" not in part else text, part)


def _split(pattern: Sequence[str]) -> tuple[Sequence[str], bool]:
    """The fixed words, and whether any more may follow."""
    return (pattern[:-1], True) if pattern and pattern[-1] == _ANY_MORE else (pattern, False)


def _is_harmless(command: SimpleCommand) -> bool:
    words = command.words
    if command.writes or not words[0].is_known or words[0].text not in HARMLESS_BUILTINS:
        return False
    match words[0].text:
        case "exec":
            return len(words) == 1
        case "printf":
            # `-v` names a variable, whose subscript is evaluated.
            return len(words) < 2 or (words[1].is_known and not words[1].text.startswith("-v"))
        case "set":
            return all(word.is_known and word.text in _SETTINGS for word in words[1:])
        case "[" | "test":
            return not any(word.holds_secret_code or word.is_many for word in words)
    return True


_SETTINGS = frozenset(
    ("-e", "-u", "-x", "-eu", "-ex", "-ux", "-eux", "-o", "-eo", "-euo", "-exo", "-euxo", "pipefail", "+e", "+u", "+x")
)


def _is_own(request: ExecRequest) -> bool:
    """What the platform itself asks in a guest: which paths Git ignores, and its search, which writes nothing."""
    argv = request.argv
    return argv == _OWN_GIT or (argv[0] == RIPGREP and not any(word.startswith(_RIPGREP_RUNS) for word in argv))


def _deny(rule: str, reason: str) -> Decision:
    return Decision(verdict=Verdict.DENY, rule=rule, reason=reason)


def _place(found: SimpleCommand | Finding) -> str:
    """Where in the text, when there is a text."""
    return f" (at {found.position}, in {' in '.join(reversed(found.within))})" if found.within else ""
