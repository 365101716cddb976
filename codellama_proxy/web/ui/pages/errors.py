"""Pages about what went wrong. They say what to do next, and keep the frame if the viewer is known."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.web.ui import links
from codellama_proxy.web.ui.assets import assets
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.viewer import Viewer

_TITLES = {
    403: "Refused",
    404: "Not found",
    405: "Not possible",
    408: "Too slow",
    413: "Too large",
    415: "Not a form",
    429: "Too many tries",
    503: "Not available",
}


async def missing(request: Request, viewer: Viewer) -> Response:
    """A path that is no page. Raises `ProxyError` 404."""
    del request, viewer
    raise ProxyError("not_found", "There is no such page, or nothing of this name in your project.")


def refused(request: Request, error: ProxyError) -> Response:
    """The page of an error; only the message for a part of a page."""
    headers = {
        name: value
        for name, value in error.wire_headers().items()
        if name in ("retry-after", "retry-after-ms", "allow", "connection")
    }
    template = "_error.html" if request.headers.get("hx-request") else "error.html"
    title = _TITLES.get(error.status, "Something went wrong" if error.status >= 500 else "Not possible")
    again = error.status >= 500 and request.method == "GET"
    return render(
        request,
        template,
        status=error.status,
        headers=headers,
        title=title,
        message=error.message,
        again=again,
    )


def foreign(request: Request, reason: str) -> Response:
    """The page for a change that did not come from our own page."""
    return render(
        request,
        "error.html",
        status=403,
        title="Refused",
        message=f"{reason} Nothing was changed.",
        again=False,
    )


def reload(request: Request) -> Response:
    """A page that loads itself again: a link from elsewhere comes without the cookie, and the reload with it."""
    icon = links.to_ui(request) + assets()["icon.svg"].path
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0">'
        f'<link rel="icon" href="{icon}" type="image/svg+xml"><title>codellama-proxy</title></html>'
    )
