"""The stream of rows that begin or end while the list of requests is open (server-sent events).

A message has rows of the table, ready to be put in; its id is the place from which a reconnecting browser goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.web.connection import ON_HALF_CLOSE
from codellama_proxy.web.state import runtime_of
from codellama_proxy.web.ui import sessions
from codellama_proxy.web.ui.guard import parameters
from codellama_proxy.web.ui.pages.requests import link, shown_rows
from codellama_proxy.web.ui.render import rendered
from codellama_proxy.web.ui.request_filters import Asked, asked_of
from codellama_proxy.web.ui.state import state_of
from codellama_proxy.web.ui.viewer import Viewer

MAX_STREAMS = 50
KEPT_STREAMS = 10
"""Of these, those that only the operator may open."""
MAX_ROWS = 50
"""Rows of one message, which takes about 2 ms; the page is told how many more there are."""
BATCH_SECONDS = 0.25
LOOK_SECONDS = 0.5
"""The longest time until a stream notices that it has to end."""
SESSION_SECONDS = 0.5
"""How often the session is checked; and before every message."""
HEARTBEAT_SECONDS = 15.0
SHARED_SECONDS, SHARED_ROWS = 2.0, 50
"""How often the newest rows are looked at where other processes use the database, and how many."""
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def live(request: Request, viewer: Viewer) -> Response:
    """Rows with the filters of the list, from `Last-Event-ID` or `since` on. Raises `ProxyError` 503."""
    if state_of(request).streams >= _most(viewer):
        raise ProxyError("overloaded", "Too many pages are live at once.", retry_after=10.0)
    stream = Stream(request, viewer)
    return StreamingResponse(stream.messages(), media_type="text/event-stream", headers=HEADERS)


def _most(viewer: Viewer) -> int:
    return MAX_STREAMS if viewer.is_operator else MAX_STREAMS - KEPT_STREAMS


class Stream:
    """One open page."""

    def __init__(self, request: Request, viewer: Viewer) -> None:
        given = parameters(request)
        self._request = request
        self._viewer = viewer
        self._asked: Asked = asked_of(given, viewer.project(None))
        self._mark = request.headers.get("last-event-id") or given.get("since", "")
        self._runtime = runtime_of(request)
        self._is_shared = self._runtime.store.workers is not None
        """Other processes may use the database; their requests are found by looking."""
        self._next_look = 0.0
        self._known: dict[str, str] = {}
        """The status of the newest requests at the last look."""
        self._is_probed = False
        """The browser closed its sending half: a comment shows whether it still reads."""
        request.scope[ON_HALF_CLOSE] = self._probe

    def _probe(self) -> None:
        self._is_probed = True

    async def messages(self) -> AsyncIterator[str]:
        state = state_of(self._request)
        if state.streams >= _most(self._viewer):
            return  # others were faster
        state.streams += 1
        try:
            yield "retry: 2000\n\n"
            async for message in self._messages():
                yield message
        finally:
            state.streams -= 1

    async def _messages(self) -> AsyncIterator[str]:
        monotonic = self._runtime.time.monotonic
        checked = sent = monotonic()
        while not (self._is_over() or await self._request.is_disconnected()):
            message = await self._next()
            if message or monotonic() - checked >= SESSION_SECONDS:
                checked = monotonic()
                if not await self._is_signed_in():
                    return
            if message:
                sent = monotonic()
                yield message
                await self._runtime.time.sleep(BATCH_SECONDS)
            elif self._is_probed or monotonic() - sent >= HEARTBEAT_SECONDS:
                self._is_probed, sent = False, monotonic()
                yield ": \n\n"
            else:
                await self._runtime.progress.wait(LOOK_SECONDS)

    def _is_over(self) -> bool:
        return self._runtime.draining or not self._runtime.live.snapshot.ui.enabled

    async def _is_signed_in(self) -> bool:
        try:
            found = await sessions.find(self._runtime, sessions.cookie(self._request))
        except (ProxyError, StoreUnavailableError):
            return False  # unknown; the browser comes back, and gets the page of the error
        return found is not None and found[0].project(None) == self._viewer.project(None)

    async def _next(self) -> str:
        """The message about what happened since the last one; empty if nothing did."""
        since = self._runtime.progress.since(self._mark)
        if since is None:
            self._mark = self._runtime.progress.watch()
            # Another process may have made the page; then the newest rows are looked at anyhow.
            return "" if self._is_shared else _message("gap", "", self._mark)
        if not since.request_ids and not self._is_shared:
            return ""
        try:
            found = await self._found(since.request_ids)
            rows = await shown_rows(self._runtime.store, found[:MAX_ROWS])
        except (
            ProxyError,
            StoreUnavailableError,
        ):  # the next look tries again
            return ""
        self._mark = since.mark
        if not found:
            return ""
        html = rendered(self._request, "_rows.html", rows=rows, values=self._asked.values, link=link)
        more = f"event: more\ndata: {len(found) - MAX_ROWS}\n\n" if len(found) > MAX_ROWS else ""
        return more + _message("rows", html, self._mark)

    async def _found(self, request_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of these requests, and what other processes on the database did meanwhile, newest first."""
        searches = self._runtime.store.searches
        found = await searches.among(self._asked.search, request_ids)
        now = self._runtime.time.monotonic()
        if not self._is_shared or now < self._next_look:
            return found
        self._next_look = now + SHARED_SECONDS
        newest = await searches.search(self._asked.search, None, SHARED_ROWS)
        rows = newest.rows if newest is not None else []
        known, self._known = self._known, {row["request_id"]: row["status"] for row in rows}
        told = {row["request_id"] for row in found}
        changed = [row for row in rows if known.get(row["request_id"]) != row["status"]]
        return [row for row in changed if row["request_id"] not in told] + found


def _message(event: str, data: str, mark: str) -> str:
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"event: {event}\nid: {mark}\n{lines}\n"
