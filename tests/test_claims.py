"""Every promise names the test or benchmark that proves it, or says "not tested"."""

from __future__ import annotations

import re
from operator import itemgetter
from pathlib import Path

from tests.rules import for_every

ROOT = Path(__file__).resolve().parent.parent
ID = r"(?:[PRC][0-9]+|[A-Z]+-[a-z]+)"
ROW = re.compile(rf"^\| *(?P<id>{ID}(?:[,\u2013] ?{ID})*) *\|(?P<claim>[^|]+)\|(?P<proof>[^|]+)\|", re.MULTILINE)
TEST = re.compile(r"`((?:tests|benchmarks|examples)/[\w/.-]+\.py)(?:::([\w\[\]-]+))?`")


def rows() -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "claims.md").read_text("utf-8")
    return [(m["id"], m["proof"]) for m in ROW.finditer(text)]


@for_every(rows(), itemgetter(0))
def test_the_proof_of_a_claim_exists(row: tuple[str, str]) -> None:
    claim, proof = row
    if "not tested" in proof:
        return
    found = TEST.findall(proof)
    assert found, f"{claim} names no test and does not say 'not tested': {proof}"
    for path, name in found:
        file = ROOT / path
        assert file.is_file(), f"{claim}: {path} does not exist"
        if name:
            text = file.read_text("utf-8")
            assert re.search(rf"\b(def|class) {re.escape(name.split('[')[0])}\b", text), f"{claim}: no {name} in {path}"


def test_claim_ids_are_unique() -> None:
    ids = [claim for claim, _ in rows()]
    assert len(ids) == len(set(ids)) > 0


def test_every_row_is_checked() -> None:
    text = (ROOT / "docs" / "claims.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith(("| ID |", "|---"))]
    assert [line[:40] for line in lines if not ROW.match(line)] == []
