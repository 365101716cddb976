"""Ready settings for each client."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.policy.permissions import permission
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.request_search import Search
from codellama_proxy.web.state import runtime_of
from codellama_proxy.web.ui import clients, links
from codellama_proxy.web.ui.guard import parameters
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.request_rows import moment, outcome
from codellama_proxy.web.ui.viewer import Viewer
from codellama_proxy.web.welcome.root import base_url


async def connect(request: Request, viewer: Viewer) -> Response:
    """The settings of the client `tool`; for htmx, the last request only."""
    runtime = runtime_of(request)
    own = Filters(key_id=viewer.key.key_id) if viewer.key is not None else Filters()
    last = await runtime.store.searches.search(Search(own), None, 1)
    row = last.rows[0] if last is not None and last.rows else None
    now = runtime.time.wall()
    shown: dict[str, Any] = {
        "last": row,
        "last_outcome": None if row is None else outcome(row),
        "last_ago": None if row is None else max(now - moment(row), 0.0),
    }
    if request.headers.get("hx-request"):
        return render(request, "_last_request.html", **shown)
    given = parameters(request)
    usable = models_of(viewer, runtime.live.snapshot)
    model = given["model"] if given.get("model") in usable else (usable or ["MODEL"])[0]
    known = [one.id for one in clients.CLIENTS]
    tool = given["tool"] if given.get("tool") in known else known[0]
    found = next(one for one in clients.CLIENTS if one.id == tool)
    base = base_url(request)
    return render(
        request,
        "connect.html",
        **shown,
        base=base,
        models=usable,
        model=model,
        tool=tool,
        client=clients.filled(found, base, None, model),
        clients=clients.CLIENTS,
        link=lambda **changed: links.with_query(
            "connect", **{"tool": given.get("tool"), "model": given.get("model"), **changed}
        ),
    )


def models_of(viewer: Viewer, snapshot: Snapshot) -> list[str]:
    """The models that the viewer's key may use; all for the operator."""
    if viewer.key is None:
        return list(snapshot.models)
    permitted = permission(snapshot.project(viewer.key.project), viewer.key)
    return [name for name in snapshot.models if permitted(name)]


def clients_of(request: Request, viewer: Viewer, snapshot: Snapshot, key: str | None) -> list[clients.Client]:
    """The settings of every client, with a key."""
    model = (models_of(viewer, snapshot) or ["MODEL"])[0]
    return [clients.filled(one, base_url(request), key, model) for one in clients.CLIENTS]
