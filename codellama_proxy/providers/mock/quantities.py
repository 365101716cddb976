"""Numbers within the bounds of JSON Schemas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

MAX_EXACT_INTEGER = 2**53

Schema = Mapping[str, Any]


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a JSON number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def count(value: Any) -> int:
    """The value of a keyword such as `minItems`; 0 for anything but a positive number."""
    return int(value) if is_number(value) and 0 < value < MAX_EXACT_INTEGER else 0


def nearest_zero(schema: Schema, *, whole: bool) -> int | float:
    """The number nearest to 0 within the bounds."""
    low, high = (
        _bound(schema, "minimum", "exclusiveMinimum", 1),
        _bound(schema, "maximum", "exclusiveMaximum", -1),
    )
    unit = schema.get("multipleOf")
    step = float(unit) if is_number(unit) and unit > 0 else 1.0 if whole else 0.0
    if whole and not step.is_integer():
        step = 1.0
    if low is not None and (low[0] > 0 or (low[0] == 0 and low[1])):
        found = _beyond(low, step, 1, None if high is None else high[0])
    elif high is not None and (high[0] < 0 or (high[0] == 0 and high[1])):
        found = _beyond(high, step, -1, None if low is None else low[0])
    else:
        found = 0.0
    return int(found) if found.is_integer() and abs(found) < MAX_EXACT_INTEGER else found


def _bound(schema: Schema, inclusive: str, exclusive: str, sign: int) -> tuple[float, bool] | None:
    """The tighter bound, and whether it is excluded; the form of draft 4 with a boolean is understood."""
    given, strict = schema.get(inclusive), schema.get(exclusive)
    if is_number(strict) and (not is_number(given) or strict * sign >= given * sign):
        return float(strict), True
    return (float(given), strict is True) if is_number(given) else None


def _beyond(bound: tuple[float, bool], step: float, sign: int, other: float | None) -> float:
    """The number nearest to a bound on the side of `sign`: a multiple of `step`, if there is one."""
    edge, excluded = bound[0] * sign, bound[1]
    if not step:
        if not excluded:
            return bound[0]
        return bound[0] + sign if other is None or abs(other - bound[0]) > 1 else (bound[0] + other) / 2
    times = edge / step
    if not math.isfinite(times):
        return bound[0]
    found = math.ceil(times)
    return sign * step * (found + 1 if excluded and found == times else found)
