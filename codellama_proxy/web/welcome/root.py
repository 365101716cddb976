"""The handlers of `/` and of the style of its page. The page has no script, and nothing in it is secret."""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy import __version__
from codellama_proxy.core.checkouts import keys_command
from codellama_proxy.web.health import readiness_status
from codellama_proxy.web.http import respond
from codellama_proxy.web.state import runtime_of

NAME = "codellama-proxy"
DOCS = "/openapi.json"
DASHBOARD = "/ui"

_CSP = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = {
    "content-security-policy": _CSP,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
_STATES = {
    "ready": "Ready.",
    "shutting_down": "Shutting down.",
    "accounting_unavailable": "Not ready: the database cannot be written.",
}
_PLACE = re.compile(r"\$([a-z]+)")
"""A place in the page for a value, which is HTML."""
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._-]{1,64}){1,8}")


async def root(request: Request) -> Response:
    """Name and version as JSON; a page for clients that prefer HTML."""
    headers = {"vary": "accept", "cache-control": "no-store"}
    if not prefers_html(request.headers.get("accept", "")):
        answer = respond({"name": NAME, "version": __version__, "docs": DOCS})
        answer.headers.update(headers)
        return answer
    return Response(_page(request), media_type="text/html", headers={**headers, **_HEADERS})


async def style(_: Request) -> Response:
    """The style of the page."""
    headers = {"cache-control": "no-cache", "x-content-type-options": "nosniff"}
    return Response(_file("welcome.css"), media_type="text/css", headers=headers)


def prefers_html(accept: str) -> bool:
    """Whether an `Accept` header (RFC 9110, 12.5.1) names HTML, and no JSON above it."""
    html, json = _quality(accept, "text/html"), _quality(accept, "application/json")
    return html is not None and html > 0 and (json is None or html >= json)


def _quality(accept: str, wanted: str) -> float | None:
    for entry in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        if kind == wanted:
            given = next((one[2:] for one in parameters if one.startswith("q=")), "1")
            return float(given) if re.fullmatch(r"[01](\.\d{0,3})?", given) else 1.0
    return None


def _page(request: Request) -> str:
    status = readiness_status(runtime_of(request))
    shown = _STATES[status]
    stale = runtime_of(request).live.error is not None
    if stale:
        shown += " The configuration file has errors; the one before it is in force."
    values = {
        "version": __version__,
        "state": "good" if status == "ready" and not stale else "bad",
        "status": shown,
        "dashboard": _dashboard(request),
        "keys": keys_command(),
        "base": escape(base_url(request)),
    }
    return _PLACE.sub(lambda place: values[place[1]], _file("page.html"))


def _dashboard(request: Request) -> str:
    if runtime_of(request).live.snapshot.ui.enabled:
        raw: bytes = request.scope["raw_path"]  # /v1/ has this page too, but not the dashboard
        up = "../" * (raw.count(b"/") - 1)
        return f'<p><a href="{up}{DASHBOARD.strip("/")}/">Dashboard</a></p>'
    return "<p>The dashboard is off (<code>ui.enabled</code> in proxy.yaml).</p>"


def base_url(request: Request) -> str:
    """The address the caller used, as far as its headers tell; only characters of addresses are repeated."""
    host = request.headers.get("host", "")
    scheme = request.headers.get("x-forwarded-proto", "").split(",")[0].strip()
    prefix = request.headers.get("x-forwarded-prefix", "").rstrip("/")
    return "".join(
        (
            scheme if scheme in ("http", "https") else "http",
            "://",
            host if _HOST.fullmatch(host) else "localhost",
            prefix if _PREFIX.fullmatch(prefix) else "",
        )
    )


@lru_cache
def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
