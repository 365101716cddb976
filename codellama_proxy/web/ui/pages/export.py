"""Downloads: the list of requests and sums of spending as CSV."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.interfaces import Searches
from codellama_proxy.store.reports import GROUPS
from codellama_proxy.web.state import runtime_of
from codellama_proxy.web.ui.csv_rows import lines
from codellama_proxy.web.ui.guard import parameters
from codellama_proxy.web.ui.request_filters import Asked, asked_of
from codellama_proxy.web.ui.viewer import Viewer

MAX_CSV_ROWS = 100_000
BATCH_ROWS = 250
"""Rows read at once: they delay other requests by about 2 ms."""
COLUMNS = (
    *("request_id", "created_at", "project", "key_id", "user", "session", "agent", "endpoint"),
    *("model_requested", "model", "deployment", "upstream_model", "stream", "status", "http_status"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd", "saved_usd", "basis", "cache"),
    *("first_ms", "total_ms", "config"),
)
SUMS = ("requests", "prompt_tokens", "completion_tokens", "cost_usd", "saved_usd", "unpriced_requests")
DEFAULT_GROUPS = "day,project,model"


async def requests(request: Request, viewer: Viewer) -> Response:
    """The requests of the list, all pages of it, at most `MAX_CSV_ROWS`."""
    asked = asked_of(parameters(request), viewer.project(None))
    return _download(exported(request, runtime_of(request).store.searches, asked), "requests.csv")


async def exported(request: Request, searches: Searches, asked: Asked) -> AsyncIterator[str]:
    """The lines, in batches; ends early if the client leaves."""
    yield lines([COLUMNS])
    before, left = asked.before, MAX_CSV_ROWS
    while left:
        if await request.is_disconnected():
            return
        try:
            page = await searches.search(asked.search, before, min(BATCH_ROWS, left))
        except ProxyError as error:  # too late for another status
            yield lines([[f"incomplete: {error.message}"]])
            return
        if page is None:
            return
        rows = [[row[column] for column in COLUMNS] for row in page.rows]
        yield await asyncio.to_thread(lines, rows)
        left -= len(page.rows)
        before = page.next
        if before is None:
            return
    yield lines([[f"incomplete: there are more than {MAX_CSV_ROWS} requests; choose a shorter time"]])


async def spend(request: Request, viewer: Viewer) -> Response:
    """Sums as `/spend` has them, of the filters of the list and `group_by`."""
    given = parameters(request)
    wanted = given.pop("group_by", DEFAULT_GROUPS).split(",")
    groups = [name for name in GROUPS if name in wanted]
    asked = asked_of(given, viewer.project(None))
    found = await runtime_of(request).store.reports.spend(groups, asked.search.filters, size=MAX_CSV_ROWS)
    rows = [[group[name] for name in (*groups, *SUMS)] for group in found["data"]]
    if found["total"] > len(rows):
        rows.append(
            [f"incomplete: there are more than {MAX_CSV_ROWS} groups; choose fewer or a shorter time"]
        )
    text = await asyncio.to_thread(lines, [(*groups, *SUMS), *rows])
    return _download(_whole(text), "spend.csv")


async def _whole(text: str) -> AsyncIterator[str]:
    yield text


def _download(body: AsyncIterator[str], name: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(body, media_type="text/csv; charset=utf-8", headers=headers)
