"""Numbers, amounts and times as people read them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.money import NANOS
from codellama_proxy.web.ui import words
from codellama_proxy.web.ui.charts import axis

amounts = st.integers(min_value=0, max_value=10**15) | st.integers(min_value=0, max_value=3 * NANOS)


def shown(text: str) -> float:
    """The number that a reader sees; a bound counts as less than it."""
    number = float(re.sub(r"[^0-9.]", "", text))
    for unit, size in {"k": 1e3, "M": 1e6, "B": 1e9, " s": 1e3, " min": 6e4}.items():
        if text.endswith(unit):
            number *= size
    return number * 0.99 if "<" in text else number


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (None, "unpriced"),
        (0, "$0"),
        (1, "<$0.0001"),
        (49_999, "<$0.0001"),
        (50_000, "$0.0001"),
        (12_300_000, "$0.0123"),
        (999_949_999, "$0.9999"),
        (999_950_000, "$1.00"),
        (12_345_000_000, "$12.35"),
        (999_994_999_999, "$999.99"),
        (999_995_000_000, "$1,000"),
        (1_234_499_999_999, "$1,234"),
        (-12_345_000_000, f"{words.MINUS}$12.35"),
    ],
)
def test_amounts(nanos: int | None, text: str) -> None:
    assert words.usd(nanos) == text


@given(amounts, amounts)
def test_a_larger_amount_never_reads_as_less(one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert shown(words.usd(less)) <= shown(words.usd(more))


@given(st.integers(min_value=1, max_value=10**15), st.lists(amounts, max_size=5))
def test_something_never_reads_as_zero(nanos: int, others: list[int]) -> None:
    column = words.usd_column([nanos, *others])
    for text in (words.usd(nanos), column(nanos), words.share(nanos, 10**15 + 1), words.count(nanos)):
        assert re.search(r"[1-9]", text), text
    assert words.usd(nanos) != "$0"


@given(st.lists(st.integers(min_value=1, max_value=10**15), min_size=2, max_size=8))
def test_amounts_of_one_column_have_one_number_of_decimals(nanos: list[int]) -> None:
    column = words.usd_column(nanos)
    assert len({len(column(one).partition(".")[2]) for one in nanos}) == 1


def test_unknown_values_are_not_zero() -> None:
    unknown = [words.usd(None), words.usd_column([1])(None), words.count(None), words.duration(None)]
    assert not any("0" in text for text in [*unknown, words.price(None), str(words.when(None))])


def test_a_column_without_amounts_has_a_format() -> None:
    assert words.usd_column([])(0) == "$0"
    assert words.usd_column([None])(None) == "unpriced"


@given(st.integers(min_value=1, max_value=10**15))
def test_ticks_of_an_axis_are_exact_and_have_one_number_of_decimals(largest: int) -> None:
    scale = axis(largest)
    texts = [words.usd_axis(scale.ticks)(tick) for tick in scale.ticks]
    for text, tick in zip(texts, scale.ticks, strict=True):
        assert float(text.strip("$").replace(",", "")) == pytest.approx(tick / NANOS)
    assert len({len(text.partition(".")[2]) for text in texts[1:]}) == 1


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(400_000_000, "$0.40"), (776_000_000, "$0.776"), (15_000_000_000, "$15.00"), (0, "$0.00")],
)
def test_prices(nanos: int, text: str) -> None:
    assert words.price(nanos) == text


def test_exact_amounts_have_every_digit() -> None:
    assert words.usd_exact(40_800) == "0.0000408 USD"
    assert words.usd_exact(None) == "price unknown"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10.0k"),
        (99_949, "99.9k"),
        (99_950, "100k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (4_500_000, "4.5M"),
        (1_200_000_000, "1.2B"),
        (10**15, "1,000,000B"),
    ],
)
def test_counts(number: int, text: str) -> None:
    assert words.count(number) == text


@given(*[st.integers(min_value=0, max_value=10**16)] * 2)
def test_a_larger_count_never_reads_as_less(one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert shown(words.count(less)) <= shown(words.count(more))


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0.0 ms"),
        (0.01, "<0.1 ms"),
        (5.46, "5.5 ms"),
        (9.96, "10 ms"),
        (823.2, "823 ms"),
        (999.6, "1.0 s"),
        (2_345, "2.3 s"),
        (90_000, "90.0 s"),
        (100_000, "1.7 min"),
    ],
)
def test_durations(ms: float, text: str) -> None:
    assert words.duration(ms) == text


@given(*[st.floats(min_value=0, max_value=1e8)] * 2)
def test_a_longer_duration_never_reads_as_less(one: float, other: float) -> None:
    less, more = sorted((one, other))
    # Minutes are rounded to 6 s, seconds to 0.1 s.
    assert shown(words.duration(less)) <= shown(words.duration(more)) + 3_050


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, words.NONE),
        (0, 5, "0%"),
        (1, 10_000, "<0.1%"),
        (9_999, 10_000, ">99.9%"),
        (995, 1_000, "99.5%"),
        (5, 5, "100%"),
        (316, 14_500, "2.2%"),
        (53, 100, "53%"),
        (3, 2, "150%"),
    ],
)
def test_shares(part: int, whole: int, text: str) -> None:
    assert words.share(part, whole) == text


def test_changes() -> None:
    said = [words.change(now, 100) for now in (105, 88, 100.4, 0)]
    assert said == ["+5%", f"{words.MINUS}12%", "±0%", f"{words.MINUS}100%"]
    assert words.change(5, 0) is None


def test_times_are_utc_and_machine_readable() -> None:
    full = words.when(1_795_811_392.81, "full")
    assert full == (
        '<time datetime="2026-11-27T20:29:52.810Z" data-as="full">27 Nov 2026, 20:29:52 UTC</time>'
    )
    assert 'datetime="9999-12-31' in words.when(1e300)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59, "59 s"), (60, "1 min"), (7_300, "2 h"), (200_000, "2 d")]
)
def test_spans(seconds: float, text: str) -> None:
    assert words.span(seconds) == text


def test_plural_forms() -> None:
    assert [words.counted(n, "attempt") for n in (0, 1, 2)] == ["0 attempts", "1 attempt", "2 attempts"]
