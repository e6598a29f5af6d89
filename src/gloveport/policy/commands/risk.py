"""How dangerous commands and paths look, and why. Advice for people and records: the kernel is the wall."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from gloveport.policy.commands.shell_grammar import Finding, Position, ShellReading, SimpleCommand
from gloveport.policy.commands.shell_words import Word

__all__ = ["Risk", "RiskCategory", "RiskLevel", "RiskReason", "assess_path", "assess_risk"]


class RiskLevel(IntEnum):
    """From nothing to worry about to what no task needs."""

    NONE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    def __str__(self) -> str:
        return self.name.lower()


class RiskCategory(StrEnum):
    """What would be harmed, were there no sandbox."""

    FILESYSTEM_DESTRUCTION = "filesystem_destruction"
    SYSTEM_DESTRUCTION = "system_destruction"
    PRIVILEGE_ESCALATION = "privilege_escalation"
    REMOTE_CODE_EXECUTION = "remote_code_execution"
    NETWORK_ATTACKS = "network_attacks"
    INFORMATION_DISCLOSURE = "information_disclosure"
    RESOURCE_EXHAUSTION = "resource_exhaustion"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskReason:
    """One thing that is dangerous."""

    level: RiskLevel
    category: RiskCategory
    reason: str
    position: Position = field(default_factory=Position)


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """All of it; the highest first."""

    reasons: tuple[RiskReason, ...] = ()

    @property
    def level(self) -> RiskLevel:
        """The highest."""
        return self.reasons[0].level if self.reasons else RiskLevel.NONE


_LOW, _MEDIUM, _HIGH, _CRITICAL = RiskLevel.LOW, RiskLevel.MEDIUM, RiskLevel.HIGH, RiskLevel.CRITICAL
_FILES, _SYSTEM = RiskCategory.FILESYSTEM_DESTRUCTION, RiskCategory.SYSTEM_DESTRUCTION
_PRIVILEGE, _REMOTE = RiskCategory.PRIVILEGE_ESCALATION, RiskCategory.REMOTE_CODE_EXECUTION
_NETWORK, _SECRETS = RiskCategory.NETWORK_ATTACKS, RiskCategory.INFORMATION_DISCLOSURE
_RESOURCES = RiskCategory.RESOURCE_EXHAUSTION

_Judged = tuple[RiskLevel, RiskCategory, str]

_PROGRAMS: dict[str, _Judged] = {
    **dict.fromkeys(("fdisk", "parted", "sfdisk", "wipefs", "blkdiscard"), (_CRITICAL, _FILES, "changes a disk")),
    **dict.fromkeys(
        ("halt", "kexec", "poweroff", "reboot", "shutdown", "telinit"), (_HIGH, _SYSTEM, "stops the machine")
    ),
    **dict.fromkeys(("insmod", "modprobe", "rmmod"), (_HIGH, _SYSTEM, "changes the kernel")),
    **dict.fromkeys(
        ("doas", "pkexec", "runuser", "su", "sudo", "nsenter", "setcap", "visudo", "chroot", "unshare"),
        (_HIGH, _PRIVILEGE, "takes another user's power"),
    ),
    **dict.fromkeys(("passwd", "useradd", "usermod", "chpasswd"), (_HIGH, _PRIVILEGE, "changes who may log in")),
    **dict.fromkeys(
        ("arpspoof", "ettercap", "hping3", "hydra", "masscan", "msfconsole", "sqlmap"),
        (_HIGH, _NETWORK, "attacks other machines"),
    ),
    **dict.fromkeys(("nmap", "tcpdump", "tshark"), (_MEDIUM, _NETWORK, "looks at the network")),
    **dict.fromkeys(("iptables", "ip6tables", "nft"), (_HIGH, _NETWORK, "changes the fire wall")),
    **dict.fromkeys(("printenv",), (_LOW, _SECRETS, "prints variables, where secrets often are")),
    **dict.fromkeys(("stress", "stress-ng"), (_MEDIUM, _RESOURCES, "uses everything up")),
}
_DOWNLOADS = frozenset(("aria2c", "curl", "ftp", "nc", "ncat", "netcat", "scp", "socat", "wget"))
_DECODES = frozenset(("base32", "base64", "gunzip", "gzip", "openssl", "rev", "tr", "uudecode", "xxd", "zcat"))
_SAYS_ONLY = frozenset((":", "[", "echo", "printf", "test", "false", "true"))
_DEVICE = re.compile(r"/dev/(?:sd|hd|vd|xvd|nvme|mmcblk|dm-|loop|md|mem|kmem|port)")
_SYSTEM_TREES = ("bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "opt", "proc", "root", "sbin", "srv",
                 "sys", "usr", "var")  # fmt: skip
_HOME = re.compile(r"(?:~[\w-]*|\"?\$(?:HOME|\{HOME\})\"?|/home/[^/]+|/root)")
_KEY_PLACES = (".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".netrc", ".git-credentials", ".pgpass")
_SECRET_FILES: dict[str, RiskLevel] = {
    "/etc/shadow": _HIGH,
    "/etc/gshadow": _HIGH,
    "/etc/sudoers": _HIGH,
    "/etc/passwd": _LOW,
    "/proc/kcore": _HIGH,
}
_GIVES_USERS_POWER = re.compile(r"[ugoa]*[+=][rwxXt]*s[rwxXt]*|[2467][0-7]{3}")
_EVERYBODY = re.compile(r"[0-7]?777|[ugoa]*\+[rx]*w[rx]*")


def assess_risk(reading: ShellReading) -> Risk:
    """What is dangerous in a text that was read."""
    found = [reason for command in reading.commands for reason in _command(command)]
    found += [reason for finding in reading.hidden for reason in _hidden(finding)]
    found += [
        RiskReason(level=_LOW, category=RiskCategory.UNREADABLE, reason=finding.reason, position=finding.position)
        for finding in reading.redefined
    ]
    found += [
        RiskReason(level=_CRITICAL, category=_RESOURCES, reason=finding.reason, position=finding.position)
        for finding in reading.multiplying
    ]
    return Risk(reasons=tuple(sorted(dict.fromkeys(found), key=lambda reason: (-reason.level, reason.position))))


def assess_path(path: str, *, write: bool = False) -> RiskLevel:
    """How sensitive a path is that somebody asks for, by its parts: a file of that name deeper down is not meant."""
    plain = _plain(path)
    parts = plain.split("/")
    if any(part in _KEY_PLACES or part in ("id_rsa", "id_ed25519") for part in parts):
        return _HIGH
    if plain in _SECRET_FILES:
        return max(_SECRET_FILES[plain], _HIGH if write else RiskLevel.NONE)
    if re.fullmatch(r"/proc/[^/]+/(?:environ|mem)", plain):
        return _HIGH
    if write and (_DEVICE.match(plain) or (plain.startswith("/") and parts[1] in _SYSTEM_TREES and parts[1] != "home")):
        return RiskLevel.NONE if plain.startswith(("/dev/shm/", "/var/tmp/", "/dev/fd/")) else _HIGH
    return RiskLevel.NONE


def _hidden(finding: Finding) -> Iterator[RiskReason]:
    fed = set(finding.fed_by)
    if fed & _DOWNLOADS:
        level, reason = _CRITICAL, f"runs what {', '.join(sorted(fed & _DOWNLOADS))} fetched"
    elif fed & _DECODES:
        level, reason = _HIGH, f"runs what {', '.join(sorted(fed & _DECODES))} unpacked"
    else:
        level, reason = _MEDIUM, finding.reason
    category = RiskCategory.UNREADABLE if level is _MEDIUM else _REMOTE
    yield RiskReason(level=level, category=category, reason=reason, position=finding.position)


def _command(command: SimpleCommand) -> Iterator[RiskReason]:
    for level, category, reason in _judgements(command):
        yield RiskReason(level=level, category=category, reason=f"{command}: {reason}", position=command.position)


def _judgements(command: SimpleCommand) -> Iterator[_Judged]:
    name, words = command.program, command.words[1:]
    for path in command.writes:
        yield from _written(path)
    if name is None:
        yield _MEDIUM, RiskCategory.UNREADABLE, "only the running shell knows the program"
        return
    if name in _PROGRAMS:
        yield _PROGRAMS[name]
    if name.startswith("mkfs"):
        yield _CRITICAL, _FILES, "makes a file system"
    rule = _RULES.get(name)
    if rule is not None:
        yield from rule(words)
    if name not in _SAYS_ONLY and not command.is_mere:
        yield from _read(words)


def _written(path: str) -> Iterator[_Judged]:
    if path.startswith(("/dev/tcp/", "/dev/udp/")):
        yield _HIGH, _REMOTE, "opens a connection from the shell"
    elif _DEVICE.match(path):
        yield _CRITICAL, _FILES, "writes over a device"
    elif path.startswith(("/proc/sys", "/sys/")):
        yield _HIGH, _SYSTEM, "changes the kernel's settings"
    elif assess_path(path, write=True) >= _HIGH:
        yield _HIGH, _PRIVILEGE if _plain(path).startswith("/etc") else _FILES, f"writes {path}"


def _read(words: Sequence[Word]) -> Iterator[_Judged]:
    for word in words:
        level = assess_path(word.text.rpartition("=")[2].strip("\"'@"))
        if level is not RiskLevel.NONE:
            yield level, _SECRETS, f"names {word.text}"
        if word.is_known and word.text in ("/dev/zero", "/dev/urandom", "/dev/random"):
            yield _LOW, _RESOURCES, f"{word.text} has no end"


def _flags(words: Sequence[Word]) -> tuple[set[str], list[Word]]:
    """Letters and long options, and the operands."""
    flags: set[str] = set()
    operands: list[Word] = []
    only_operands = False
    for word in words:
        if only_operands or not word.text.startswith("-") or word.text == "-":
            operands.append(word)
        elif word.text == "--":
            only_operands = True
        elif word.text.startswith("--"):
            flags.add(word.text)
        else:
            flags |= set(word.text[1:])
    return flags, operands


def _rm(words: Sequence[Word]) -> Iterator[_Judged]:
    flags, operands = _flags(words)
    if "--no-preserve-root" in flags:
        yield _CRITICAL, _FILES, "removes without the guard of the root"
    if not flags & {"r", "R", "--recursive"}:
        return
    for word in operands:
        yield from _tree(word, "removes")


def _tree(word: Word, does: str) -> Iterator[_Judged]:
    text = word.text.strip('"')
    plain = _plain(text.removesuffix("*") or ".")
    home = _HOME.fullmatch(text.removesuffix("*").rstrip("/"))
    if plain == "/" or home or (plain.startswith("/") and plain.count("/") == 1 and plain[1:] in _SYSTEM_TREES):
        yield _CRITICAL, _FILES, f"{does} {text}"
    elif plain.startswith("/") and plain.split("/")[1] in set(_SYSTEM_TREES) - {"home", "var", "dev"}:
        yield _HIGH, _FILES, f"{does} {text}"
    elif not word.is_known and text.startswith("$"):
        yield _MEDIUM, _FILES, f"{does} what only the running shell knows"


def _dd(words: Sequence[Word]) -> Iterator[_Judged]:
    for word in words:
        if word.text.startswith("of="):
            yield from _written(word.text[3:])


def _find(words: Sequence[Word]) -> Iterator[_Judged]:
    if any(word.text == "-delete" for word in words) and words and not words[0].text.startswith("-"):
        yield from _tree(words[0], "removes what is below")


def _chmod(words: Sequence[Word]) -> Iterator[_Judged]:
    flags, operands = _flags(words)
    for word in operands[:1]:
        if _GIVES_USERS_POWER.fullmatch(word.text):
            yield _HIGH, _PRIVILEGE, "lets others run it with its owner's power"
    if flags & {"R", "--recursive"} or any(_EVERYBODY.fullmatch(word.text) for word in operands[:1]):
        for word in operands[1:]:
            yield from _tree(word, "changes who may use")


def _kill(words: Sequence[Word]) -> Iterator[_Judged]:
    if any(word.text == "-1" for word in words[1:]):
        yield _HIGH, _SYSTEM, "ends every process"


def _netcat(words: Sequence[Word]) -> Iterator[_Judged]:
    flags, _ = _flags(words)
    if flags & {"e", "c", "--exec", "--sh-exec"}:
        yield _CRITICAL, _REMOTE, "gives a shell to whoever is at the other end"
    elif flags & {"l", "--listen"}:
        yield _MEDIUM, _NETWORK, "waits for connections"


def _socat(words: Sequence[Word]) -> Iterator[_Judged]:
    if any(re.match(r"(?i)exec:|system:", word.text) for word in words):
        yield _CRITICAL, _REMOTE, "gives a shell to whoever is at the other end"


def _sysctl(words: Sequence[Word]) -> Iterator[_Judged]:
    if any("=" in word.text or word.text in ("-w", "--write") for word in words):
        yield _HIGH, _SYSTEM, "changes the kernel's settings"


def _mv(words: Sequence[Word]) -> Iterator[_Judged]:
    _, operands = _flags(words)
    for word in operands[:-1]:
        yield from _tree(word, "moves away")
    for word in operands[-1:]:
        yield from _written(word.text)


def _copies(words: Sequence[Word]) -> Iterator[_Judged]:
    _, operands = _flags(words)
    for word in operands[-1:]:
        yield from _written(word.text)


def _tee(words: Sequence[Word]) -> Iterator[_Judged]:
    for word in _flags(words)[1]:
        yield from _written(word.text)


_RULES = {
    "chmod": _chmod,
    "chown": _chmod,
    "cp": _copies,
    "dd": _dd,
    "find": _find,
    "kill": _kill,
    "mv": _mv,
    "nc": _netcat,
    "ncat": _netcat,
    "netcat": _netcat,
    "rm": _rm,
    "shred": _tee,
    "socat": _socat,
    "sysctl": _sysctl,
    "tee": _tee,
}


def _plain(path: str) -> str:
    """Without `.`, `..`, doubled slashes, and the ways around that `/proc` offers."""
    plain = posixpath.normpath(path) if path else "."
    plain = "/" + plain.lstrip("/") if plain.startswith("/") else plain
    return re.sub(r"^/proc/(?:self|thread-self|\d+)/root(?=/|$)", "", plain) or "/"
