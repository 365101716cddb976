"""Format money: integer nano-USD internally, USD in output. Nothing is rounded twice."""

from __future__ import annotations

NANOS = 1_000_000_000
"""Nano-USD in one USD."""


def usd(nanos: int | None) -> float | None:
    """As a JSON number: the nearest one, which prints as the exact decimal."""
    return None if nanos is None else nanos / NANOS


def usd_text(nanos: int | None) -> str | None:
    """Plain decimal, exact, never an exponent: `0.00123`."""
    if nanos is None:
        return None
    sign, whole, part = "-" if nanos < 0 else "", *divmod(abs(nanos), NANOS)
    return f"{sign}{whole}.{str(part).zfill(9)}".rstrip("0").rstrip(".")


def dollars(nanos: int) -> str:
    """For people, exact, with at least two decimals: `$1.25`."""
    sign, whole, rest = "-" if nanos < 0 else "", *divmod(abs(nanos), NANOS)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole}.{decimals}"
