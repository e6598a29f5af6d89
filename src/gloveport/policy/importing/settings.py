"""Turns the sandbox settings of Claude Code, or the settings of srt, into a policy, and says what that changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from gloveport.policy.files.host import HostView
from gloveport.policy.importing.draft import Draft, Effect, Note, as_object, refuse_here
from gloveport.policy.importing.files import import_files
from gloveport.policy.importing.hosts import import_hosts
from gloveport.policy.importing.text import policy_text
from gloveport.policy.reading.document import Document, read_object
from gloveport.policy.reading.schema import PolicyDocument

__all__ = ["Imported", "SettingsOf", "import_settings"]

_ALWAYS = "every command runs in the sandbox, or does not run: nothing in it can switch that off"
_NOT_HERE = "how srt is set up on one machine, not what a sandbox may do"
_MAC = "about macOS only"

_NARROWER: Mapping[str, str] = MappingProxyType(
    {
        "allowUnsandboxedCommands": _ALWAYS,
        "excludedCommands": _ALWAYS,
        "enableWeakerNestedSandbox": "there is no weaker sandbox",
        "enableWeakerNetworkIsolation": "there is no weaker network wall",
        "allowAppleEvents": _MAC,
    }
)
_KEPT: Mapping[str, str] = MappingProxyType(
    {
        "enabled": "there is nothing but sandboxes",
        "failIfUnavailable": "without a working backend nothing starts",
        "autoAllowBashIfSandboxed": "what runs in the sandbox needs no approval, unless [exec] asks for one",
        "ignoreViolations": "only what is reported; every refusal is in the trail",
        "allowPty": _MAC,
        "mandatoryDenySearchDepth": "protected paths of a patch are found at any depth",
        "enabledPlatforms": "policies hold on every platform",
        "bwrapPath": _NOT_HERE,
        "git": _NOT_HERE,
        "javaAgentJarPath": _NOT_HERE,
        "ripgrep": _NOT_HERE,
        "seccomp": _NOT_HERE,
        "socatPath": _NOT_HERE,
        "windows": _NOT_HERE,
    }
)
_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "permissions": "rules about Claude Code's own tools; write those that hold for commands in [exec] and [tools]",
        "env": "variables may be secrets; write those that are none in [environment]",
    }
)
"""What beside `sandbox` in a `settings.json` limits an agent too."""


class SettingsOf(StrEnum):
    """Whose settings a file holds."""

    AUTO = "auto"
    """What its keys say."""
    CLAUDE = "claude"
    SRT = "srt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A policy made of other people's settings."""

    document: Document
    """As `read_document` gives it; its lines are those of the imported file."""
    notes: tuple[Note, ...]
    """Everything that is not a rule of the policy now, by line."""

    @property
    def is_whole(self) -> bool:
        """Whether every restriction of the file holds."""
        return not any(note.effect is Effect.LOST for note in self.notes)

    def text(self) -> str:
        """The policy as a file: TOML."""
        return policy_text(self.document)


def import_settings(
    data: bytes, file: str, host: HostView, *, directory: str, home: str, kind: SettingsOf = SettingsOf.AUTO
) -> Imported:
    """Read Claude Code's `settings.json` (keys of today, or `sandbox.permissions`) or srt's settings, as JSON.

    `file` names it in messages, `directory` is what `.` means in it, `home` what `~` does; both absolute. Nothing is
    widened: what would show or let out more than Gloveport ever does is left out with a note, and a restriction that
    no rule can hold is a note too, whose effect is `lost`. Raises `InvalidRequest` for what is not such a file.
    """
    said, lines = read_object(data, file)
    draft = Draft(file=file, lines=lines, host=host, directory=directory, home=home)
    try:
        json.dumps(said, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        refuse_here(draft, (), "it holds half a character, which no policy can hold")
    if _whose(draft, said, kind) is SettingsOf.CLAUDE:
        _claude(draft, said)
    else:
        _sections(draft, said, (), asks=False)
    body = PolicyDocument.model_validate(draft.body())
    notes = tuple(sorted(draft.notes, key=lambda note: note.line))
    return Imported(document=Document(file=file, body=body, lines=draft.placed), notes=notes)


def _whose(draft: Draft, said: Mapping[str, Any], kind: SettingsOf) -> SettingsOf:
    """Whose settings these are. Raises `InvalidRequest` where they cannot be those of `kind`, or could be either's."""
    found = {
        SettingsOf.CLAUDE: "sandbox" in said,
        SettingsOf.SRT: "network" in said or "filesystem" in said,
    }
    fitting = [each for each, is_there in found.items() if is_there and kind in (SettingsOf.AUTO, each)]
    if not fitting:
        refuse_here(draft, (), _NEITHER[kind])
    if len(fitting) > 1:
        refuse_here(draft, (), "settings of Claude Code or of srt: say which they are")
    return fitting[0]


_NEITHER: Mapping[SettingsOf, str] = MappingProxyType(
    {
        SettingsOf.AUTO: "neither settings of Claude Code with a sandbox, nor settings of srt",
        SettingsOf.CLAUDE: "no settings of Claude Code with a sandbox",
        SettingsOf.SRT: "no settings of srt, which have network or filesystem",
    }
)


def _claude(draft: Draft, said: Mapping[str, Any]) -> None:
    for key in said:
        if key in _ELSEWHERE:
            draft.note((key,), Effect.LOST, _ELSEWHERE[key])
        elif key != "sandbox":
            draft.note((key,), Effect.KEPT, "not about the sandbox")
    sandbox = as_object(draft, said["sandbox"], ("sandbox",))
    old = as_object(draft, sandbox.get("permissions", {}), ("sandbox", "permissions"))
    today = {key: value for key, value in sandbox.items() if key != "permissions"}
    # Claude Code asks about a host that nothing names; the older keys are a plain list of those that are allowed.
    _sections(draft, today, ("sandbox",), asks=not old)
    if old:
        _older(draft, old)
    elif "network" not in today:
        import_hosts(draft, {}, {}, asks=True)


def _older(draft: Draft, old: Mapping[str, Any]) -> None:
    """`sandbox.permissions.fs.write.allow` and so on, which Claude Code itself passes over without a word."""
    place = ("sandbox", "permissions")
    files = as_object(draft, old.get("fs", {}), (*place, "fs"))
    said: dict[str, Any] = {}
    places: dict[str, tuple[str, ...]] = {}
    names = {("write", "allow"): "allowWrite", ("write", "deny"): "denyWrite"}
    names |= {("read", "allow"): "allowRead", ("read", "deny"): "denyRead"}
    for kind, value in files.items():
        inner = as_object(draft, value, (*place, "fs", kind))
        for verdict, texts in inner.items():
            where = (*place, "fs", kind, verdict)
            if (kind, verdict) in names:
                said[names[kind, verdict]] = texts
                places[names[kind, verdict]] = where
            else:
                draft.unknown(where)
    import_files(draft, said, places)
    network = as_object(draft, old.get("network", {}), (*place, "network"))
    renamed = {"allow": "allowedDomains", "deny": "deniedDomains"}
    import_hosts(
        draft,
        {renamed.get(key, key): value for key, value in network.items()},
        {renamed.get(key, key): (*place, "network", key) for key in network},
        asks=False,
    )
    for key in old:
        if key not in ("fs", "network"):
            draft.unknown((*place, key))


def _sections(draft: Draft, said: Mapping[str, Any], place: tuple[str, ...], *, asks: bool) -> None:
    """The keys that srt and Claude Code share."""
    readers: dict[str, Callable[[Mapping[str, Any], Mapping[str, tuple[str, ...]]], None]] = {
        "filesystem": lambda inner, places: import_files(draft, inner, places),
        "network": lambda inner, places: import_hosts(draft, inner, places, asks=asks),
        "credentials": lambda inner, places: _credentials(draft, inner, places),
    }
    for key, value in said.items():
        here = (*place, key)
        if key in readers:
            inner = as_object(draft, value, here)
            readers[key](inner, {name: (*here, name) for name in inner})
        elif key in _NARROWER:
            draft.note(here, Effect.NARROWER if value else Effect.KEPT, _NARROWER[key])
        elif key == "autoAllowBashIfSandboxed" and value is False:
            draft.note(here, Effect.LOST, 'no approval for each command: write exec.ask = ["**"] for that')
        elif key in _KEPT:
            draft.note(here, Effect.KEPT, _KEPT[key])
        else:
            draft.unknown(here)


def _credentials(draft: Draft, said: Mapping[str, Any], places: Mapping[str, tuple[str, ...]]) -> None:
    """Declared credentials: files are hidden whatever their mode, and no variable of the host is ever in a guest."""
    for key, place in places.items():
        if key == "files":
            entries = said[key] if isinstance(said[key], list) else []
            for number, entry in enumerate(entries):
                path = as_object(draft, entry, (*place, str(number))).get("path")
                import_files(draft, {"denyRead": [path]}, {"denyRead": place})
            draft.note(place, Effect.NARROWER, "hidden, not masked: bind them as [secrets] if a host needs them")
        elif key in ("envVars", "awsPairs", "sigv4"):
            draft.note(place, Effect.NARROWER, "no variable of the host is in a guest: bind it as [secrets] if need be")
        elif key == "allowPlaintextInject":
            draft.note(place, Effect.NARROWER, "nothing is injected without [secrets]")
        else:
            draft.unknown(place)
