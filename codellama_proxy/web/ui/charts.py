"""Charts as SVG markup: pure functions of numbers.

Positions are percentages without a `viewBox`, so text is never stretched. Colours come from classes only. Columns are
links with a label for screen readers; one of them is a tab stop, and the page's script moves it with the arrow keys.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import orjson
from markupsafe import Markup, escape

MAX_SERIES = 7
"""Colours of series; further series are summed as `OTHER`, in a grey of its own."""
OTHER = "other"
MIN_COLUMN_PERCENT = 0.6
"""Height of a column that has anything, so that it can be seen."""

MAX_TICK_PERCENT = 95.0
"""The text of a tick that begins further right would leave the chart."""

Format = Callable[[float], str]


class Column(NamedTuple):
    label: str
    """For people: `Tue 17 Nov, 14:00 UTC`."""
    values: tuple[float, ...]
    """One for each series, none negative."""
    tick: str = ""
    """Text under the axis, at the column's left edge."""
    href: str = ""
    unfinished: bool = False
    """The column's time is not over."""


class Series(NamedTuple):
    name: str
    slot: int
    """The number of its colour: a class `s0` … `s7`."""


class Axis(NamedTuple):
    top: float
    ticks: tuple[float, ...]


class Bar(NamedTuple):
    """One line of a timeline, in milliseconds since its start."""

    at: float
    waited: float
    """Until the first event."""
    streamed: float
    kind: str
    """A class: `ok`, `fail`, `whole`."""


# --- series ------------------------------------------------------------------------------------------------


def series(names: Sequence[str]) -> list[Series]:
    """Series with a colour that depends on the name; of two with the same one, the earlier keeps it."""
    taken: set[int] = set()
    found = []
    for name in names:
        slot = MAX_SERIES if name == OTHER else _slot(name, taken)
        taken.add(slot)
        found.append(Series(name, slot))
    return found


def _slot(name: str, taken: set[int]) -> int:
    wanted = zlib.crc32(name.encode("utf-8", "surrogatepass")) % MAX_SERIES
    order = ((wanted + step) % MAX_SERIES for step in range(MAX_SERIES))
    return next((slot for slot in order if slot not in taken), MAX_SERIES)


def axis(largest: float, steps: int = 4) -> Axis:
    """A round number that is not below `largest`, and the ticks from zero to it: whole numbers, as the amounts are."""
    if largest <= 0:
        return Axis(1.0, (0.0, 1.0))
    base = 10.0 ** math.floor(math.log10(largest / steps))
    sizes = (n * base for n in (1, 2, 2.5, 5, 10, 20))
    step = next((one for one in sizes if one.is_integer() and one * steps >= largest * 0.9999), 1.0)
    last = math.ceil(largest / step - 1e-9)
    return Axis(step * last, tuple(step * number for number in range(last + 1)))


# --- columns -----------------------------------------------------------------------------------------------


def stacked(
    columns: Sequence[Column],
    parts: Sequence[Series],
    form: Format,
    title: str,
    axis_form: Callable[[Sequence[float]], Format] | None = None,
    steps: int = 4,
) -> Markup:
    """Stacked columns over a zero-based axis; `axis_form` makes the format of the ticks from all of them."""
    largest = max((sum(column.values) for column in columns), default=0)
    scale = axis(largest, steps)
    ticks = axis_form(scale.ticks) if axis_form is not None else form
    # Of a chart with nothing in it, only zero says anything.
    labels = "".join(
        f"<li>{escape(ticks(tick)) if largest or not tick else ''}</li>" for tick in reversed(scale.ticks)
    )
    drawn = "".join(
        (
            _HATCH,
            *(_grid_line(100 - 100 * tick / scale.top) for tick in scale.ticks[1:]),
            *(
                _tick(column.tick, 100 * at / len(columns))
                for at, column in enumerate(columns)
                if column.tick and 100 * at / len(columns) <= MAX_TICK_PERCENT
            ),
            *(_column(at, columns, parts, form, scale.top) for at in range(len(columns))),
        )
    )
    return _markup(
        f'<div class="chart"><ol class="yaxis" aria-hidden="true">{labels}</ol><div class="plot">'
        f'<svg class="stack" role="group" aria-label="{escape(title)}" width="100%" height="100%">{drawn}</svg>'
        "</div></div>"
    )


def table(columns: Sequence[Column], parts: Sequence[Series], form: Format, caption: str) -> Markup:
    """The numbers of `stacked` as a table."""
    head = Markup("").join(Markup('<th scope="col" class="num">{}</th>').format(part.name) for part in parts)
    rows = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}<td class="num">{}</td></tr>').format(
            column.label,
            Markup("").join(Markup('<td class="num">{}</td>').format(form(value)) for value in column.values),
            form(sum(column.values)),
        )
        for column in columns
    )
    return Markup(
        '<table class="numbers"><caption>{}</caption><thead><tr><th scope="col">Time</th>{}'
        '<th scope="col" class="num">Total</th></tr></thead><tbody>{}</tbody></table>'
    ).format(caption, head, rows)


def spark(values: Sequence[float], css: str = "") -> Markup:
    """Small columns without labels, beside a figure that says it."""
    largest, width = max(values, default=0) or 1, 100 / max(len(values), 1)
    bars = [
        _rect(at * width, width * 0.72, 100 - height, height)
        for at, value in enumerate(values)
        if (height := max(100 * value / largest, 2.0 if value > 0 else 0.0)) > 0
    ]
    opening = f'<svg class="spark {escape(css)}" aria-hidden="true" width="100%" height="28">'
    return _markup(f"{opening}{''.join(bars)}</svg>")


def _column(at: int, columns: Sequence[Column], parts: Sequence[Series], form: Format, top: float) -> str:
    column, width = columns[at], 100 / len(columns)
    said = [(part, form(value)) for part, value in zip(parts, column.values, strict=True) if value > 0]
    total = form(sum(column.values))
    name = "; ".join(
        [f"{column.label}: {total}", *(f"{part.name} {text}" for part, text in said)]
        + (["not complete yet"] if column.unfinished else [])
    )
    tip = {
        "label": column.label,
        "total": total,
        "rows": [(part.slot, part.name, text) for part, text in reversed(said)],
    }
    tag, link = ("a", f' href="{escape(column.href)}"') if column.href else ("g", ' role="img"')
    stop = "0" if at == len(columns) - 1 else "-1"
    return (
        f'<{tag}{link} class="col" tabindex="{stop}" aria-label="{escape(name)}" '
        f'data-tip="{escape(orjson.dumps(tip).decode())}">{_rect(at * width, width, 0, 100, "hit")}'
        f"{_stack(column, parts, at * width, width, _gap(len(columns)), top)}</{tag}>"
    )


def _stack(column: Column, parts: Sequence[Series], x: float, width: float, gap: float, top: float) -> str:
    """The values of a column, one upon the other."""
    total = sum(column.values)
    if total <= 0:
        return ""
    left, inner, y = x + width * gap / 2, width * (1 - gap), 100.0
    whole = max(100 * total / top, MIN_COLUMN_PERCENT)
    rects = []
    for part, value in zip(parts, column.values, strict=True):
        if value > 0:
            height = min(whole * value / total, y)
            y -= height
            rects.append(_rect(left, inner, y, height, f"s{part.slot}"))
    if column.unfinished:
        rects.append(_rect(left, inner, y, 100 - y, "hatch"))
    return "".join(rects)


def _gap(columns: int) -> float:
    """The part of a column's width that separates it from the next."""
    return 0.12 if columns >= 100 else min(0.22, 0.06 + columns * 0.0012)


# Defined in every chart; the pattern of all is the same.
_HATCH = (
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="hatch-line" width="3" height="6"/></pattern></defs>'
)


def _grid_line(y: float) -> str:
    return f'<line class="grid" x1="0" x2="100%" y1="{y:.2f}%" y2="{y:.2f}%"/>'


def _tick(text: str, x: float) -> str:
    return f'<text class="tick" x="{x:.3f}%" y="100%" dy="17">{escape(text)}</text>'


def _rect(x: float, width: float, y: float, height: float, css: str = "") -> str:
    return f'<rect class="{css}" x="{x:.3f}%" width="{width:.3f}%" y="{y:.3f}%" height="{height:.3f}%"/>'


def _markup(text: str) -> Markup:
    """Text that was put together from markup of this module, numbers and escaped text: faster than `Markup.format`."""
    return Markup(text)  # noqa: S704 - see above


# --- bars --------------------------------------------------------------------------------------------------


def meter(share: float, mark: float | None = None, held: float = 0.0, css: str = "") -> Markup:
    """How much of something is used (0 to 1) and held besides; `mark` is where it is headed."""
    used = _percent(share)
    more = min(_percent(held), 100 - used)
    marked = Markup("")
    if mark is not None:
        form = Markup('<rect class="mark" x="{}%" width="2" height="100%"/>')
        marked = form.format(f"{min(_percent(mark), 99.0):.2f}")
    return Markup(
        '<svg class="meter {}" aria-hidden="true" width="100%" height="6">'
        '<rect class="track" width="100%" height="100%" rx="3"/>'
        '<rect class="held" x="{}%" width="{}%" height="100%"/>'
        '<rect class="fill" width="{}%" height="100%" rx="3"/>{}</svg>'
    ).format(css, f"{used:.2f}", f"{more:.2f}", f"{used:.2f}", marked)


def timeline(bars: Iterable[Bar]) -> list[Markup]:
    """One bar for each, at its true place on a common scale: waiting dark, streaming light."""
    lines = list(bars)
    whole = max((bar.at + bar.waited + bar.streamed for bar in lines), default=0.0) or 1.0
    return [_bar(bar, whole) for bar in lines]


def _bar(bar: Bar, whole: float) -> Markup:
    width = max(100 * bar.waited / whole, 0.35)
    x = min(100 * max(bar.at, 0.0) / whole, 100 - width)
    streamed = min(max(100 * bar.streamed / whole, 0.0), 100 - x - width)
    stream = Markup("")
    if streamed > 0:
        form = Markup('<rect class="stream" x="{}%" width="{}%" height="14"/>')
        stream = form.format(f"{x + width:.2f}", f"{streamed:.2f}")
    return Markup(
        '<svg class="wf {}" aria-hidden="true" width="100%" height="14">'
        '<rect class="rail" width="100%" y="6.5" height="1"/>'
        '<rect class="bar" x="{}%" width="{}%" height="14"/>{}</svg>'
    ).format(bar.kind, f"{x:.2f}", f"{width:.2f}", stream)


def _percent(share: float) -> float:
    return 100 * min(max(share, 0.0), 1.0)
