"""Trails that cannot be altered unnoticed, and secrets that never reach them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import re._parser as sre  # type: ignore[import-not-found] # the only way to look at a pattern's structure
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gloveport.errors import BackendUnavailable, Conflict, Internal, InvalidRequest, LimitExceeded
from gloveport.model import Event, EventKind
from gloveport.store import GENESIS, MASK, Redactor, Trail, read_trail, verify_trail
from gloveport.store.redact import SHAPES

from ..conftest import PATIENCE, files_no_larger_than  # noqa: TID252 - tests are no package of ours

SAMPLES = {
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "aws temporary": "ASIAIOSFODNN7EXAMPLE",
    "anthropic": "sk-ant-" + "api03-" + "AbCdEf0123456789" * 2,
    "openai": "sk-" + "a1B2c3D4" * 6,
    "github": "ghp_" + "a1B2" * 9,
    "github fine-grained": "github_pat_" + "11ABCDEFG0_" + "a1B2" * 9,
    "gitlab": "glpat-abcdefghij0123456789",
    "slack": "xoxb-123456789012-abcdef",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.SflKxwRJSMeKKF2QT4fw",
    "key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
    "mail": "alice@example.org",
    "url": "://deploy:hunter2hunter2@",
}
PLAIN = [name for name in SAMPLES if name != "url"]
"""Those that are masked whole; of an address the host is kept."""
AROUND = st.text(st.sampled_from('aZ0n\\"\n\t _-.@:/+%[]{}é')) | st.text()
"""Text around a secret: mostly what could pass for a part of it, or of an encoding."""
LARGE = 2**20


def written(path: Path, count: int = 5) -> list[Event]:
    """Records, each with something that is masked."""
    events: list[Event] = []
    trail = Trail(path, listener=events.append)
    for number in range(count):
        trail.append(EventKind.EXEC_STARTED, {"exec": number, "argv": ["echo", f"é\nbob@example.com {SAMPLES['key']}"]})
    trail.close()
    return events


def in_everything(value: object) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from in_everything(item)
    elif isinstance(value, list):
        for item in value:
            yield from in_everything(item)


@contextmanager
def device_instead_of(path: Path, device: str, flags: int) -> Iterator[None]:
    """Everything this process writes to the open file `path` goes to a device, opened with `flags`."""
    (descriptor,) = (
        int(entry.name)
        for entry in Path("/proc/self/fd").iterdir()
        if os.path.realpath(f"/proc/self/fd/{entry.name}") == str(path)
    )
    kept, other = os.dup(descriptor), os.open(device, flags)
    try:
        os.dup2(other, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(other)


def test_events_come_back_as_they_were_written(tmp_path: Path) -> None:
    events = written(tmp_path / "t")
    assert list(read_trail(tmp_path / "t")) == events
    assert [event.sequence for event in events] == list(range(5))
    assert events[0].previous == GENESIS
    assert events[3].previous == events[2].hash
    assert verify_trail(tmp_path / "t") == 5


def test_a_trail_is_private_and_never_overwrites_another(tmp_path: Path) -> None:
    written(tmp_path / "t")
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict):
        Trail(tmp_path / "t")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_anywhere_is_found_at_its_record(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("trail") / "t"
    written(path)
    raw = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    record = raw[:position].count(b"\n")
    path.write_bytes(raw)
    with pytest.raises(InvalidRequest) as caught:
        verify_trail(path)
    assert caught.value.context["record"] <= record
    assert caught.value.context["record"] >= record - 1


def test_a_record_taken_out_is_found(tmp_path: Path) -> None:
    written(tmp_path / "t")
    lines = (tmp_path / "t").read_bytes().splitlines(keepends=True)
    (tmp_path / "t").write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(InvalidRequest) as caught:
        verify_trail(tmp_path / "t")
    assert caught.value.context["record"] == 2


def test_an_end_that_was_cut_off_is_found(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "t")
    trail.append(EventKind.RUN_STARTED, {"by": SAMPLES["mail"]})
    trail.append(EventKind.RUN_ENDED, {"by": SAMPLES["mail"]})
    trail.close()
    assert verify_trail(tmp_path / "t", ends=[EventKind.RUN_ENDED]) == 2
    lines = (tmp_path / "t").read_bytes().splitlines(keepends=True)
    (tmp_path / "t").write_bytes(lines[0])
    with pytest.raises(InvalidRequest) as caught:
        verify_trail(tmp_path / "t", ends=[EventKind.RUN_ENDED])
    assert caught.value.context["record"] == 1


def test_a_trail_that_is_gone_is_found(tmp_path: Path) -> None:
    for look in (verify_trail, lambda path: list(read_trail(path))):
        with pytest.raises(InvalidRequest) as caught:
            look(tmp_path / "t")
        assert caught.value.context["record"] == 0


@pytest.mark.parametrize(
    "record",
    ["[]", "{", "nonsense \\", '{"sequence":0}', '{"sequence":0,"previous":"PREVIOUS"}', "[" * 100_000, "\xff"],
)
def test_a_sealed_record_that_cannot_be_read_is_named(tmp_path: Path, record: str) -> None:
    """Whoever can write the file can seal anything."""
    sealed = record.replace("PREVIOUS", GENESIS).encode("latin-1")
    digest = hashlib.sha256(GENESIS.encode() + sealed).hexdigest()
    (tmp_path / "t").write_bytes(sealed + f',"hash":"{digest}"}}\n'.encode())
    with pytest.raises(InvalidRequest) as caught:
        verify_trail(tmp_path / "t")
    assert caught.value.context["record"] == 0


@pytest.mark.parametrize("room", [0, 1, 7, 200])
def test_a_record_that_does_not_fit_is_an_error_and_leaves_the_chain_whole(tmp_path: Path, room: int) -> None:
    trail = Trail(tmp_path / "t")
    trail.append(EventKind.RUN_STARTED, {})
    with files_no_larger_than((tmp_path / "t").stat().st_size + room), pytest.raises(LimitExceeded):
        trail.append(EventKind.PROMPT, {"text": "x" * 1000})
    assert verify_trail(tmp_path / "t") == 1
    trail.append(EventKind.RUN_ENDED, {})
    trail.close()
    assert verify_trail(tmp_path / "t", ends=[EventKind.RUN_ENDED]) == 2


def test_a_full_disk_is_a_limit_and_a_broken_one_a_failure_of_the_backend(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "t")
    trail.append(EventKind.RUN_STARTED, {})
    with device_instead_of(tmp_path / "t", "/dev/full", os.O_WRONLY), pytest.raises(LimitExceeded):
        trail.append(EventKind.PROMPT, {})
    with device_instead_of(tmp_path / "t", "/dev/null", os.O_RDONLY), pytest.raises(BackendUnavailable):
        trail.append(EventKind.PROMPT, {})
    trail.append(EventKind.RUN_ENDED, {})
    trail.close()
    assert verify_trail(tmp_path / "t", ends=[EventKind.RUN_ENDED]) == 2


def test_a_piece_that_could_not_be_taken_back_is_taken_back_by_the_next_record(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "t")
    trail.append(EventKind.RUN_STARTED, {})
    with device_instead_of(tmp_path / "t", "/dev/full", os.O_WRONLY), pytest.raises(LimitExceeded):
        trail.append(EventKind.PROMPT, {})
    with (tmp_path / "t").open("ab") as file:
        file.write(b'{"sequence":1,"ti')
    with pytest.raises(InvalidRequest, match="record 1 is torn"):
        verify_trail(tmp_path / "t")
    trail.append(EventKind.RUN_ENDED, {})
    trail.close()
    assert verify_trail(tmp_path / "t", ends=[EventKind.RUN_ENDED]) == 2


def test_an_event_that_is_no_json_is_an_error_and_leaves_the_chain_whole(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "t")
    with pytest.raises(Internal):
        trail.append(EventKind.PROMPT, {"text": b"bytes"})
    trail.append(EventKind.RUN_ENDED, {})
    trail.close()
    assert verify_trail(tmp_path / "t", ends=[EventKind.RUN_ENDED]) == 1


def test_a_listener_that_fails_leaves_the_chain_whole(tmp_path: Path) -> None:
    def refuse(event: Event) -> None:
        raise BrokenPipeError

    trail = Trail(tmp_path / "t", listener=refuse)
    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            trail.append(EventKind.PROMPT, {})
    trail.close()
    assert verify_trail(tmp_path / "t") == 2


@pytest.mark.parametrize("name", sorted(SAMPLES))
@settings(max_examples=100, deadline=None)
@given(before=AROUND, after=AROUND)
@example(before="x\n", after="")
@example(before='"\\', after='"\\"')
@example(before="a", after="a")
@example(before="_9", after="_9")
@example(before="AKIA", after="AKIA")
@example(before="a@b.co", after="@b.co")
@example(before=".1" * 200, after=".1" * 200)
def test_what_looks_like_a_credential_is_not_written(
    tmp_path_factory: pytest.TempPathFactory, before: str, name: str, after: str
) -> None:
    secret = SAMPLES[name]
    text = before + secret + after
    path = tmp_path_factory.mktemp("trail") / "t"
    heard: list[Event] = []
    trail = Trail(path, listener=heard.append)
    trail.append(EventKind.RUN_STARTED, {})
    trail.append(EventKind.PROMPT, {"text": text, "nested": [{text: text, "argv": (text,)}]})
    trail.append(EventKind.RUN_ENDED, {})
    trail.close()
    raw = path.read_text("ascii")
    assert verify_trail(path, ends=[EventKind.RUN_ENDED]) == 3
    assert list(read_trail(path)) == heard
    assert secret not in raw
    assert json.dumps(secret)[1:-1] not in raw
    for line in raw.splitlines():
        assert not [found for found in in_everything(json.loads(line)) if secret in found]


@pytest.mark.parametrize("name", PLAIN)
def test_what_stands_around_a_credential_is_kept(name: str) -> None:
    assert Redactor().text(f"before {SAMPLES[name]} after") == f"before {MASK} after"


def test_the_host_of_an_address_is_kept() -> None:
    assert Redactor().text("https://deploy:hunter2@example.com/x") == f"https://{MASK}@example.com/x"
    assert Redactor().text("redis://:hunter2@localhost:6379") == f"redis://{MASK}@localhost:6379"


@given(
    secret=st.text(min_size=6, max_size=40).filter(lambda text: text.strip() and MASK not in text),
    before=AROUND,
    after=AROUND,
)
def test_a_known_secret_is_masked_in_any_text_whatever_it_is_made_of(secret: str, before: str, after: str) -> None:
    redactor = Redactor([secret])
    assert secret not in redactor.text(f"{before}{secret}{after}").replace(MASK, "\0" * 40)
    assert json.dumps(secret)[1:-1] not in redactor.text(json.dumps([f"a{secret}z"])).replace(MASK, "\0" * 40)
    masked = redactor.value({secret: [f"{secret}!"]})
    assert not [text for text in in_everything(masked) if secret in text.replace(MASK, "\0" * 40)]


def test_no_key_is_lost_when_several_are_masked() -> None:
    keys = [f"{number}@example.org" for number in range(3)]
    forged = {f"{MASK} {number}": "forged" for number in range(6)}
    masked = Redactor().value({**forged, **dict.fromkeys(keys, "kept")})
    assert sorted(masked.values()) == ["forged"] * 6 + ["kept"] * 3


def test_what_is_nested_without_end_is_masked() -> None:
    endless: list[object] = ["x"]
    endless.append(endless)
    assert MASK in json.dumps(Redactor().value(endless))


def test_ordinary_values_are_left_alone() -> None:
    value = {
        "argv": ["git", "log", "--format=%H", "lodash@4.17.21", "task-force", "disk-0123456789abcdef"],
        "url": "https://host:8080/path?q=1",
        "sha256": hashlib.sha256(b"").hexdigest(),
        "n": 3,
        "x": 0.5,
        "none": None,
        "yes": True,
    }
    assert Redactor().value(value) == value


UNBOUNDED = {sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT}
BOUND = 200


def parts_of(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every operation of a parsed pattern."""
    for operation, argument in tree:
        yield operation, argument
        for inner in argument if isinstance(argument, tuple | list) else ():
            if isinstance(inner, sre.SubPattern):
                yield from parts_of(inner)
            elif isinstance(inner, list):
                for branch in inner:
                    yield from parts_of(branch if isinstance(branch, sre.SubPattern) else [])


@pytest.mark.parametrize(("mark", "shape"), SHAPES, ids=[mark for mark, _ in SHAPES])
def test_no_shape_of_a_secret_can_go_back_over_what_it_took(mark: str, shape: re.Pattern[str]) -> None:
    """A repeat without a bound either gives nothing back, or takes as little as it can and always succeeds.

    None begins with a repeat: it would be tried from each character of a long name again.
    """
    assert next(iter(sre.parse(shape.pattern)))[0] not in UNBOUNDED
    for operation, argument in parts_of(sre.parse(shape.pattern)):
        if operation not in UNBOUNDED or argument[1] <= BOUND:
            continue
        if operation is sre.MIN_REPEAT:
            assert shape.pattern.endswith(r"|\Z)"), "it ends at the end of the text at the latest"
        else:
            assert operation is sre.POSSESSIVE_REPEAT


HOSTILE = {
    "one long name, then labels": "a" * (LARGE // 2) + "@" + "1." * (LARGE // 4),
    "names without an end": "a@1.1.1." * (LARGE // 8),
    "one name": "a" * LARGE + "@",
    "ends only": "@" * LARGE,
    "addresses": "://a:" * (LARGE // 5) + "@",
    "one address": "://" + "a" * LARGE + ":" + "b" * LARGE,
    "beginnings of keys": "-----BEGIN " * (LARGE // 11),
    "keys without an end": "-----BEGIN PRIVATE KEY-----" * (LARGE // 27),
    "one key with many ends": "-----BEGIN PRIVATE KEY-----" + "-----END " * (LARGE // 9),
    **{f"{mark} again and again": mark * (LARGE // len(mark)) for mark, _ in SHAPES},
    **{f"{mark} and a rest": f"{mark}aaaaaaa-" * (LARGE // (len(mark) + 8)) for mark, _ in SHAPES},
}


def test_what_a_guest_writes_cannot_make_masking_slow() -> None:
    """A second or so in all; a text of this size that is read once for each of its characters takes an hour."""
    code = (
        "import json, sys; from gloveport.store import Redactor; redactor = Redactor(['a known secret'])\n"
        "for text in json.load(sys.stdin): redactor.text(text)"
    )
    given = json.dumps(list(HOSTILE.values())).encode()
    subprocess.run([sys.executable, "-c", code], input=given, timeout=PATIENCE, check=True)


ODD_SECRET = 's\u00e9cret "quoted"\n'
MASKED = [
    ODD_SECRET,
    "AKIA" + "A" * 16,
    "ghp_" + "a" * 36,
    "sk-" + "a" * 32,
    "eyJ" + "a" * 30,
    "https://u:p@host",
    "bob@a.example",
    "-----BEGIN PRIVATE KEY-----x",
]


@given(st.text(max_size=40), st.sampled_from(MASKED), st.text(max_size=40))
def test_one_look_at_the_json_misses_nothing_that_is_masked(before: str, secret: str, after: str) -> None:
    redactor = Redactor([ODD_SECRET])
    for data in ({"key": [f"{before}{secret}{after}"]}, {f"{before}{secret}{after}": 1}):
        if redactor.value(data) != data:
            assert redactor.may_hold(json.dumps(data))
    assert redactor.value([secret]) != [secret]
    assert not redactor.may_hold(json.dumps({"argv": ["/bin/true"], "sandbox": "calm-fox-1"}))
