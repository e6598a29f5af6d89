"""A doctor's receipt: signed by this installation, readable by anybody, worth nothing once altered."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gloveport.doctor.attack import Attack, AttackKind, Finding, Outcome, Report
from gloveport.doctor.receipt import current_receipt, keep_receipt, verify_receipt, write_receipt
from gloveport.errors import Conflict, InvalidRequest

ATTACK = Attack(name="escape/x", kind=AttackKind.ESCAPE, guard="Landlock", run="kernel:power")


def report(outcome: Outcome = Outcome.HELD) -> Report:
    return Report(backend="bubblewrap", findings=[Finding(attack=ATTACK, outcome=outcome)], plan_digests={"plain": "d"})


def test_a_receipt_says_what_was_attacked_and_its_key_is_this_users_alone(tmp_path: Path) -> None:
    body = verify_receipt(keep_receipt(report(Outcome.SUCCEEDED), tmp_path, "1.2"))
    assert body["attacks"] == {"escape/x": "succeeded"}
    assert body["missing"] == ["Landlock"]
    assert (body["plans"], body["gloveport"]) == ({"plain": "d"}, "1.2")
    assert stat.S_IMODE((tmp_path / "receipts" / "key.pem").stat().st_mode) == 0o600


def test_one_installation_signs_with_one_key(tmp_path: Path) -> None:
    first, second = (json.loads(keep_receipt(report(), tmp_path, "1")) for _ in range(2))
    assert first["key"] == second["key"]


@pytest.mark.parametrize(
    "alter",
    [
        lambda whole: whole["receipt"]["missing"].append("x"),
        lambda whole: whole.update(signature=whole["signature"][:-4] + "AAA="),
        lambda whole: whole.pop("key"),
        lambda whole: whole.clear(),
    ],
)
def test_an_altered_receipt_is_none(tmp_path: Path, alter) -> None:
    whole = json.loads(keep_receipt(report(), tmp_path, "1"))
    alter(whole)
    with pytest.raises(InvalidRequest, match="altered"):
        verify_receipt(json.dumps(whole))


def test_a_run_is_told_of_the_last_receipt_and_whether_it_speaks_of_what_runs_now(tmp_path: Path) -> None:
    assert current_receipt(tmp_path, "bubblewrap", "1") is None
    keep_receipt(report(), tmp_path, "1")
    told = current_receipt(tmp_path, "bubblewrap", "1")
    assert told is not None
    assert (told["current"], told["counts"]["held"]) == (True, 1)
    later = current_receipt(tmp_path, "bubblewrap", "2")
    assert later is not None
    assert later["current"] is False
    kept = tmp_path / "receipts" / "bubblewrap.json"
    kept.write_text(kept.read_text().replace('"held": 1', '"held": 9'))
    assert current_receipt(tmp_path, "bubblewrap", "1") is None


def test_a_receipt_that_another_installation_signed_is_none_of_this_one(tmp_path: Path) -> None:
    keep_receipt(report(), tmp_path / "other", "1")
    keep_receipt(report(), tmp_path / "own", "1")
    kept = Path("receipts", "bubblewrap.json")
    (tmp_path / "own" / kept).write_text((tmp_path / "other" / kept).read_text())
    assert current_receipt(tmp_path / "own", "bubblewrap", "1") is None


@pytest.mark.parametrize("content", [b"", b"no key"])
def test_a_key_that_is_none_is_told_and_does_not_stop_a_run(tmp_path: Path, content: bytes) -> None:
    keep_receipt(report(), tmp_path, "1")
    (tmp_path / "receipts" / "key.pem").write_bytes(content)
    assert current_receipt(tmp_path, "bubblewrap", "1") is None
    with pytest.raises(InvalidRequest, match="not a signing key"):
        keep_receipt(report(), tmp_path, "1")


def test_two_at_once_sign_with_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        kept = [pool.submit(keep_receipt, report(), tmp_path, "1") for _ in range(16)]
        assert len({json.loads(each.result())["key"] for each in kept}) == 1


def test_looking_for_a_receipt_makes_nothing(tmp_path: Path) -> None:
    assert current_receipt(tmp_path, "bubblewrap", "1") is None
    assert list(tmp_path.iterdir()) == []


def test_a_receipt_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(Conflict):
        write_receipt("{}", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
