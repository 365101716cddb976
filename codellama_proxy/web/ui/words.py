"""Numbers, amounts and times as text for people. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

from markupsafe import Markup

from codellama_proxy.core.clock import iso_ms
from codellama_proxy.core.money import NANOS, usd_text
from codellama_proxy.limits.windows import LAST_MOMENT

NONE = "\N{EN DASH}"
"""In place of a value that is not known yet."""
UNPRICED = "unpriced"
MINUS = "\N{MINUS SIGN}"
_DAY = 86_400

TimeForm = Literal["time", "minute", "day", "full"]
_TIMES: dict[TimeForm, str] = {
    "time": "%H:%M:%S",
    "minute": "%d %b %H:%M",
    "day": "%d %b",
    "full": "%d %b %Y, %H:%M:%S UTC",
}

# --- money, in nano-USD ------------------------------------------------------------------------------------


def usd(nanos: int | None) -> str:
    """`$1,234`, `$12.34`, `$0.0123`, `<$0.0001`; `$0` is exactly nothing, and `None` is unpriced."""
    if nanos is None:
        return UNPRICED
    size = abs(nanos)
    if size >= 1000 * NANOS or _rounded(size, 2) >= 1000 * NANOS:
        return _dollars(nanos, 0)
    return _dollars(nanos, 2 if _rounded(size, 4) >= NANOS else 4)


def usd_column(amounts: Iterable[int | None]) -> Callable[[int | None], str]:
    """The format of a column, with one number of decimals: that of its largest amount."""
    decimals = _decimals(max((abs(amount) for amount in amounts if amount is not None), default=0))
    return lambda nanos: UNPRICED if nanos is None else _dollars(nanos, decimals)


def usd_axis(ticks: Sequence[float]) -> Callable[[float], str]:
    """The format of all ticks of an axis: one number of decimals, with which every tick is exact."""
    decimals = next((n for n in range(0, 12, 2) if all(_is_exact(tick, n) for tick in ticks)), 12)
    return lambda nanos: "$0" if nanos == 0 else f"${nanos / NANOS:,.{decimals}f}"


def _is_exact(nanos: float, decimals: int) -> bool:
    last: float = nanos / NANOS * float(10**decimals)
    return abs(last - round(last)) <= 1e-9 * last


def usd_exact(nanos: int | None) -> str:
    """Every digit, for a tooltip: `0.0000408 USD`."""
    return "price unknown" if nanos is None else f"{usd_text(nanos)} USD"


def price(nanos: int | None) -> str:
    """USD for a million tokens, at least two decimals and no zeros after them: `$0.40`, `$0.776`."""
    if nanos is None:
        return NONE
    whole, part = divmod(nanos, NANOS)
    return f"${whole:,}.{f'{part:09d}'.rstrip('0').ljust(2, '0')}"


def _decimals(largest: int) -> int:
    if largest >= 10_000 * NANOS:
        return 0
    return 2 if _rounded(largest, 4) >= NANOS else 4


def _dollars(nanos: int, decimals: int) -> str:
    if nanos == 0:
        return "$0"
    sign, size = MINUS if nanos < 0 else "", _rounded(abs(nanos), decimals)
    if size == 0:
        return f"{sign}<${10**-decimals:.{decimals}f}"
    whole, part = divmod(size, NANOS)
    return f"{sign}${whole:,}" + (f".{part:09d}"[: decimals + 1] if decimals else "")


def _rounded(nanos: int, decimals: int) -> int:
    """To the nearest multiple of the last decimal, halves up."""
    step: int = NANOS // 10**decimals
    return (nanos + step // 2) // step * step


# --- numbers -----------------------------------------------------------------------------------------------


def count(number: int | None) -> str:
    """`1,234`, `12.3k`, `4.5M`, `1.2B`."""
    if number is None:
        return NONE
    if number < 10_000:
        return f"{number:,}"
    for size, unit in ((1_000, "k"), (1_000_000, "M"), (1_000_000_000, "B")):
        tenths = (number * 10 + size // 2) // size
        if tenths < 1_000:
            return f"{tenths // 10}.{tenths % 10}{unit}"
        if (whole := (number + size // 2) // size) < 1_000 or unit == "B":
            return f"{whole:,}{unit}"
    raise AssertionError("the last unit takes every number")


def counted(number: int, noun: str) -> str:
    """`1 attempt`, `2 attempts`."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def duration(ms: float | None) -> str:
    """Milliseconds as `5.5 ms`, `823 ms`, `2.3 s`, `1.5 min`."""
    if ms is None:
        return NONE
    if 0 < ms < 0.05:
        return "<0.1 ms"
    if ms < 9.95:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s" if ms < 99_950 else f"{ms / 60_000:,.1f} min"


def share(part: float, whole: float) -> str:
    """A percentage: `2.2%`, `53%`; never `0%` or `100%` for what is only nearly that."""
    if whole <= 0:
        return NONE
    percent = 100 * part / whole
    if percent in (0, 100):
        return f"{percent:.0f}%"
    if percent < 0.1:
        return "<0.1%"
    if 99.9 < percent < 100:
        return ">99.9%"
    return f"{percent:.1f}%" if percent < 9.95 or 99 < percent < 100 else f"{percent:,.0f}%"


def change(now: float, before: float) -> str | None:
    """The difference from an earlier period: `+5%`, `±0%`; `None` if that had nothing."""
    if before <= 0:
        return None
    percent = 100 * (now - before) / before
    if abs(percent) < 0.5:
        return "±0%"
    return f"{'+' if percent > 0 else MINUS}{abs(percent):,.0f}%"


# --- times, in unix seconds --------------------------------------------------------------------------------


def when(at: float | None, form: TimeForm = "time") -> Markup | str:
    """A `<time>` element in UTC; the page's script may show it in the reader's time zone."""
    if at is None:
        return NONE
    moment = min(max(at, 0.0), LAST_MOMENT)
    text = datetime.fromtimestamp(moment, UTC).strftime(_TIMES[form])
    shown = f'<time datetime="{iso_ms(moment)}" data-as="{form}">{text}</time>'
    return Markup(shown)  # noqa: S704 - nothing in it comes from others


def span(seconds: float) -> str:
    """A length of time in its largest unit: `3 s`, `12 min`, `5 h`, `2 d`."""
    for size, unit in ((_DAY, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size):,} {unit}"
    return f"{max(int(seconds), 0)} s"


def ago(seconds: float) -> str:
    return f"{span(seconds)} ago"
