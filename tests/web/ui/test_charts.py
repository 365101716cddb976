"""Charts: true proportions, complete labels, inert text."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.web.ui import charts
from codellama_proxy.web.ui.charts import Bar, Column

amounts = st.sampled_from([0, 0, 1, 10**12]) | st.integers(min_value=0, max_value=10**12)


def parsed(markup: str) -> ET.Element:
    return ET.fromstring(markup)


def percent(element: ET.Element, name: str) -> float:
    return float(element.get(name, "0").rstrip("%"))


def form(value: float) -> str:
    return f"{value:.6g}"


def column_elements(markup: str) -> list[ET.Element]:
    return [element for element in parsed(markup).iter() if element.get("class") == "col"]


def drawn(column: ET.Element) -> list[ET.Element]:
    return [rect for rect in column.iter("rect") if rect.get("class") not in ("hit", "hatch")]


@given(st.integers(min_value=0, max_value=8), st.data())
def test_columns_are_stacked_in_proportion_and_stay_inside(count: int, data: st.DataObject) -> None:
    parts = charts.series([f"model-{at}" for at in range(count)])
    values = data.draw(st.lists(st.lists(amounts, min_size=count, max_size=count), min_size=1, max_size=9))
    columns = [Column(f"c{at}", tuple(row)) for at, row in enumerate(values)]
    found = column_elements(charts.stacked(columns, parts, form, "t"))
    assert len(found) == len(columns)
    top = charts.axis(max(map(sum, values))).top
    for column, element in zip(columns, found, strict=True):
        rects = drawn(element)
        assert len(rects) == sum(value > 0 for value in column.values)
        heights = [percent(rect, "height") for rect in rects]
        total = sum(column.values)
        expected = 0 if total == 0 else max(100 * total / top, charts.MIN_COLUMN_PERCENT)
        assert sum(heights) == pytest.approx(expected, abs=0.02)
        for rect in rects:
            assert percent(rect, "y") >= -0.001
            assert percent(rect, "y") + percent(rect, "height") <= 100.01


@given(st.integers(1, 10**18))
def test_the_axis_is_round_and_whole_and_not_below_the_largest(largest: int) -> None:
    scale = charts.axis(largest)
    assert scale.top >= largest * 0.999
    assert scale.ticks[0] == 0
    assert scale.ticks[-1] == pytest.approx(scale.top)
    assert all(tick == round(tick) for tick in scale.ticks)
    assert 2 <= len(scale.ticks) <= 6
    assert len(scale.ticks) > 2 or largest == 1


def test_an_empty_chart_has_an_axis() -> None:
    assert len(column_elements(charts.stacked([], [], form, "nothing"))) == 0
    assert charts.axis(0) == (1.0, (0.0, 1.0))


def test_a_column_is_a_link_that_says_all_its_values() -> None:
    columns = [
        Column("Mon", (1.0, 2.0), "Mon", "requests?start=1&end=2"),
        Column("Tue", (0.0, 4.0), unfinished=True),
    ]
    parts = charts.series(["claude", "gpt-4"])
    first, last = column_elements(charts.stacked(columns, parts, form, "Spend"))
    assert (first.tag, last.tag) == ("a", "g")
    assert first.get("href") == "requests?start=1&end=2"
    assert first.get("aria-label") == "Mon: 3; claude 1; gpt-4 2"
    assert last.get("aria-label") == "Tue: 4; gpt-4 4; not complete yet"
    tip: dict[str, Any] = orjson.loads(first.get("data-tip", ""))
    assert tip["label"] == "Mon"
    assert [row[1:] for row in tip["rows"]] == [["gpt-4", "2"], ["claude", "1"]]
    assert [element.get("class") for element in last.iter("rect")][-1] == "hatch"


def test_one_column_is_a_tab_stop() -> None:
    found = column_elements(
        charts.stacked([Column(str(at), (1,)) for at in range(56)], charts.series(["a"]), form, "t")
    )
    assert [element.get("tabindex") for element in found].count("0") == 1


def test_text_of_others_is_inert() -> None:
    bad = "\"><script>alert(1)</script>'&"
    columns = [Column(bad, (1.0,), bad, f"requests?q={bad}")]
    markup = charts.stacked(columns, charts.series([bad]), form, bad) + charts.table(
        columns, charts.series([bad]), form, bad
    )
    assert "<script" not in markup
    (element,) = column_elements(charts.stacked(columns, charts.series([bad]), form, bad))
    assert element.get("href") == f"requests?q={bad}"
    assert bad in (element.get("aria-label") or "")


def test_markup_has_no_styles_and_no_scripts() -> None:
    columns = [Column("a", (1.0, 2.0), "a", "x", True)]
    whole = charts.stacked(columns, charts.series(["a", "b"]), form, "t") + charts.meter(0.5, 0.7, 0.1)
    assert not re.search(r"\bstyle=|\bon\w+=|viewBox", whole)


@given(st.lists(st.text(max_size=8), unique=True, max_size=12))
def test_series_have_colours_of_their_own_while_there_are_any(names: list[str]) -> None:
    found = charts.series([name for name in names if name != charts.OTHER][: charts.MAX_SERIES])
    assert len({one.slot for one in found}) == len(found)
    assert all(0 <= one.slot < charts.MAX_SERIES for one in found)


def test_a_series_keeps_its_colour_among_others() -> None:
    alone = charts.series(["claude"])[0].slot
    assert charts.series(["claude", "gpt-4", "codellama"])[0].slot == alone
    assert charts.series([charts.OTHER])[0].slot == charts.MAX_SERIES


def test_a_table_has_every_number() -> None:
    columns = [Column("Mon", (1.0, 2.0)), Column("Tue", (0.0, 4.0))]
    rows = list(parsed(charts.table(columns, charts.series(["a", "b"]), form, "Spend")).iter("tr"))
    assert [[cell.text for cell in row] for row in rows] == [
        ["Time", "a", "b", "Total"],
        ["Mon", "1", "2", "3"],
        ["Tue", "0", "4", "4"],
    ]


@given(st.lists(amounts, max_size=60))
def test_sparks_stay_inside(values: list[int]) -> None:
    rects = list(parsed(charts.spark(values)).iter("rect"))
    assert len(rects) == sum(value > 0 for value in values)
    assert all(percent(rect, "y") >= 0 and percent(rect, "height") <= 100 for rect in rects)


@given(*[st.floats(min_value=-1, max_value=3)] * 3)
def test_meters_stay_inside(share: float, mark: float, held: float) -> None:
    for rect in parsed(charts.meter(share, mark, held)).iter("rect"):
        if rect.get("class") != "mark":
            assert 0 <= percent(rect, "x") + percent(rect, "width") <= 100.02


def test_attempts_stand_at_their_true_place() -> None:
    whole, first, second = (
        parsed(bar)
        for bar in charts.timeline(
            [Bar(0, 1000, 0, "whole"), Bar(0, 250, 0, "fail"), Bar(500, 100, 400, "ok")]
        )
    )
    assert percent(whole.findall("rect")[1], "width") == 100
    assert percent(first.findall("rect")[1], "width") == 25
    waited, streamed = second.findall("rect")[1:]
    assert [percent(waited, "x"), percent(waited, "width")] == [50, 10]
    assert [percent(streamed, "x"), percent(streamed, "width")] == [60, 40]


@given(st.lists(st.tuples(*[st.floats(min_value=0, max_value=1e7)] * 3), min_size=1, max_size=6))
def test_bars_stay_inside(bars: list[tuple[float, float, float]]) -> None:
    for markup in charts.timeline(Bar(*bar, "ok") for bar in bars):
        for rect in parsed(markup).findall("rect")[1:]:
            assert percent(rect, "x") >= 0
            assert percent(rect, "x") + percent(rect, "width") <= 100.02
