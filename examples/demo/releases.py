"""The demo's real input: two source releases of one project, fetched from the configured package index by hash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

__all__ = ["AFTER", "BEFORE", "Release", "unpack"]

_PATIENCE = 60


@dataclass(frozen=True, slots=True)
class Release:
    """One source release."""

    project: str
    file: str
    sha256: str

    @property
    def directory(self) -> str:
        """The name of the one directory in it."""
        return self.file.removesuffix(".tar.gz")


BEFORE = Release(
    "semantic-version",
    "semantic_version-2.8.4.tar.gz",
    "352459f640f3db86551d8054d1288608b29a96e880c7746f0a59c92879d412a3",
)
"""With the bug: `SimpleSpec('==0.1.*')` matches 0.1.0 only."""

AFTER = Release(
    "semantic-version",
    "semantic_version-2.8.5.tar.gz",
    "d2cb2de0558762934679b9a104e82eca7af448c9f4974d1f3eeccff651df8a54",
)
"""The next one, whose own tests show the fix (its change log: #98, wildcards in `SimpleSpec`)."""


def unpack(release: Release, into: Path) -> Path:
    """Fetch (once), check the hash, unpack; the release's directory. Nothing of it is executed."""
    archive = into / release.file
    if not archive.exists():
        scratch = archive.with_suffix(".part")
        scratch.write_bytes(_get(_link(release)))
        scratch.rename(archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != release.sha256:
        archive.unlink()
        sys.exit(f"error: {release.file} has the hash {digest}, not {release.sha256}\n  next: do not trust this index")
    target = into / release.directory
    if not target.exists():
        with tarfile.open(archive) as members:
            # Python before 3.11.4 has no filter; the hash says that this is the archive we mean.
            if hasattr(tarfile, "data_filter"):
                members.extractall(into, filter="data")
            else:
                members.extractall(into)
    return target


class _Links(HTMLParser):
    """The anchors of an index page (PEP 503): text → address."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._address = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._address = dict(attrs).get("href") or "" if tag == "a" else ""

    def handle_data(self, data: str) -> None:
        if self._address:
            self.found[data.strip()] = self._address


def _link(release: Release) -> str:
    page = f"{_index().rstrip('/')}/{release.project}/"
    links = _Links()
    links.feed(_get(page).decode("utf-8", "replace"))
    if release.file not in links.found:
        sys.exit(f"error: the package index has no {release.file}\n  next: use an index that mirrors the public one")
    return urllib.parse.urljoin(page, links.found[release.file])


def _index() -> str:
    """The index that pip on this machine uses."""
    if os.environ.get("PIP_INDEX_URL"):
        return os.environ["PIP_INDEX_URL"]
    set_ = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    if set_.returncode == 0 and set_.stdout.strip():
        return set_.stdout.strip()
    default = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    return subprocess.run([sys.executable, "-c", default], capture_output=True, text=True, check=True).stdout.strip()


def _get(url: str) -> bytes:
    if not url.startswith(("https://", "http://", "file://")):
        sys.exit(f"error: not a web address: {url}")
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:
            return bytes(answer.read())
    except OSError as error:
        address = url.partition("#")[0]
        sys.exit(f"error: cannot fetch {address}: {error}\n  next: check the network and pip's index settings")
