"""Programs that run what their arguments name: shells, `eval`, `env`, `xargs`, `find -exec` and their kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from gloveport.policy.commands.shell_words import Word, join_words

__all__ = ["SHELLS", "Carried", "ShellCode", "carried", "program_of", "redefines"]

SHELLS = frozenset(("ash", "bash", "dash", "ksh", "mksh", "rbash", "sh", "zsh"))

_FROM_INPUT = frozenset(("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"))
_MEANING = re.compile(
    r"(?:PATH|IFS|ENV|BASH_.*|SHELLOPTS|BASHOPTS|PROMPT_COMMAND|PS4|CDPATH|LD_.*|GIT_.*|(?:.*_)?PAGER|(?:.*_)?EDITOR|VISUAL"
    r"|PYTHON.*|PERL5.*|RUBY(?:OPT|LIB)|NODE_(?:OPTIONS|PATH)|JAVA_TOOL_OPTIONS|_JAVA_OPTIONS|LESSOPEN|LESSCLOSE"
    r"|BROWSER|GCONV_PATH|MAKEFLAGS|RUSTC(?:_.*)?|CC|CXX|TAR_OPTIONS|RSYNC_RSH|SSH_ASKPASS|SUDO_ASKPASS)"
)
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\[[^]]*\])?\+?=")
_TRAP_TAKES_NO_CODE = frozenset(("-", "-l", "-p", ""))


@dataclass(frozen=True, slots=True)
class ShellCode:
    """A text that another shell runs, and the `$1`, `$2` … it is given."""

    text: str
    positionals: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a command runs besides itself."""

    commands: tuple[tuple[Word, ...], ...] = ()
    code: tuple[ShellCode, ...] = ()
    hidden: tuple[str, ...] = ()
    """Why something that it runs cannot be known."""
    redefines: tuple[str, ...] = ()
    """What changes the meaning of the names after it."""
    reads_script: bool = False
    """It runs what its standard input says."""
    is_mere: bool = False
    """It does nothing but run these, so that a list which names them covers it."""


_NOTHING = Carried()


def program_of(words: Sequence[Word]) -> str | None:
    """The last name of the program, `None` where only the running shell knows."""
    return words[0].text.rpartition("/")[2] if words and words[0].is_known else None


def redefines(name: str) -> bool:
    """Whether a variable of this name decides which program, or which code, a name stands for."""
    return _MEANING.fullmatch(name) is not None


def carried(words: Sequence[Word]) -> Carried:
    """What one command runs besides itself."""
    name = program_of(words)
    if name is None:
        return _NOTHING
    if name in SHELLS:
        return _shell(name, words[1:])
    special = _SPECIAL.get(name)
    if special is not None:
        return special(words[1:])
    prefix = _PREFIXES.get("ld.so" if re.fullmatch(r"ld(?:-linux.*)?\.so(?:\.\d+)?|ld-musl.*", name) else name)
    return _prefixed(name, prefix, words[1:]) if prefix is not None else _NOTHING


def _shell(name: str, words: Sequence[Word]) -> Carried:
    """`sh -c TEXT`, `sh FILE`, or what standard input says."""
    takes_text = from_input = False
    notes: list[str] = []
    rest = list(words)
    while rest and (not rest[0].is_known or (rest[0].text[:1] in ("-", "+") and rest[0].text != "-")):
        word = rest.pop(0)
        if not word.is_known:
            return Carried(hidden=(f"only the running shell knows what {name} is told",))
        if word.text == "--":
            break
        if word.text.startswith("--"):
            if word.text in ("--rcfile", "--init-file"):
                return Carried(hidden=(f"{name} {word.text} runs a file first",))
            if word.text == "--login":
                notes.append(f"{name} {word.text} runs start-up files first")
            continue
        letters = word.text[1:]
        takes_text |= "c" in letters and word.text[0] == "-"
        from_input |= "s" in letters
        if set(letters) & set("il"):
            notes.append(f"{name} {word.text} runs start-up files first")
        for _ in range(letters.count("o") + letters.count("O")):
            rest = rest[1:]
    if takes_text:
        if not rest or not rest[0].is_known:
            return Carried(hidden=(f"only the running shell knows the text of {name} -c",), redefines=tuple(notes))
        code = ShellCode(rest[0].text, tuple(rest[2:]))
        return Carried(code=(code,), redefines=tuple(notes), is_mere=True)
    if from_input or not rest or rest[0].text in _FROM_INPUT or not rest[0].is_known:
        return Carried(reads_script=True, redefines=tuple(notes), is_mere=True)
    return Carried(redefines=tuple(notes))


def _eval(words: Sequence[Word]) -> Carried:
    words = words[1:] if words and words[0].text == "--" else words
    text = join_words(words)
    if text is None:
        return Carried(hidden=("only the running shell knows what eval reads",), is_mere=True)
    return Carried(code=(ShellCode(text),), is_mere=True)


def _trap(words: Sequence[Word]) -> Carried:
    words = words[1:] if words and words[0].text == "--" else words
    if not words or (words[0].is_known and words[0].text in _TRAP_TAKES_NO_CODE):
        return Carried(is_mere=True)
    if not words[0].is_known:
        return Carried(hidden=("only the running shell knows what trap will run",), is_mere=True)
    return Carried(code=(ShellCode(words[0].text),), is_mere=True)


def _source(words: Sequence[Word]) -> Carried:
    first = words[0] if words else None
    return Carried(reads_script=first is not None and (first.text in _FROM_INPUT or first.text.startswith("<(")))


def _find(words: Sequence[Word]) -> Carried:
    """`-exec … ;`: a name that is found takes the place of `{}`."""
    commands: list[tuple[Word, ...]] = []
    outside: list[Word] = []
    at = 0
    while at < len(words):
        at += 1
        if words[at - 1].text not in ("-exec", "-execdir", "-ok", "-okdir"):
            outside.append(words[at - 1])
            continue
        start = at
        while at < len(words) and words[at].text not in _FIND_ENDS:
            at += 1
        inner = [_unknown(word) if "{}" in word.text else word for word in words[start:at]]
        at += 1
        if inner:
            commands.append(tuple(inner))
    return Carried(commands=tuple(commands), hidden=_hidden_exec(outside))


_FIND_ENDS = (";", "+")


def _hidden_exec(words: Sequence[Word]) -> tuple[str, ...]:
    """A word that may become `-exec` needs one behind it that ends the command."""
    unknown = [number for number, word in enumerate(words) if not word.is_known and set(word.text) & set("$`")]
    ends = [number for number, word in enumerate(words) if word.is_known and word.text in _FIND_ENDS]
    if unknown and any(number > unknown[0] for number in (*unknown, *ends)):
        return (f"only the running shell knows {words[unknown[0]].text}, which may be -exec",)
    return ()


def _xargs(words: Sequence[Word]) -> Carried:
    """The command, with words from standard input at its end or in the place of a mark."""
    mark: str | None = None
    rest = list(words)
    while rest and rest[0].text.startswith("-") and rest[0].is_known:
        option = rest.pop(0).text
        if option == "--":
            break
        before = rest
        name, value, rest = _option(option, rest, _XARGS)
        if name is None or _takes_unknown(before, rest):
            return Carried(hidden=(f"xargs {option}: an option that is not known here",))
        if name in ("I", "i", "replace"):
            mark = value or "{}"
    if not rest:
        return Carried(commands=((Word("echo"), _MORE),), is_mere=True)
    if not rest[0].is_known:
        return Carried(hidden=("only the running shell knows what xargs runs",))
    if mark is None:
        return Carried(commands=((*rest, _MORE),), is_mere=True)
    return Carried(commands=(tuple(_unknown(word) if mark in word.text else word for word in rest),), is_mere=True)


_MORE = Word("…", False, True)
"""Words that come from elsewhere."""


def _unknown(word: Word) -> Word:
    return replace(word, is_known=False)


def _busybox(words: Sequence[Word]) -> Carried:
    return Carried(commands=(tuple(words),), is_mere=True) if words else _NOTHING


_SPECIAL: Mapping[str, Callable[[Sequence[Word]], Carried]] = MappingProxyType(
    {
        ".": _source,
        "busybox": _busybox,
        "eval": _eval,
        "find": _find,
        "source": _source,
        "toybox": _busybox,
        "trap": _trap,
        "xargs": _xargs,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prefix:
    """A program that runs the command behind its own options."""

    flags: str = ""
    """Letters that take no value."""
    values: str = ""
    """Letters that take one."""
    long: Mapping[str, bool] = field(default_factory=dict)
    """Long options, and whether they take a value."""
    operands: int = 0
    """Words of its own before the command."""
    is_mere: bool = True
    takes_assignments: bool = False
    asks: str = ""
    """Letters with which it only answers a question."""
    no_value_apart: str = ""
    """Letters whose value, if any, is in the same word."""


_XARGS = _Prefix(
    flags="0oprtx",
    values="aEILnPsd",
    no_value_apart="eil",
    long={
        "arg-file": True, "delimiter": True, "max-args": True, "max-procs": True, "max-chars": True,
        "process-slot-var": True, "null": False, "no-run-if-empty": False, "verbose": False, "exit": False,
        "interactive": False, "open-tty": False, "replace": False, "eof": False, "max-lines": False,
    },
)  # fmt: skip

_PREFIXES: Mapping[str, _Prefix] = MappingProxyType(
    {
        "builtin": _Prefix(),
        "chroot": _Prefix(long={"userspec": True, "groups": True, "skip-chdir": False}, operands=1, is_mere=False),
        "command": _Prefix(flags="p", asks="vV"),
        "coproc": _Prefix(),
        "doas": _Prefix(flags="Lns", values="uC", is_mere=False),
        "env": _Prefix(
            flags="i0v",
            values="uC",
            long={"ignore-environment": False, "null": False, "unset": True, "chdir": True, "debug": False},
            takes_assignments=True,
        ),
        "exec": _Prefix(flags="cl", values="a"),
        "flock": _Prefix(flags="snxeouFvc", values="wE", operands=1, is_mere=False),
        "ionice": _Prefix(flags="t", values="cn", long={"class": True, "classdata": True, "ignore": False}),
        "ld.so": _Prefix(long={"library-path": True, "preload": True, "argv0": True, "list": False}, is_mere=False),
        "nice": _Prefix(flags="0123456789", values="n", long={"adjustment": True}),
        "nohup": _Prefix(),
        "nsenter": _Prefix(flags="amuinpUCTrwF", values="tSGW", is_mere=False),
        "setsid": _Prefix(flags="cfw", long={"ctty": False, "fork": False, "wait": False}),
        "stdbuf": _Prefix(values="ioe", long={"input": True, "output": True, "error": True}),
        "strace": _Prefix(flags="cCdfFhikqrtTvVwxyYzZ", values="abeEIoOpPsSuUX", is_mere=False),
        "sudo": _Prefix(
            flags="ABbEHKkNnPSV",
            values="CDghpRrTtUu",
            long={
                "user": True, "group": True, "host": True, "prompt": True, "chdir": True, "chroot": True,
                "role": True, "type": True, "command-timeout": True, "preserve-env": False, "set-home": False,
                "non-interactive": False, "stdin": False, "background": False, "askpass": False,
            },
            takes_assignments=True,
            is_mere=False,
        ),
        "time": _Prefix(flags="pvaq", values="fo", long={"format": True, "output": True, "verbose": False}),
        "timeout": _Prefix(
            flags="vfp",
            values="ks",
            long={"kill-after": True, "signal": True, "foreground": False, "preserve-status": False, "verbose": False},
            operands=1,
        ),
        "unshare": _Prefix(flags="muinpUCTfrc", values="RwSG", is_mere=False),
        "watch": _Prefix(flags="bcdegtxp", values="n", is_mere=False),
    }
)  # fmt: skip


def _prefixed(name: str, prefix: _Prefix, words: Sequence[Word]) -> Carried:
    rest = list(words)
    changed: list[str] = []
    left = prefix.operands
    while rest:
        word = rest[0]
        assigned = _ASSIGNMENT.match(word.text) if prefix.takes_assignments else None
        if assigned is not None:
            changed += _redefinitions(name, assigned[1])
        elif not word.is_known and (word.is_many or prefix.takes_assignments or left):
            return Carried(hidden=(f"only the running shell knows what {name} runs",), redefines=tuple(changed))
        elif word.is_known and word.text == "--":
            return _behind(rest[1 + left :], prefix, changed)
        elif word.is_known and word.text.startswith("-") and word.text != "-":
            option, _, after = _option(word.text, rest[1:], prefix)
            if _takes_unknown(rest[1:], after):
                return Carried(hidden=(f"only the running shell knows what {name} runs",), redefines=tuple(changed))
            if option is None and set(word.text[1:]) & set(prefix.asks):
                return Carried(is_mere=True)
            if option is None:
                return Carried(hidden=(f"{name} {word.text}: an option that is not known here",))
            rest = after
            continue
        elif left:
            left -= 1
        elif word.text != "-":
            return _behind(rest, prefix, changed)
        rest.pop(0)
    return Carried(redefines=tuple(changed))


def _takes_unknown(before: Sequence[Word], after: Sequence[Word]) -> bool:
    """Whether an option's value may be several words, the command among them."""
    return len(after) < len(before) and before[0].is_many


def _behind(words: Sequence[Word], prefix: _Prefix, changed: Sequence[str]) -> Carried:
    if not words:
        return Carried(redefines=tuple(changed))
    return Carried(commands=(tuple(words),), redefines=tuple(changed), is_mere=prefix.is_mere)


def _redefinitions(name: str, variable: str) -> list[str]:
    return [f"{name} sets {variable}, which decides what names stand for"] if redefines(variable) else []


def _option(option: str, rest: list[Word], prefix: _Prefix) -> tuple[str | None, str | None, list[Word]]:
    """The option's name, its value, and the words behind it; no name for one that is not known."""
    if option.startswith("--"):
        written, equals, value = option[2:].partition("=")
        meant = [name for name in prefix.long if name == written] or [
            name for name in prefix.long if name.startswith(written)
        ]
        if len(meant) != 1:
            return None, None, rest
        if equals or not prefix.long[meant[0]]:
            return meant[0], value or None, rest
        return meant[0], rest[0].text if rest else None, rest[1:]
    letters = option[1:]
    for number, letter in enumerate(letters):
        attached = letters[number + 1 :]
        if letter in prefix.no_value_apart:
            return letter, attached or None, rest
        if letter in prefix.values:
            if attached:
                return letter, attached, rest
            return letter, rest[0].text if rest else None, rest[1:]
        if letter not in prefix.flags:
            return None, None, rest
    return letters[-1] if letters else None, None, rest
