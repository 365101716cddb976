"""The SQL of sums that are read in two steps, and of the largest groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from codellama_proxy.store.overviews import Among, Measure
from codellama_proxy.store.reports import Filters, in_order
from codellama_proxy.store.sql.queries import Query
from codellama_proxy.store.sql.report_queries import (
    IN_REQUESTS,
    SQL,
    among_where,
    columns_of,
    parts_of,
    positions_of,
    requests_where,
    spend_query,
)

_MEASURES: Mapping[Measure, str] = {
    "spend": "cost_nanos",
    "requests": "requests",
    "tokens": "prompt_tokens + completion_tokens",
    "failures": "requests",
}


def settled_query(group_by: Sequence[str], filters: Filters, among: Among | None = None) -> Query | None:
    """What `newer_query` adds to: the row with a 1 in front says up to which sequence, and the first sequence.

    `None` if rows alone answer: few, and found by an index.
    """
    names = in_order(group_by)
    if len(list(parts_of(names, filters))) == 1:
        return None
    sql, values = spend_query(group_by, filters, among, newer=False, ordered=False)
    return SQL["settled"].format(spend=sql, nulls="null, " * len(names)), values


def newer_query(group_by: Sequence[str], filters: Filters, after: int, among: Among | None = None) -> Query:
    """Sums over requests after a sequence: first whether they are in the sums by now, then the groups."""
    names = in_order(group_by)
    of_requests = columns_of((IN_REQUESTS.get(name, name), name) for name in names)
    which, values = requests_where(filters)
    only, wanted = among_where(among)
    sql = SQL["newer_than"].format(
        names="".join(f"{name}_, " for name in names),
        rows=SQL["of_requests"].format(
            groups=f"{SQL['is_settled']} {of_requests}", where=f"seq > ? and {which}"
        ),
        among=only,
        positions=positions_of(["settled", *names]),
        nulls="null, " * len(names),
    )
    return sql, [after, *values, *wanted]


def largest_query(group: str, measure: Measure, filters: Filters, size: int, after: int = 0) -> Query:
    """The values of a group with the largest sums; `after`: as `spend_query`."""
    if measure == "failures":
        filters = filters._replace(status="error")
    sql, values = spend_query((group,), filters, ordered=False, after=after)
    return SQL["largest"].format(group=group, spend=sql, measure=_MEASURES[measure]), [*values, size]
