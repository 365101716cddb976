"""The page of one request."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.snapshot import Price, Snapshot
from codellama_proxy.pricing.catalogue import price_of
from codellama_proxy.web.state import runtime_of
from codellama_proxy.web.ui import request_detail as detail
from codellama_proxy.web.ui.guard import not_found, parameters
from codellama_proxy.web.ui.pages.requests import keys_of, link
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.request_filters import asked_of
from codellama_proxy.web.ui.request_rows import Row, shown
from codellama_proxy.web.ui.viewer import Viewer

MAX_ID_CHARACTERS = 64


async def request(request: Request, viewer: Viewer) -> Response:
    """One request, with its neighbours in the list it was opened from. Raises `ProxyError` 404."""
    runtime = runtime_of(request)
    row = await row_of(request, viewer)
    asked = asked_of(parameters(request), viewer.project(None))
    keys = await keys_of(runtime.store, [row])
    content = row.get("content")
    return render(
        request,
        "request.html",
        row=row,
        shown=shown([row], keys)[0],
        outcome=detail.OUTCOMES[row["status"]],
        basis=detail.BASIS.get(row["basis"] or "", ""),
        steps=detail.steps(row),
        classes=detail.cost_classes(row, _price(row, runtime.live.snapshot)),
        booked=detail.booked(row),
        messages=detail.messages(content) if content else [],
        is_cut=bool(content and content.get("cut")),
        keeps_content=runtime.live.snapshot.tracking.requests_content,
        curl=detail.curl(row),
        base=detail.BASE,
        neighbours=await runtime.store.searches.neighbours(asked.search, row["request_id"]),
        values=asked.values,
        link=link,
    )


async def row_of(request: Request, viewer: Viewer) -> Row:
    """The row that the address names. Raises `ProxyError` 404, also if the viewer may not see it."""
    request_id = request.path_params["request_id"]
    row = None
    if len(request_id) <= MAX_ID_CHARACTERS:
        row = await runtime_of(request).store.reports.request(request_id)
    if row is None or not viewer.may_see(row["project"]):
        raise not_found()
    return row


def _price(row: Row, snapshot: Snapshot) -> Price | None:
    """The present price of the deployment that served; `None` if it is gone or has none."""
    model = snapshot.models.get(row["model"] or "")
    for deployment in model.deployments if model else ():
        if deployment.id == row["deployment"]:
            return price_of(deployment)
    return None
