"""Renders templates. Jinja2 is imported with the first page: a proxy without viewers does not pay for it."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy import __version__
from codellama_proxy.web.state import runtime_of
from codellama_proxy.web.ui import charts, links, words
from codellama_proxy.web.ui.assets import assets
from codellama_proxy.web.ui.headers import HEADERS
from codellama_proxy.web.ui.navigation import navigation
from codellama_proxy.web.ui.viewer import known_viewer

if TYPE_CHECKING:
    from jinja2 import Environment

MIN_GZIP_BYTES = 1400
THEMES = ("dark", "light")


def render(
    request: Request,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    secret: bool = False,
    **context: Any,
) -> Response:
    """A page. Values are escaped. `secret`: it shows one, so it is not compressed with what others can choose."""
    body = rendered(request, template, **context).encode()
    sent = {**HEADERS, "content-type": "text/html; charset=utf-8", **(headers or {})}
    accepts = "gzip" in request.headers.get("accept-encoding", "")
    if accepts and not secret and len(body) >= MIN_GZIP_BYTES:
        body = gzip.compress(body, 5, mtime=0)
        sent |= {"content-encoding": "gzip", "vary": "accept-encoding"}
    return Response(body, status, headers=sent)


def rendered(request: Request, template: str, **context: Any) -> str:
    """The HTML of a page, or of a part of one."""
    viewer = known_viewer(request)
    live = runtime_of(request).live
    theme = request.cookies.get("ui_theme", "")
    ui = links.to_ui(request)
    frame = {
        "ui": ui,
        "home": links.to_root(request) or "./",
        "asset": lambda name: ui + assets()[name].path,
        "viewer": viewer,
        "navigation": navigation(viewer, links.section_of(request)) if viewer else (),
        "theme": theme if theme in THEMES else "",
        "digest": live.snapshot.digest,
        "stale": live.error is not None,
        "query": request.query_params,
        "now": runtime_of(request).time.wall(),
    }
    return environment().get_template(template).render(**frame, **context)


@cache
def environment() -> Environment:
    """The templates. Every value is escaped, and an unknown name is an error; `None` is empty."""
    import jinja2  # noqa: PLC0415 - see the module's docstring

    found = jinja2.Environment(
        loader=jinja2.PackageLoader("codellama_proxy.web.ui"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=lambda value: "" if value is None else value,
    )
    found.globals.update(version=__version__, with_query=links.with_query, words=words, charts=charts)
    return found
