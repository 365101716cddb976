"""Routes of OpenAI's Responses API other than creation: responses are not stored, and there is no WebSocket."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.web.auth import caller

_HTTP = {"upgrade": "HTTP/1.1", "connection": "upgrade"}
"""The required headers of a 426: what the server speaks. (RFC 9110, section 15.5.22)"""


async def upgrade(request: Request) -> Response:
    """GET of the collection. Raises `ProxyError` 426 for a WebSocket, after which clients use HTTP, else 405."""
    if "upgrade" in request.headers:
        raise ProxyError("upgrade_required", "There is no WebSocket here; send a POST.", headers=_HTTP)
    raise ProxyError(
        "method_not_allowed", f"{request.method} is not allowed here.", headers={"allow": "POST"}
    )


async def stored(request: Request) -> Response:
    """Any route of one response. Raises `ProxyError` 401 first, then 404 for every id."""
    await caller(request)
    raise ProxyError("not_found", "Responses are not stored by this proxy.")
