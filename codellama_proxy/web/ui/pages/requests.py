"""The list of requests, filtered by its address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.types import Key
from codellama_proxy.store.interfaces import Store
from codellama_proxy.store.reports import HOUR_GROUP
from codellama_proxy.store.request_search import Found, Search
from codellama_proxy.web.state import Runtime, runtime_of
from codellama_proxy.web.ui import links, volume
from codellama_proxy.web.ui.guard import parameters, redirect
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.request_filters import Asked, asked_of
from codellama_proxy.web.ui.request_rows import Shown, key_name, shown
from codellama_proxy.web.ui.viewer import Viewer

ROWS = 50
STATUSES = (("ok", "answered"), ("error", "failed"), ("cancelled", "client left"), ("held", "running"))
CACHE = (("hit", "from the cache"), ("miss", "not from the cache"))
SLOW = (("1", "over 1 s"), ("5", "over 5 s"), ("30", "over 30 s"), ("120", "over 2 min"))
_TAGS = ("key", "user", "code", "start", "end")
"""Filters without a field of their own: they are shown as tags that can be removed."""


class Removable(NamedTuple):
    text: str
    without: str
    """The address without it."""


async def requests(request: Request, viewer: Viewer) -> Response:
    """The page; only the results for a script that changed a filter."""
    runtime = runtime_of(request)
    asked = asked_of(parameters(request), viewer.project(None))
    if asked.detail is not None:
        return redirect(links.with_query(f"requests/{asked.detail}", **_path_only(asked)))
    since = runtime.progress.watch()  # before the search, so that the stream misses nothing
    began = runtime.time.monotonic()
    found, notes = await _found(runtime.store, asked)
    rows = await shown_rows(runtime.store, found.rows)
    context: dict[str, Any] = {
        "asked": asked,
        "notes": notes,
        "rows": rows,
        "found": found,
        "values": asked.values,
        "older": link(asked.values, before=found.next) if found.next else None,
        "took_ms": (runtime.time.monotonic() - began) * 1000,
        "tags": _tags(asked, await _shown_key(runtime.store, asked, viewer)),
        "link": link,
        "is_live": asked.before is None and asked.search.filters.end is None,
        "since": since,
    }
    if request.headers.get("hx-request"):
        return render(request, "_results.html", **context)
    context |= await _options(runtime, viewer)
    return render(request, "requests.html", **context, chart=await _chart(runtime, asked))


async def _found(store: Store, asked: Asked) -> tuple[Found, tuple[str, ...]]:
    found = await store.searches.search(asked.search, asked.before, ROWS)
    if found is not None:
        return found, asked.notes
    newest = await store.searches.search(asked.search, None, ROWS)
    assert newest is not None
    return newest, (*asked.notes, "The request before which this page began is not kept any more.")


async def shown_rows(store: Store, rows: Sequence[Mapping[str, Any]]) -> list[Shown]:
    """Rows with the names of their keys."""
    return shown(rows, await keys_of(store, rows))


async def keys_of(store: Store, rows: Sequence[Mapping[str, Any]]) -> dict[str, Key]:
    """The keys of rows, by ID; those that were deleted are absent."""
    ids = sorted({row["key_id"] for row in rows if row["key_id"] is not None})
    return await store.keys.some(ids) if ids else {}


def link(values: Mapping[str, str], /, path: str = "requests", **changed: str | None) -> str:
    """The address of the list, or of another page in it, relative to the dashboard."""
    return links.with_query(path, **{**values, **changed})


def _path_only(asked: Asked) -> dict[str, str]:
    return _without(asked.values, "user")


async def _shown_key(store: Store, asked: Asked, viewer: Viewer) -> str:
    """The key that is searched for, by its name if the viewer may know it."""
    key_id = asked.values.get("key")
    found = await store.keys.some([key_id]) if key_id else {}
    return key_name(key_id, {one.key_id: one for one in found.values() if viewer.may_see(one.project)})


def _tags(asked: Asked, key: str) -> list[Removable]:
    shown = {**asked.values, "key": key}
    named = {"code": "status", "start": "from", "end": "until"}
    return [
        Removable(f"{named.get(name, name)} {shown[name]}", link(_without(asked.values, name)))
        for name in _TAGS
        if name in asked.values
    ]


def _without(values: Mapping[str, str], name: str) -> dict[str, str]:
    return {other: value for other, value in values.items() if other != name}


async def _options(runtime: Runtime, viewer: Viewer) -> dict[str, Any]:
    """The choices of the fields: from the configuration and the keys, never from the log."""
    snapshot = runtime.live.snapshot
    projects: Sequence[str] = ()
    if viewer.is_operator:
        projects = sorted({*snapshot.projects, *await runtime.store.keys.projects()})
    return {
        "projects": [(name, name) for name in projects],
        "models": [(name, name) for name in snapshot.models],
        "statuses": STATUSES,
        "caches": CACHE,
        "slows": SLOW,
    }


async def _chart(runtime: Runtime, asked: Asked) -> Markup | None:
    """The volume, where sums have the filters."""
    search = asked.search
    if asked.before is not None or search != Search(search.filters):
        return None
    now = runtime.time.wall()
    start = volume.hours(now)[0]
    filters = search.filters._replace(start=start, end=None)
    sums = await runtime.store.overviews.sums(("status", HOUR_GROUP), filters)
    values = {name: value for name, value in asked.values.items() if name not in ("start", "end")}
    return volume.chart(sums.groups, now, lambda start, end: link(values, start=start, end=end))
