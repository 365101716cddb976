"""The figures of the overview, each with its course over the range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from codellama_proxy.store.overviews import Recent, Sum, Sums
from codellama_proxy.web.ui import charts, links, spending, words
from codellama_proxy.web.ui.ranges import Range
from codellama_proxy.web.ui.ranges import parameters as range_parameters


class Figure(NamedTuple):
    title: str
    value: str
    exact: str
    sub: str
    spark: Markup
    link: str = ""


def figures(
    shown: Range, project: str | None, found: Sums, before: Sum | None, timed: Sequence[Recent]
) -> list[Figure]:
    """`found`: by time and status; `before`: of the range before, if that is recorded; `timed`: recent requests."""
    total, by_time = found.total, spending.totals(found.groups, shown)
    failed = sum(by_time.failures)
    times = [
        one.total_ms for one in timed if one.status == "ok" and not one.is_cached and one.total_ms is not None
    ]
    listed = links.with_query("requests", project=project, **range_parameters(shown.start, shown.end))
    gross = total.cost_nanos + total.saved_nanos
    return [
        Figure(
            "Spend",
            words.usd(total.cost_nanos),
            words.usd_exact(total.cost_nanos),
            _change(shown, total.cost_nanos, before and before.cost_nanos),
            charts.spark(by_time.spend),
        ),
        Figure(
            "Requests",
            words.count(total.requests),
            f"{total.requests:,}",
            _change(shown, total.requests, before and before.requests),
            charts.spark(by_time.requests),
            listed,
        ),
        Figure(
            "Tokens",
            words.count(total.tokens),
            f"{total.tokens:,}",
            f"{words.count(total.prompt_tokens)} in, {words.count(total.completion_tokens)} out",
            charts.spark(by_time.tokens),
        ),
        Figure(
            "Failed",
            words.share(failed, total.requests),
            f"{failed:,}",
            f"{words.count(failed)} of {words.count(total.requests)}",
            charts.spark(by_time.failures, "bad"),
            f"{listed}&status=error",
        ),
        Figure(
            "Answer time, median",
            words.duration(spending.median(times)),
            "",
            f"95% within {words.duration(spending.within(times, 0.95))}, last {words.count(len(times))}",
            charts.spark(spending.medians(times[::-1])),
        ),
        Figure(
            "Saved by the cache",
            words.usd(total.saved_nanos),
            words.usd_exact(total.saved_nanos),
            f"{words.share(total.saved_nanos, gross)} of the full cost" if gross else "nothing yet",
            charts.spark(by_time.saved, "ok"),
        ),
    ]


def _change(shown: Range, now: int, before: int | None) -> str:
    changed = None if before is None else words.change(now, before)
    if changed is None:
        return f"no full {shown.name} before"
    return f"{changed} on the {shown.name} before"
