"""Where this host's package tools are set up to fetch from, read from their own files and variables."""

from __future__ import annotations

import configparser
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email import message_from_string
from pathlib import Path
from typing import Any

from gloveport.policy.reading.asking import Machine

__all__ = ["Sources", "apt_sources", "npm_sources", "pip_sources", "uv_sources"]

_TRUE = frozenset(("1", "true", "yes", "on", "t", "y"))
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(slots=True, kw_only=True)
class Sources:
    """What a tool's settings say: URLs as they are written, credentials and all, so never for printing."""

    urls: list[str] = field(default_factory=list)
    is_set: bool = False
    """Whether they name the main place, so that the tool's own default does not count."""
    variables: dict[str, str] = field(default_factory=dict)
    """What tells the tool the same, of what `urls` holds."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why; without any URL."""

    def tell(self, variable: str, urls: Iterable[str]) -> None:
        """More for a variable that holds several; of a default there is one, the last that is said."""
        said = () if variable == "UV_DEFAULT_INDEX" else self.variables.get(variable, "").split()
        self.variables[variable] = " ".join((*said, *urls))

    def leave(self, path: Path, why: str) -> None:
        """A file that cannot be understood: nobody knows what it says, so the default does not count either."""
        self.is_set = True
        self.notes.append(f"{path}: {why}")


def pip_sources(machine: Machine) -> Sources:
    """pip's: `pip.conf` of the system, of the person and of `PIP_CONFIG_FILE`, and its variables, the last one wins.

    The file in a virtual environment is left alone: a repository can bring one.
    """
    found = Sources()
    said: dict[tuple[str, str], str] = {}
    for path in _pip_files(machine):
        parser = configparser.RawConfigParser(strict=False)
        text = _read(machine, path, found)
        try:
            parser.read_string(text or "")
        except configparser.Error:
            found.leave(path, "not a file that pip reads")
        for section in parser.sections():
            for key, value in parser.items(section):
                said[section.lower(), key.replace("_", "-").lstrip("-")] = value
    for name, value in machine.environ.items():
        if name.startswith("PIP_") and value:
            key = name[4:].lower().replace("_", "-")
            said = {place: text for place, text in said.items() if place[1] != key}
            said[":variable:", key] = value
    for (_, key), value in said.items():
        if key in ("index-url", "pypi-url"):
            found.is_set = True
        if key in ("index-url", "pypi-url", "extra-index-url", "find-links"):
            found.urls += value.split()
        found.is_set |= key == "no-index" and value.lower() in _TRUE
    for key in ("index-url", "extra-index-url", "find-links", "trusted-host"):
        # As `pip install` would take it: the last of these counts.
        values = [said[place, key] for place in ("global", "install", ":variable:") if (place, key) in said]
        found.variables |= {f"PIP_{key.replace('-', '_').upper()}": value for value in values}
    return found


def _pip_files(machine: Machine) -> Iterator[Path]:
    environ, etc = machine.environ, machine.root / "etc"
    own = environ.get("PIP_CONFIG_FILE", "")
    if own == os.devnull:
        return  # pip's own way to say: none
    shared = [Path(part) / "pip" for part in environ.get("XDG_CONFIG_DIRS", "").split(":") if part.startswith("/")]
    yield from (place / "pip.conf" for place in (*(shared or [etc / "xdg" / "pip"]), etc))
    yield machine.home / ".pip" / "pip.conf"
    yield _settings_home(machine) / "pip" / "pip.conf"
    if own.startswith("/"):
        yield Path(own)


def uv_sources(machine: Machine) -> Sources:
    """uv's: `uv.toml` of the system and of the person, and its variables. Never `uv.toml` or `pyproject.toml` here."""
    found = Sources()
    environ, etc = machine.environ, machine.root / "etc"
    places = [etc / "uv" / "uv.toml", etc / "xdg" / "uv" / "uv.toml", _settings_home(machine) / "uv" / "uv.toml"]
    if environ.get("UV_CONFIG_FILE", "").startswith("/"):
        places = [Path(environ["UV_CONFIG_FILE"])]
    elif environ.get("UV_NO_CONFIG", "").lower() in _TRUE:
        places = []
    for path in places:
        try:
            _uv_file(tomllib.loads(_read(machine, path, found) or ""), found)
        except (tomllib.TOMLDecodeError, TypeError, AttributeError):
            found.leave(path, "not a file that uv reads")
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
        for text in re.split(r"[\s,]+" if name == "UV_FIND_LINKS" else r"\s+", environ.get(name, "")):
            if text:
                found.urls.append(re.sub(r"^[\w.-]+=", "", text))  # an index may have a name
                found.is_set |= name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")
        if environ.get(name) and name != "UV_FIND_LINKS":
            found.variables[name] = environ[name]
    return found


def _uv_file(said: Mapping[str, Any], found: Sources) -> None:
    for table in (said, said.get("pip", {})):
        for index in table.get("index", ()):
            found.urls.append(str(index["url"]) if "url" in index else "")
            found.is_set |= bool(index.get("default"))
            if "url" in index:
                found.tell("UV_DEFAULT_INDEX" if index.get("default") else "UV_INDEX", [str(index["url"])])
        for key in ("index-url", "extra-index-url", "find-links"):
            value = table.get(key, ())
            urls = [value] if isinstance(value, str) else [str(url) for url in value]
            found.urls += urls
            if urls and key != "find-links":
                found.tell("UV_DEFAULT_INDEX" if key == "index-url" else "UV_INDEX", urls)
        found.is_set |= "index-url" in table or bool(table.get("no-index"))


def npm_sources(machine: Machine) -> Sources:
    """npm's: `npmrc` of the system, `.npmrc` of the person, and its variables. Never the one of a project."""
    found = Sources()
    said: dict[str, str] = {}
    for path in _npm_files(machine):
        said |= _npm_file(machine, path, found)
    if "npm_lifecycle_event" not in machine.environ:  # there npm has put what the project's file says
        for name, value in machine.environ.items():
            if name.lower().startswith("npm_config_") and value:
                said[name.lower().removeprefix("npm_config_")] = value
    for key, value in said.items():
        if key == "registry" or key.endswith(":registry"):
            found.urls.append(value)
            found.is_set |= key == "registry"
            if key == "registry":
                found.variables["npm_config_registry"] = value
    return found


def _npm_files(machine: Machine) -> Iterator[Path]:
    environ = {name.lower(): value for name, value in machine.environ.items() if name.lower().startswith("npm_config_")}
    user = Path(environ.get("npm_config_userconfig") or machine.home / ".npmrc")
    prefix = environ.get("npm_config_prefix") or _npm_file(machine, user, Sources()).get("prefix", "")
    if not prefix:
        program = machine.finds("npm")
        prefix = str(Path(program).parent.parent) if program is not None else ""
    yield machine.root / "etc" / "npmrc"
    if prefix.startswith("/"):
        yield Path(prefix) / "etc" / "npmrc"
    if environ.get("npm_config_globalconfig", "").startswith("/"):
        yield Path(environ["npm_config_globalconfig"])
    yield user


def _npm_file(machine: Machine, path: Path, found: Sources) -> Mapping[str, str]:
    """Its keys and values, `${VARIABLE}` in them replaced."""
    parser = configparser.RawConfigParser(
        delimiters=("=",), comment_prefixes=("#", ";"), strict=False, allow_no_value=True, default_section="\0"
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # npm keeps the case
    lines = [line.strip() for line in (_read(machine, path, found) or "").splitlines()]
    try:
        parser.read_string("\n".join(["[npm]", *lines]))
    except configparser.Error:
        found.leave(path, "not a file that npm reads")
        return {}

    def whole(value: str) -> str:
        return _VARIABLE.sub(lambda name: machine.environ.get(name[1], ""), value.strip("\"'"))

    return {key.strip("\"'"): whole(value or "") for key, value in parser.items("npm")}


def apt_sources(machine: Machine) -> Sources:
    """apt's: `sources.list`, and the `.list` and `.sources` files beside it."""
    found = Sources(is_set=True)
    etc = machine.root / "etc" / "apt"
    lists: list[tuple[Path, Callable[[str], Iterator[str]]]] = [(etc / "sources.list", _apt_lines)]
    lists += [(path, _apt_lines) for path in sorted((etc / "sources.list.d").glob("*.list"))]
    lists += [(path, _apt_stanzas) for path in sorted((etc / "sources.list.d").glob("*.sources"))]
    for path, parse in lists:
        for url in parse(_read(machine, path, found) or ""):
            plain = re.sub(r"^(?:mirror|tor)\+", "", url)
            if plain != url:
                found.notes.append(f"{path}: a list of mirrors, or a way through Tor: only its first place is taken")
            found.urls.append(plain)
    return found


def _apt_lines(text: str) -> Iterator[str]:
    """`deb [option=value …] URL suite component …`."""
    for line in text.splitlines():
        words = re.sub(r"\[[^\]]*\]", " ", line.partition("#")[0], count=1).split()
        if len(words) > 1 and words[0] in ("deb", "deb-src"):
            yield words[1]


def _apt_stanzas(text: str) -> Iterator[str]:
    """deb822: headers as in a mail, stanzas between empty lines."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        headers = message_from_string(stanza.strip("\n"))
        if str(headers.get("Enabled", "yes")).strip().lower() not in ("no", "false", "0"):
            yield from str(headers.get("URIs", "")).split()


def _read(machine: Machine, path: Path, found: Sources) -> str | None:
    try:
        return machine.read(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "too large, or not UTF-8"
        found.leave(path, f"cannot be read: {why}")
        return None


def _settings_home(machine: Machine) -> Path:
    own = machine.environ.get("XDG_CONFIG_HOME", "")
    return Path(own) if own.startswith("/") else machine.home / ".config"
