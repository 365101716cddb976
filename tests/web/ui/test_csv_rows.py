"""CSV that reads back as it was, and that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.web.ui.csv_rows import FORMULA, cell, lines


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), max_size=5))
def test_text_reads_back_and_is_never_a_formula(rows: list[list[str]]) -> None:
    read = list(csv.reader(io.StringIO(lines(rows), newline="")))
    for row, found in zip(rows, read, strict=True):
        for value, shown in zip(row, found, strict=True):
            assert not shown.startswith(FORMULA)
            assert shown in (value, f"'{value}")
            assert (shown == value) == (not value.startswith(FORMULA))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (0, "0"),
        (-5, "-5"),
        (True, "True"),
        (1e-9, "0.000000001"),
        (0.5, "0.5"),
        ("=1", "'=1"),
        ("\N{FULLWIDTH EQUALS SIGN}1", "'\N{FULLWIDTH EQUALS SIGN}1"),
        (3.0, "3"),
    ],
)
def test_numbers_are_plain(value: object, shown: str) -> None:
    assert cell(value) == shown
