"""Which groups have the largest sums: read over all groups, so an answer is kept for a minute."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.overviews import Measure
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.sql.overview_sums import largest_query
from codellama_proxy.store.sql.queries import load

MAX_AGE_SECONDS = 60.0
MAX_RANKINGS = 128
UPTO = load("usage_totals")["upto"]

Read = Callable[[str, Sequence[Any]], Awaitable[list[tuple[Any, ...]]]]
"""All rows of a statement."""
_Asked = tuple[str, Measure, Filters, int]


class _Ranking(NamedTuple):
    until: float
    values: tuple[str | None, ...] | ProxyError


class Rankings:
    """Failures are kept, too: a statement that was stopped is not run again for each page."""

    def __init__(self, read: Read, clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._known: OrderedDict[_Asked, _Ranking] = OrderedDict()

    async def largest(
        self, group: str, measure: Measure, filters: Filters, size: int
    ) -> tuple[str | None, ...]:
        """The values of a group, the largest first. Raises `ProxyError` accounting_unavailable."""
        asked = (group, measure, filters, size)
        known = self._known.get(asked)
        if known is None or known.until <= self._clock():
            known = _Ranking(self._clock() + MAX_AGE_SECONDS, await self._ranked(asked))
            self._known[asked] = known
            self._known.move_to_end(asked)
            while len(self._known) > MAX_RANKINGS:
                self._known.popitem(last=False)
        if isinstance(known.values, ProxyError):
            raise known.values
        return known.values

    async def _ranked(self, asked: _Asked) -> tuple[str | None, ...] | ProxyError:
        try:
            ((upto,),) = await self._read(UPTO, ())
            return tuple([value for (value,) in await self._read(*largest_query(*asked, after=int(upto)))])
        except ProxyError as error:
            return error
