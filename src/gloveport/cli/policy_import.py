"""`gloveport policy import`: other programs' settings as a policy file, and what of them did not carry over."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gloveport.cli.output import note, plain, print_json
from gloveport.errors import Conflict, InvalidRequest, NotFound
from gloveport.policy import survey
from gloveport.policy.importing.draft import Effect
from gloveport.policy.importing.settings import Imported, SettingsOf, import_settings
from gloveport.policy.reading.document import LARGEST_FILE, parse_document
from gloveport.policy.reading.layers import compile_layer
from gloveport.settings import Settings
from gloveport.store import cannot_write

__all__ = ["Target", "import_policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a policy goes, and where it is for."""

    output: Path | None
    """`None` is stdout."""
    overwrite: bool
    directory: Path
    """What `.` means in the settings."""


def import_policy(source: Path, whose: SettingsOf, target: Target, *, as_json: bool) -> int:
    """Make a policy of the settings in `source`; say on stderr, line by line, what is no rule of it.

    Raises `InvalidRequest`, `NotFound`, `Conflict` for a file that is there already, or what writing it raises.
    """
    _check_output(target)
    settings = Settings.load()
    found = import_settings(
        _read(source),
        str(source),
        survey(own=(settings.state, settings.data)),
        directory=os.path.abspath(target.directory),
        home=os.path.expanduser("~"),
        kind=whose,
    )
    text = found.text()
    compile_layer(parse_document(text.encode(), str(target.output or "the policy")), "project")
    if target.output is not None:
        _write(target.output, text, overwrite=target.overwrite)
    if as_json:
        _print_json(found, text, target.output)
        return 0
    for each in found.notes:
        sys.stderr.write(f"{plain(str(source))}:{plain(str(each))}\n")
    if target.output is None:
        sys.stdout.write(text)
    _summarise(found, target.output)
    return 0


def _check_output(target: Target) -> None:
    if target.output is None:
        if target.overwrite:
            raise InvalidRequest("nothing to overwrite: the policy goes to stdout", hint="name a file with --output")
    elif target.output.suffix != ".toml":
        raise InvalidRequest(f"{target.output} is no name for a policy in TOML", hint="end it in .toml")


def _read(source: Path) -> bytes:
    try:
        with source.open("rb") as file:
            return file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise NotFound(
            f"cannot read {source}: {error.strerror}", hint="name the file, for example .claude/settings.json"
        ) from error


def _write(path: Path, text: str, *, overwrite: bool) -> None:
    """Whole or not at all, and through no link that lies there."""
    scratch = ""
    try:
        descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=".policy-")
        with open(descriptor, "wb") as file:
            file.write(text.encode())
        if overwrite:
            os.replace(scratch, path)
        else:
            os.link(scratch, path)
    except FileExistsError as error:
        raise Conflict(f"{path} is there already", hint="name another file, or add --overwrite") from error
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if scratch:
            with suppress(OSError):
                os.unlink(scratch)


def _print_json(found: Imported, text: str, output: Path | None) -> None:
    print_json(
        {
            "policy": text,
            "output": None if output is None else str(output),
            "whole": found.is_whole,
            "notes": [asdict(each) for each in found.notes],
        }
    )


def _summarise(found: Imported, output: Path | None) -> None:
    lost = sum(each.effect is Effect.LOST for each in found.notes)
    if lost:
        note(f"{lost} restriction{'' if lost == 1 else 's'} of the settings did not carry over: those marked lost")
    if output is not None:
        note(f"wrote {output}; check it with: gloveport policy check --policy {output}")
