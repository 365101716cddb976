"""One key: limits and their sources, budgets, spending, history, and changes by the operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Key
from codellama_proxy.diagnostics.limit_sources import with_sources
from codellama_proxy.limits.rates import overlay
from codellama_proxy.store import key_fields
from codellama_proxy.store.audit import AuditFilters
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.request_search import Search
from codellama_proxy.web.state import runtime_of
from codellama_proxy.web.ui import charts, key_forms, key_rows, links, spending, words
from codellama_proxy.web.ui.budgets import visible_budgets
from codellama_proxy.web.ui.forms import form
from codellama_proxy.web.ui.guard import not_found, redirect
from codellama_proxy.web.ui.key_forms import Filled
from codellama_proxy.web.ui.pages.secret import new_token, secret_page, sent_token
from codellama_proxy.web.ui.ranges import parameters, range_of
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.request_rows import moment
from codellama_proxy.web.ui.viewer import Viewer

OVERLAPS = (("", "at once"), ("1h", "in an hour"), ("24h", "in a day"))
MAX_CHANGES = 20
LIMIT_NAMES = {
    "rpm_limit": "Requests a minute",
    "tpm_limit": "Tokens a minute",
    "max_parallel_requests": "Requests at once",
    "max_budget": "Budget",
    "budget_duration": "Budget for each",
}


async def key(request: Request, viewer: Viewer) -> Response:
    """The page. Raises `ProxyError` 404 for what the viewer may not see."""
    return await shown(request, viewer, await _wanted(request, viewer))


async def update(request: Request, viewer: Viewer) -> Response:
    """Changes what the form has."""
    found = await _wanted(request, viewer)
    filled = key_forms.read(await form(request))
    if filled.change is None:
        return await shown(request, viewer, found, filled=filled, status=400)
    await runtime_of(request).keys.update(found.key_id, filled.change, viewer.actor)
    return redirect(found.key_id)


async def block(request: Request, viewer: Viewer) -> Response:
    found = await _wanted(request, viewer)
    await runtime_of(request).keys.block(found.key_id, viewer.actor)
    return redirect(f"../{found.key_id}")


async def unblock(request: Request, viewer: Viewer) -> Response:
    found = await _wanted(request, viewer)
    await runtime_of(request).keys.unblock(found.key_id, viewer.actor)
    return redirect(f"../{found.key_id}")


async def rotate(request: Request, viewer: Viewer) -> Response:
    """Replaces the secret; this page alone shows the new one."""
    found = await _wanted(request, viewer)
    fields = await form(request)
    overlap = fields.get("overlap", "")
    seconds = key_fields.duration("overlap", overlap) if overlap else 0.0
    token = sent_token(fields)
    changed, secret = await runtime_of(request).keys.rotate(found.key_id, seconds, viewer.actor, token)
    old = f"The old secret works for another {words.span(seconds)}." if seconds else "The old secret is void."
    return secret_page(request, viewer, changed, secret, f"has a new secret. {old}")


async def delete(request: Request, viewer: Viewer) -> Response:
    """Deletes the key if its name was typed. Its requests stay."""
    found = await _wanted(request, viewer)
    if (await form(request)).get("confirm") != confirmation(found):
        message = f"Nothing was deleted: type {confirmation(found)} to delete the key."
        raise ProxyError("invalid_value", message)
    await runtime_of(request).keys.delete(found.key_id, viewer.actor)
    return redirect("../../keys")


async def _wanted(request: Request, viewer: Viewer) -> Key:
    try:
        found = await runtime_of(request).keys.get(request.path_params["key_id"])
    except ProxyError as error:
        if error.status != 404:
            raise
        raise not_found() from None
    if viewer.key is not None and viewer.key.key_id != found.key_id:
        raise not_found()
    return found


def confirmation(found: Key) -> str:
    """What has to be typed to delete the key."""
    return found.name or found.prefix


async def shown(
    request: Request, viewer: Viewer, found: Key, *, filled: Filled | None = None, status: int = 200
) -> Response:
    """The page of a key the viewer may see."""
    runtime = runtime_of(request)
    snapshot, now = runtime.live.snapshot, runtime.time.wall()
    overviews = runtime.store.overviews
    month = range_of("30d", now)
    filters = Filters(project=found.project, key_id=found.key_id, start=month.start, end=month.end)
    sums = await overviews.sums(("model", "status", "day"), filters)
    last = await runtime.store.searches.search(Search(Filters(key_id=found.key_id)), None, 1)
    budgets = await visible_budgets(
        overviews, snapshot, Viewer(found, viewer.session), found.project, [found], now
    )
    split = spending.split(sums.groups, "model", "spend", month, lambda name: str(name or "no model"))
    link = _requests_link(links.to_ui(request), found.key_id)
    chart = spending.chart(split, month, now, link)
    changes, _ = (
        await runtime.store.audit.changes(AuditFilters(key_id=found.key_id), 1, MAX_CHANGES)
        if viewer.is_operator
        else ([], 0)
    )
    return render(
        request,
        "key.html",
        status=status,
        key=found,
        state=key_rows.state_of(found, now),
        limits=list(_limits(found, snapshot)),
        models=", ".join(found.models or snapshot.project(found.project).models or ()) or "all",
        sums=sums.total,
        failed=sum(spending.amount("failures", one) for one in sums.groups),
        last_used=None if last is None or not last.rows else (last.rows[0], moment(last.rows[0])),
        budgets=budgets,
        budget_form=words.usd_column(
            [amount for one in budgets for amount in (one.spent, one.limit, one.held)]
        ),
        chart=charts.stacked(chart.columns, chart.series, _usd, "Spend by model", words.usd_axis),
        series=list(zip(chart.series, split.totals, strict=True)),
        form=words.usd_column(split.totals),
        changes=[(change, moment(change), changes_in_words(change["changes"])) for change in changes],
        filled=filled or Filled(key_forms.texts_of(found), {}, None),
        token=new_token(),
        expiries=((key_forms.KEEP, "as it is"), *key_forms.EXPIRIES),
        durations=key_forms.DURATIONS,
        overlaps=OVERLAPS,
        confirmation=confirmation(found),
        is_own=viewer.key is not None,
    )


def _usd(nanos: float) -> str:
    return words.usd(round(nanos))


def _requests_link(ui: str, key_id: str) -> Callable[[int, int], str]:
    def link(start: int, end: int) -> str:
        return links.with_query(f"{ui}requests", key=key_id, **parameters(start, end))

    return link


def _limits(found: Key, snapshot: Any) -> Any:
    """Name, value in words, and source of each limit that is set."""
    effective = overlay(snapshot.limits["key"], found.limits)
    for one in with_sources(effective, found.limits.given, "this key", "limits.key in proxy.yaml"):
        if one.field in LIMIT_NAMES and one.value is not None:
            value = words.usd(int(one.value)) if one.field == "max_budget" else str(one.value)
            yield LIMIT_NAMES[one.field], value, one.source


def changes_in_words(changes: Mapping[str, Any]) -> str:
    """`blocked false → true; name a → b`."""
    return "; ".join(
        f"{field} {_word(before)} → {_word(after)}" for field, (before, after) in changes.items()
    )


def _word(value: Any) -> str:
    if value is None:
        return words.NONE
    return str(value).lower() if isinstance(value, bool) else str(value)
