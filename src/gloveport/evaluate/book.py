"""An evaluation's directory: what was asked, and one file an attempt, each written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from gloveport.errors import Conflict, NotFound, Unsupported
from gloveport.evaluate.result import Result, result_from_json, result_to_json
from gloveport.model import resolve_id
from gloveport.store import cannot_write, make_private, try_claim, whole_file

__all__ = ["Book", "Request", "find_book", "open_book"]

_REQUEST = "evaluation.json"
_FORMAT = 1
_NUMBER = re.compile(r"(\d+)\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an evaluation is to find out; a resumed one is held to it."""

    suite: str
    """The suite's directory."""
    tasks: Mapping[str, str]
    """Name → digest, of each task."""
    attempts: int = 1
    """At each task; at each script, where scripts play the model."""
    scripted: bool = False
    model: str | None = None
    replay: str | None = None
    """The directory of an evaluation whose attempts are replayed, in place of new ones."""
    level: str = "R2"
    """What is replayed: tool calls (R2), or the agent itself, its model played from a tape (R3)."""
    version: str = ""
    """Of Gloveport."""
    read_only: tuple[str, ...] = ()
    """Host paths that every sandbox of it shows."""
    env: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Book:
    """One evaluation's directory."""

    path: Path

    @property
    def id(self) -> str:
        """Its name."""
        return self.path.name

    @property
    def page(self) -> Path:
        """The report, as one HTML file."""
        return self.path / "report.html"

    def request(self) -> Request:
        """What was asked. Raises `NotFound` for a directory that holds no evaluation, `Unsupported` for a later one."""
        try:
            found = json.loads((self.path / _REQUEST).read_text("utf-8"))
            format_, fields = found.pop("format"), {**found, "read_only": tuple(found["read_only"])}
            request = Request(**fields)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise NotFound(
                f"{self.path} holds no evaluation", hint="name the directory that gloveport eval made"
            ) from error
        if format_ != _FORMAT:
            raise Unsupported(f"{self.path} is of another version of Gloveport", hint="read it with that version")
        return request

    def write(self, name: str, data: bytes) -> None:
        """A file of it, whole or not at all."""
        with whole_file(self.path / name) as file:
            file.write(data)

    def begin(self, request: Request) -> None:
        """Write down what is asked."""
        self.write(_REQUEST, json.dumps({"format": _FORMAT, **asdict(request)}, indent=2).encode() + b"\n")

    def save(self, result: Result, output: bytes = b"") -> None:
        """Write one attempt down, with what its check printed."""
        place = self._place(result.case)
        if output:
            with whole_file(place / f"{result.number}.log") as file:
                file.write(output)
        with whole_file(place / f"{result.number}.json") as file:
            file.write(json.dumps(result_to_json(result), indent=2).encode() + b"\n")

    def results(self) -> list[Result]:
        """Every attempt that is written down, by case and number. Raises `NotFound` for a file that is none."""
        found = []
        for path in sorted((self.path / "attempts").rglob("*.json")):
            if not _NUMBER.fullmatch(path.name):
                continue  # one that was being written when its writer died
            try:
                found.append(result_from_json(json.loads(path.read_text("utf-8"))))
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise NotFound(f"{path} is no attempt", hint="remove it, and resume the evaluation") from error
        return sorted(found, key=lambda result: (result.case, result.number))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold it: two who fill the same one would attempt everything twice. Raises `Conflict`."""
        lock = try_claim(self.path)
        if lock is None:
            raise Conflict(f"somebody works on the evaluation {self.id}", hint="wait until they have ended")
        try:
            yield
        finally:
            lock.release()

    def _place(self, case: str) -> Path:
        place = self.path / "attempts" / case
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(place, error) from error
        return place


def open_book(path: Path, request: Request) -> Book:
    """Begin an evaluation in a directory that does not exist yet, or is empty. Raises `Conflict` for another."""
    if path.exists() and any(path.iterdir()):
        raise Conflict(f"{path} is not empty", hint="name a new directory; an evaluation goes on with: eval resume DIR")
    book = Book(make_private(path))
    book.begin(request)
    return book


def find_book(data: Path, name: str) -> Book:
    """The evaluation of a directory, of a unique prefix of its id, or the newest (`last`)."""
    if "/" in name or (Path(name) / _REQUEST).is_file():
        book = Book(Path(name).absolute())
        book.request()
        return book
    root = data / "evaluations"
    known = {path.name: Book(path) for path in root.iterdir() if (path / _REQUEST).is_file()} if root.is_dir() else {}
    if name == "last" and known:
        return max(known.values(), key=lambda book: (book.path / _REQUEST).stat().st_mtime_ns)
    return known[resolve_id(name, known, noun="evaluation")]
