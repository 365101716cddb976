"""All keys, and the creation of one. Key holders see their own key instead."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.limits.windows import window
from codellama_proxy.store.reports import Filters
from codellama_proxy.web.state import runtime_of
from codellama_proxy.web.ui import key_forms, key_rows, links, words
from codellama_proxy.web.ui.budgets import visible_budgets
from codellama_proxy.web.ui.forms import form
from codellama_proxy.web.ui.guard import parameters
from codellama_proxy.web.ui.key_forms import Filled
from codellama_proxy.web.ui.pages import key as key_page
from codellama_proxy.web.ui.pages.secret import new_token, secret_page, sent_token
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.viewer import Viewer

PAGE_ROWS = 50


async def keys(request: Request, viewer: Viewer) -> Response:
    """The list; with `new=1`, the form above it."""
    if viewer.key is not None:
        return await key_page.shown(request, viewer, viewer.key)
    given = parameters(request)
    new: Filled | None = None
    if "new" in given:
        texts = {"project": given.get("project", ""), "expires": key_forms.DEFAULT_EXPIRY}
        new = Filled(texts, {}, None)
    return await _list(request, viewer, new=new)


async def create(request: Request, viewer: Viewer) -> Response:
    """Creates a key; this page alone shows its secret."""
    filled = key_forms.read(await form(request))
    if filled.change is None:
        return await _list(request, viewer, new=filled, status=400)
    token = sent_token(filled.texts)
    key, secret = await runtime_of(request).keys.create(filled.change, viewer.actor, token)
    return secret_page(request, viewer, key, secret, "is ready.")


async def _list(
    request: Request, viewer: Viewer, *, new: Filled | None = None, status: int = 200
) -> Response:
    runtime = runtime_of(request)
    snapshot, now = runtime.live.snapshot, runtime.time.wall()
    given = parameters(request)
    project = viewer.project(given.get("project"))
    state = given.get("state") if given.get("state") in key_rows.STATES else None
    sort = given["sort"] if given.get("sort") in key_rows.SORTS else key_rows.SORTS[0]
    uses = await runtime.store.overviews.keys(project)
    month = window("month", now, now)
    spent = await runtime.store.overviews.sums(("key",), Filters(project=project, start=month.start))
    by_key = {str(one.groups["key"]): one.cost_nanos for one in spent.groups}
    known = [use.key for use in uses]
    full = await visible_budgets(runtime.store.overviews, snapshot, viewer, project, known, now)
    found = key_rows.found(key_rows.rows(uses, by_key, full, snapshot, now), state, given.get("q", "")[:200])
    ordered = key_rows.in_order(found, sort)
    page = min(_page_number(given.get("page")), max(-(-len(ordered) // PAGE_ROWS), 1))
    shown = ordered[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]

    def link(**changed: str | None) -> str:
        kept = {"project": project, "state": state, "q": given.get("q"), "sort": given.get("sort")}
        return links.with_query("keys", **{**kept, **changed})

    return render(
        request,
        "keys.html",
        status=status,
        rows=shown,
        total=len(ordered),
        page=page,
        more=page * PAGE_ROWS < len(ordered),
        link=link,
        project=project,
        projects=sorted(
            {*snapshot.projects, *(key.project for key in known), *([project] if project else [])}
        ),
        state=state,
        sort=sort,
        text=given.get("q", ""),
        form=words.usd_column(row.spent for row in shown),
        budget_form=words.usd_column(
            amount for row in shown if row.budget for amount in (row.budget.spent, row.budget.limit)
        ),
        month=month.start,
        states=key_rows.STATES,
        sorts=key_rows.SORTS,
        limits_in_words=key_rows.limits_in_words,
        new=new,
        token=new_token(),
        expiries=key_forms.EXPIRIES,
        durations=key_forms.DURATIONS,
        models=list(snapshot.models),
        defaults=snapshot.limits["key"],
    )


def _page_number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text) else 1
