"""Trails that cannot be altered unnoticed, and secrets that never reach them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gloveport.errors import InvalidRequest, LimitExceeded
from gloveport.model import Event, EventKind
from gloveport.store import GENESIS, MASK, Redactor, Trail, read_trail, verify_trail

SAMPLES = {
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "anthropic": "sk-ant-REDACTED",
    "github": "ghp_" + "a1B2" * 9,
    "gitlab": "glpat-abcdefghij0123456789",
    "slack": "xoxb-123456789012-abcdef",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.SflKxwRJSMeKKF2QT4fw",
    "key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
    "mail": "alice@example.org",
}
SAMPLES["anthropic"] = "sk-ant-" + "api03-" + "AbCdEf0123456789" * 2


def written(path: Path, count: int = 5) -> list[Event]:
    trail = Trail(path)
    events = [
        trail.append(EventKind.EXEC_STARTED, {"exec": number, "argv": ["echo", "é\n"]}) for number in range(count)
    ]
    trail.close()
    return events


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
    with pytest.raises(FileExistsError):
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
    trail.append(EventKind.RUN_STARTED, {})
    trail.append(EventKind.RUN_ENDED, {})
    trail.close()
    assert verify_trail(tmp_path / "t", last=EventKind.RUN_ENDED) == 2
    lines = (tmp_path / "t").read_bytes().splitlines(keepends=True)
    (tmp_path / "t").write_bytes(lines[0])
    with pytest.raises(InvalidRequest) as caught:
        verify_trail(tmp_path / "t", last=EventKind.RUN_ENDED)
    assert caught.value.context["record"] == 1


def test_a_full_disk_is_an_error_and_leaves_the_chain_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trail = Trail(tmp_path / "t")
    trail.append(EventKind.RUN_STARTED, {})
    write = os.write
    monkeypatch.setattr("os.write", lambda descriptor, data: write(descriptor, data[:7]))
    with pytest.raises(LimitExceeded):
        trail.append(EventKind.PROMPT, {})
    monkeypatch.undo()
    trail.append(EventKind.RUN_ENDED, {})
    trail.close()
    assert verify_trail(tmp_path / "t", last=EventKind.RUN_ENDED) == 2


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_what_looks_like_a_credential_is_not_written(tmp_path: Path, name: str) -> None:
    secret = SAMPLES[name]
    trail = Trail(tmp_path / "t")
    event = trail.append(EventKind.PROMPT, {"text": f"before {secret} after", secret: ["x", secret]})
    trail.close()
    raw = (tmp_path / "t").read_text()
    assert secret.split("\n")[0][5:30] not in raw
    assert event.data["text"] == f"before {MASK} after"
    assert verify_trail(tmp_path / "t") == 1


@given(secret=st.text(min_size=6, max_size=40).filter(lambda text: text.strip() and MASK not in text))
def test_a_known_secret_is_masked_whatever_it_is_made_of(secret: str) -> None:
    redactor = Redactor([secret])
    assert secret not in redactor.text(f"a {secret} b").replace(MASK, "")
    masked = json.loads(redactor.text(json.dumps({"k": f"{secret}!"})))
    assert secret not in masked["k"].replace(MASK, "")


def test_ordinary_text_is_left_alone() -> None:
    text = json.dumps({"argv": ["git", "log", "--format=%H"], "url": "https://host/path?q=1", "n": 3})
    assert Redactor().text(text) == text
