"""What was spent, on what, and whether it is healthy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Key
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.interfaces import Overviews
from codellama_proxy.store.overviews import Among, Measure, Sum, Sums
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.request_search import Search
from codellama_proxy.web.state import Runtime, runtime_of
from codellama_proxy.web.ui import attention, charts, links, spending, words
from codellama_proxy.web.ui.budgets import Budget, visible_budgets
from codellama_proxy.web.ui.figures import figures
from codellama_proxy.web.ui.guard import parameters
from codellama_proxy.web.ui.ranges import RANGES, Range, range_of
from codellama_proxy.web.ui.ranges import parameters as range_parameters
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.request_rows import moment
from codellama_proxy.web.ui.viewer import Viewer

MAX_TIMED = 2_000
"""Recent requests whose times are summarized."""
SHOWN_BUDGETS = 5
SHOWN_NOTES = 8
SHOWN_FAILURES = 6


class View(NamedTuple):
    """What the address says. `note`: about a value that is not known."""

    project: str | None
    range: Range
    by: str
    show: Measure
    as_table: bool
    note: str | None

    def link(self, **changed: str | None) -> str:
        """The same page with other parameters."""
        given = {
            "project": self.project,
            "range": self.range.name,
            "by": self.by,
            "show": self.show,
            "as": "table" if self.as_table else None,
        }
        return links.with_query("overview", **{**given, **changed})


async def overview(request: Request, viewer: Viewer) -> Response:
    """The page; for htmx, the part that changes."""
    runtime = runtime_of(request)
    now = runtime.time.wall()
    view = view_of(request, viewer, now)
    overviews = runtime.store.overviews
    filters = Filters(project=view.project, start=view.range.start, end=view.range.end)
    time = view.range.group
    keys = await overviews.known_keys(view.project)
    found = await _all_groups(overviews, (view.by, "status", time), filters)
    whole = found or await overviews.sums(("status", time), filters)
    if not whole.total.cost_nanos and "show" not in parameters(request):
        view = view._replace(show="requests")  # the free models of a first try give a chart, too
    before = await _before(runtime, view)
    timed = await overviews.recent(view.project, MAX_TIMED)
    failed = await runtime.store.searches.search(
        Search(Filters(project=view.project, status="error")), None, SHOWN_FAILURES
    )
    full = await visible_budgets(overviews, runtime.live.snapshot, viewer, view.project, keys, now)
    parts = await _parts(overviews, view, filters, found, _namer(view.by, keys))
    split = parts or spending.NOTHING
    chart = spending.chart(split, view.range, now, _requests_link(view))
    form, column_form = spending.forms(view.show, split.totals)
    template = "_overview.html" if request.headers.get("hx-request") else "overview.html"
    return render(
        request,
        template,
        view=view,
        projects=sorted(
            {*runtime.live.snapshot.projects, *(one.project for one in keys), view.project or ""}
        ),
        figures=figures(view.range, view.project, whole, before, timed),
        total=sum(split.totals),
        split=list(zip(chart.series, split.totals, strict=True)),
        chart=_drawn(view, chart, form),
        form=form,
        column_form=column_form,
        is_complete=parts is not None,
        has_any=whole.total.requests > 0,
        budgets=full[:SHOWN_BUDGETS],
        budget_form=words.usd_column(
            [amount for one in full[:SHOWN_BUDGETS] for amount in (one.spent, one.limit)]
        ),
        notes=_notes(runtime, viewer, view, full, whole, keys, now)[:SHOWN_NOTES],
        in_flight=runtime.gateway.running if viewer.is_operator else None,
        failures=[] if failed is None else [(row, moment(row)) for row in failed.rows],
        ranges=tuple(RANGES),
        bys=[by for by in spending.BY if viewer.is_operator or by != "project"],
        shows=spending.SHOW,
    )


async def _all_groups(overviews: Overviews, groups: Sequence[str], filters: Filters) -> Sums | None:
    """The sums; `None` if there are, or may be, too many groups."""
    if groups[0] in spending.MANY:
        return None
    found = await overviews.sums(groups, filters)
    return found if found.is_complete else None


async def _parts(
    overviews: Overviews, view: View, filters: Filters, found: Sums | None, name: spending.Name
) -> spending.Split | None:
    """All groups, or the largest ones and the rest; `None` if it takes too long to find the largest."""
    if found is not None:
        return spending.split(found.groups, view.by, view.show, view.range, name)
    time = view.range.group
    try:
        largest = await overviews.largest(view.by, view.show, filters, charts.MAX_SERIES)
        found = await overviews.sums((view.by, "status", time), filters, Among(view.by, largest))
    except ProxyError as error:
        if error.code != "accounting_unavailable":
            raise
        return None
    # Read last: it contains all that the groups do.
    whole = await overviews.sums(("status", time), filters)
    return spending.split_with_rest(found.groups, whole.groups, view.by, view.show, view.range, name)


def view_of(request: Request, viewer: Viewer, now: float) -> View:
    """Unknown values are ignored, with a note."""
    given = parameters(request)
    project = viewer.project(given.get("project"))
    by, show = given.get("by", "model"), given.get("show", "spend")
    known_by = spending.BY if viewer.is_operator else tuple(name for name in spending.BY if name != "project")
    unknown = [
        f"{name} “{value[:40]}”"
        for name, value, choices in (
            ("range", given.get("range"), RANGES),
            ("by", given.get("by"), known_by),
            ("show", given.get("show"), spending.SHOW),
        )
        if value is not None and value not in choices
    ]
    by = by if by in known_by else "model"
    # Sums by key and user are by day; only the last day's requests are few enough to be read.
    step = DAY if by in spending.MANY and given.get("range") != "24h" else None
    return View(
        project,
        range_of(given.get("range"), now, step),
        by,
        show if show in spending.SHOW else "spend",
        given.get("as") == "table",
        f"Ignored: {', '.join(unknown)}." if unknown else None,
    )


async def _before(runtime: Runtime, view: View) -> Sum | None:
    """The sums of the range before; `None` unless all of it is recorded."""
    start, end = view.range.before
    since = await runtime.store.overviews.since()
    if since is None or since > start:
        return None
    return (await runtime.store.overviews.sums((), Filters(project=view.project, start=start, end=end))).total


def _drawn(view: View, chart: spending.Chart, form: Any) -> Markup:
    title = f"{view.show.capitalize()} by {view.by}"
    if view.as_table:
        return charts.table(chart.columns, chart.series, form, title)
    axis_form = words.usd_axis if view.show == "spend" else None
    return charts.stacked(chart.columns, chart.series, form, title, axis_form)


def _requests_link(view: View) -> Any:
    def link(start: int, end: int) -> str:
        return links.with_query("requests", project=view.project, **range_parameters(start, end))

    return link


def _namer(by: str, keys: Sequence[Key]) -> spending.Name:
    names: Mapping[str, str] = spending.STATUS_NAMES if by == "status" else {}
    if by == "key":
        names = {one.key_id: f"{one.name or one.prefix} ({one.project})" for one in keys}
    return lambda value: (
        spending.NONE_NAMES.get(by, "none") if value is None else names.get(value, str(value))
    )


def _notes(
    runtime: Runtime,
    viewer: Viewer,
    view: View,
    full: Sequence[Budget],
    found: Sums,
    keys: Sequence[Key],
    now: float,
) -> list[attention.Note]:
    of_all = [
        attention.of_budgets(full, now),
        attention.of_unpriced(found.total.unpriced, view.range.name, view.project),
    ]
    if viewer.key is not None:
        return attention.notes(*of_all, attention.of_keys([viewer.key], now))
    monotonic = runtime.time.monotonic()
    refusals = {(scope, kind): number for (scope, kind), number in _refusals(runtime, monotonic)}
    return attention.notes(
        attention.of_configuration(runtime.live.error),
        *of_all,
        attention.of_deployments(runtime.live.snapshot, runtime.cooldowns.states(), monotonic),
        attention.of_keys(keys, now),
        attention.of_refusals(refusals),
        attention.of_tracking(runtime.store.ledger.dropped + runtime.store.outbox.dropped),
    )


def _refusals(runtime: Runtime, now: float) -> Any:
    return runtime.metrics.recent_refusals.totals(now).items()
