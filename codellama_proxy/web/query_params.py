"""Query parameters, read strictly: each is known, given once, and in its range."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime

from starlette.requests import Request

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.limits.windows import DAY, LAST_MOMENT
from codellama_proxy.store.reports import MAX_ROWS

MAX_PAGES = 10**9
PAGE_SIZE = 50
"""Rows of a page whose size is not given."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_SECONDS = re.compile(r"\d{1,20}(\.\d{1,20})?", re.ASCII)


class Query:
    """Raises `ProxyError` 400 for a parameter that is not in `known` or is given twice."""

    def __init__(self, request: Request, known: Collection[str]) -> None:
        self._given: dict[str, str] = {}
        for name, value in request.query_params.multi_items():
            if name not in known:
                short = name[:100]
                raise ProxyError("unsupported_parameter", f"There is no parameter '{short}'.", param=short)
            if name in self._given:
                raise invalid(name, "is given twice")
            self._given[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def text(self, name: str) -> str | None:
        return self._given.get(name)

    def one_of(self, name: str, choices: Collection[str]) -> str | None:
        given = self._given.get(name)
        if given is not None and given not in choices:
            raise invalid(name, f"must be one of {', '.join(choices)}")
        return given

    def number(self, name: str, default: int, most: int) -> int:
        """An integer from 1 to `most`."""
        given = self._given.get(name)
        if given is None:
            return default
        if not (given.isascii() and given.isdecimal() and len(given) < 11 and 1 <= int(given) <= most):
            raise invalid(name, f"must be a number from 1 to {most}")
        return int(given)

    def page(self) -> int:
        """The number of the page, from 1."""
        return self.number("page", 1, MAX_PAGES)

    def size(self, default: int = PAGE_SIZE) -> int:
        """Rows of a page, at most `MAX_ROWS`."""
        return self.number("size", default, MAX_ROWS)

    def moment(self, name: str, *, end: bool = False) -> float | None:
        """Unix seconds, of an ISO date or time, UTC unless it says otherwise; an `end` that is a day includes it."""
        given = self._given.get(name)
        if given is None:
            return None
        moment = moment_of(given, end=end)
        if moment is None:
            raise invalid(name, "must be an ISO date or time, or unix seconds")
        return moment


def moment_of(given: str, *, end: bool = False) -> float | None:
    """Unix seconds, as `Query.moment`; `None` if it is not a time."""
    try:
        if _SECONDS.fullmatch(given):
            moment = float(given)
        else:
            # An unescaped plus arrives as a space.
            parsed = datetime.fromisoformat(given.replace(" ", "+") if "T" in given else given)
            moment = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
            if end and _DATE.fullmatch(given):
                moment = min(moment + DAY, LAST_MOMENT)
    except (ValueError, OverflowError):
        return None
    return moment if 0 <= moment < LAST_MOMENT + 1 else None


def invalid(param: str, must: str) -> ProxyError:
    return ProxyError("invalid_value", f"'{param}' {must}.", param=param)
