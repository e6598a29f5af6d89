"""What the `git` tool lets through: subcommands that look, without what in them writes or runs programs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gloveport.errors import InvalidRequest, PolicyDenied
from gloveport.model import ExecRequest

__all__ = ["READING", "reading_request"]

READING: tuple[str, ...] = (
    "blame",
    "branch",
    "cat-file",
    "describe",
    "diff",
    "grep",
    "log",
    "ls-files",
    "merge-base",
    "rev-list",
    "rev-parse",
    "shortlog",
    "show",
    "status",
    "tag",
)
"""The subcommands."""

_REFUSED = (
    "--output",  # writes a file; `rev-list` and `shortlog` take it too
    "--ext-diff",
    "--textconv",
    "--open-files-in-pager",
    "--alternate-refs",  # the four run programs that the settings, or a value, name
    "--diff-merges",
    "--remerge-diff",  # the two merge, with the drivers that the settings name
    "--submodule",  # diffs in another repository, under that one's settings
)
"""Long options that no subcommand gets, however they are abbreviated."""
_REFUSED_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "branch": ("--no-list", "--no-show-current"),  # it changes without them
        "cat-file": ("--filters",),  # runs content filters
        "describe": ("--dirty", "--broken"),  # rewrite the index
        "status": ("--verbose",),  # runs text conversions, and has no option against it
        "tag": ("--no-list",),
    }
)
_REFUSED_LETTERS: Mapping[str, str] = MappingProxyType({"grep": "O", "status": "v"})
_TAKE_VALUES: Mapping[str, str] = MappingProxyType({"grep": "ABCefm", "status": "u"})
"""Letters after which the rest of a cluster of short options is a value."""

_SETTINGS = (
    "core.alternateRefsCommand=/bin/false",
    "core.fsmonitor=",
    "core.hooksPath=/dev/null",
    "diff.autoRefreshIndex=false",
    "diff.submodule=short",
    "gpg.program=/bin/false",
    "gpg.openpgp.program=/bin/false",
    "gpg.ssh.program=/bin/false",
    "gpg.x509.program=/bin/false",
    "log.diffMerges=separate",
    "log.showSignature=false",
    "status.submoduleSummary=false",
)
"""What wins over the settings of a repository and its submodules. Content filters stay: git cannot compare without."""
_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "GIT_ALLOW_PROTOCOL": "none",  # a partial clone fetches what is missing, by programs that its settings name
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
    }
)
_PATCHES = ("--no-ext-diff", "--no-textconv")
_FIRST: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "blame": ("--no-textconv",),
        "branch": ("--list",),
        "diff": _PATCHES,
        "log": _PATCHES,
        "show": _PATCHES,
        "tag": ("--list",),
    }
)
"""What comes before a subcommand's arguments."""
_CURRENT_BRANCH = ["--show-current"]


def reading_request(subcommand: str, args: str) -> ExecRequest:
    """The exec of `git SUBCOMMAND ARGS`, which changes nothing and runs no program that `args` or a setting names.

    Raises `PolicyDenied` for a subcommand or an option that could, `InvalidRequest` for an open quote.
    """
    if subcommand not in READING:
        raise _refusal(subcommand, f"one of: {', '.join(READING)}; for others use the shell tool")
    try:
        arguments = shlex.split(args)
    except ValueError as error:
        raise InvalidRequest(f"git: the arguments cannot be split: {error}", hint="close every quote") from error
    # All of them: `--` may itself be an option's value, so that nothing says for sure where the options end.
    for argument in arguments:
        if _is_refused(subcommand, argument):
            raise _refusal(f"{subcommand} {argument}", "leave it out, spell a path as ./PATH, or use the shell tool")
    first = () if subcommand == "branch" and arguments == _CURRENT_BRANCH else _FIRST.get(subcommand, ())
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    return ExecRequest(
        argv=("git", "--no-pager", *settings, subcommand, *first, *arguments),
        env=_ENVIRONMENT,
        shown_as=f"git {subcommand} {args}".rstrip(),
    )


def _is_refused(subcommand: str, argument: str) -> bool:
    if argument.startswith("--"):
        name = argument.partition("=")[0]
        return len(name) > len("--") and _abbreviates(name, (*_REFUSED, *_REFUSED_OF.get(subcommand, ())))
    return argument.startswith("-") and _has_refused_letter(subcommand, argument[1:])


def _abbreviates(name: str, options: Sequence[str]) -> bool:
    return any(option.startswith(name) for option in options)


def _has_refused_letter(subcommand: str, letters: str) -> bool:
    for letter in letters:
        if letter in _REFUSED_LETTERS.get(subcommand, ""):
            return True
        if letter in _TAKE_VALUES.get(subcommand, ""):
            return False
    return False


def _refusal(what: str, hint: str) -> PolicyDenied:
    return PolicyDenied(f"git {what}: only what reads is offered here", hint=hint, rule="built-in: git reads")
