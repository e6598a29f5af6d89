"""File settings of other sandboxes as rules about host paths and patches."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gloveport.errors import InvalidRequest
from gloveport.model import Verdict
from gloveport.policy.files.host import SYSTEM_DIRECTORIES
from gloveport.policy.files.protected import Touched, check_pattern, find_protected
from gloveport.policy.files.showing import decide_shown, is_within
from gloveport.policy.importing.draft import Draft, Effect, as_texts, refuse_here
from gloveport.policy.reading.lines import Place

__all__ = ["import_files"]

_Places = Mapping[str, tuple[str, ...]]

_GUESTS_OWN = ("/tmp", "/dev/shm", "/var/tmp")
_GLOB = frozenset("*?[{")
_NOTES: Mapping[str, tuple[Effect, str]] = MappingProxyType(
    {
        "allowGitConfig": (Effect.NARROWER, "a patch that touches .git is never applied unasked"),
        "disabled": (Effect.NARROWER, "the file wall cannot be taken down"),
        "allowManagedReadPathsOnly": (
            Effect.KEPT,
            "the organisation's policy file is above all others, which can only tighten it",
        ),
    }
)
_LISTS = ("allowWrite", "denyWrite", "denyRead", "allowRead")


def import_files(draft: Draft, said: Mapping[str, Any], places: _Places) -> None:
    """Add rules for what `said` names. Denials come first: nothing that is allowed reaches into them."""
    texts = {key: as_texts(draft, said[key], places[key]) for key in _LISTS if key in said}
    hidden = [_hide(draft, text, (*places["denyRead"], n)) for n, text in enumerate(texts.get("denyRead", ()))]
    shut = [_protect(draft, text, (*places["denyWrite"], n)) for n, text in enumerate(texts.get("denyWrite", ()))]
    for number, text in enumerate(texts.get("allowRead", ())):
        _show(draft, text, (*places["allowRead"], number), [path for path in hidden if path])
    for number, text in enumerate(texts.get("allowWrite", ())):
        _open(draft, text, (*places["allowWrite"], number), [path for path in (*shut, *hidden) if path])
    for key, place in places.items():
        if key in _NOTES:
            effect, reason = _NOTES[key]
            draft.note(place, effect if said[key] else Effect.KEPT, reason)
        elif key not in _LISTS:
            draft.unknown(place)


def _hide(draft: Draft, text: str, place: Place) -> str | None:
    """A path that must not be read. What no sandbox is shown needs no rule, and `hidden` says it all the same."""
    if _GLOB & set(text):
        draft.note(place, Effect.LOST, "a pattern: only plain paths can be hidden, so name them", text)
        return None
    path = _whole(draft, text, place)
    if path == draft.directory:
        draft.note(place, Effect.LOST, "the directory itself, which is the workspace", text)
    elif path == "/":
        draft.note(place, Effect.LOST, "programs need the system directories, which stay shown", text)
    elif is_within(draft.directory, path):
        draft.note(place, Effect.KEPT, "of what is around the workspace nothing is shown but what a rule names", text)
    elif path in SYSTEM_DIRECTORIES:
        draft.note(place, Effect.LOST, "without it no program runs in a sandbox", text)
    else:
        draft.add("files", "hidden", path, place)
        return path
    return None


def _protect(draft: Draft, text: str, place: Place) -> str | None:
    """A path that must not be written: in the workspace it is protected when the patch is applied."""
    is_plain = not _GLOB & set(text)
    path = _whole(draft, text, place) if is_plain or not text.startswith("**") else ""
    if path and not is_within(path, draft.directory):
        if is_plain:
            draft.note(place, Effect.KEPT, "outside the workspace nothing is written that no rule names", text)
            return path
        draft.note(place, Effect.LOST, "a pattern outside the workspace: name the paths", text)
        return None
    pattern = path[len(draft.directory.rstrip("/")) :] if path else text
    try:
        check_pattern(pattern)
    except InvalidRequest as error:
        draft.note(place, Effect.LOST, error.message, text)
        return None
    draft.add("files", "protected", pattern, place)
    draft.note(
        place, Effect.KEPT, "the user's tree is not written by the guest, and applying such a patch is refused", text
    )
    return path or None


def _show(draft: Draft, text: str, place: Place, hidden: list[str]) -> None:
    """A path that may be read again below one that may not."""
    if _GLOB & set(text):
        draft.note(place, Effect.NARROWER, "a pattern: name the paths", text)
        return
    path = _whole(draft, text, place)
    around = next((other for other in hidden if is_within(path, other) or is_within(other, path)), None)
    decision = decide_shown(path, draft.host)
    if is_within(path, draft.directory):
        draft.note(place, Effect.KEPT, "in the workspace", text)
    elif draft.host.shows(path) and around is None:
        draft.note(place, Effect.KEPT, "every sandbox sees it", text)
    elif decision.verdict is not Verdict.ALLOW:
        draft.note(place, Effect.NARROWER, f"never shown ({decision.rule}): {decision.reason}", text)
    elif around is not None:
        draft.note(place, Effect.NARROWER, f"{around} is hidden, and the stricter rule wins", text)
    else:
        draft.add("files", "read_only", path, place)


def _open(draft: Draft, text: str, place: Place, shut: list[str]) -> None:
    """A path that may be written."""
    if _GLOB & set(text):
        draft.note(place, Effect.NARROWER, "a pattern: name the paths", text)
        return
    path = _whole(draft, text, place)
    inside = next((other for other in shut if is_within(other, path) or is_within(path, other)), None)
    decision = decide_shown(path, draft.host)
    if is_within(path, draft.directory):
        draft.note(place, Effect.NARROWER, "in the workspace: written there, and in the user's tree by apply", text)
    elif any(is_within(path, own) for own in _GUESTS_OWN):
        draft.note(place, Effect.NARROWER, "a guest has temporary directories of its own, not the host's", text)
    elif is_within(draft.directory, path):
        draft.note(place, Effect.NARROWER, "the workspace is in it: name the directory beside it that is needed", text)
    elif decision.verdict is not Verdict.ALLOW:
        draft.note(place, Effect.NARROWER, f"never shown ({decision.rule}): {decision.reason}", text)
    elif _starts_programs(draft, path):
        draft.note(place, Effect.NARROWER, "the host starts what is written there by itself", text)
    elif inside is not None:
        draft.note(place, Effect.NARROWER, f"{inside} must stay as it is: name what is needed beside it", text)
    else:
        draft.add("files", "writable", path, place)


def _starts_programs(draft: Draft, path: str) -> bool:
    """Whether writing there means running on the host: start-up files, hooks, directories of programs."""
    if draft.host.shows(path) or find_protected([Touched(path=path.lstrip("/"))]):
        return True
    return any(is_within(path, place) or is_within(place, path) for place in draft.host.search_path)


def _whole(draft: Draft, text: str, place: Place) -> str:
    """The path in full: `.` is the directory, `~` the home. Without links resolved: they are judged when it is used."""
    if "\0" in text or (text.startswith("~") and text != "~" and not text.startswith("~/")):
        refuse_here(draft, place, f"not a path: {text!r}")
    path = draft.home + text[1:] if text.startswith("~") else text
    return "/" + os.path.normpath(os.path.join(draft.directory, path)).lstrip("/")
