"""What stands before every page: the dashboard is on, the viewer is signed in, a change comes from our own page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import UiSession
from codellama_proxy.web.auth import Caller
from codellama_proxy.web.connected import while_connected
from codellama_proxy.web.observed import CALLER
from codellama_proxy.web.state import runtime_of
from codellama_proxy.web.ui import links, origin, sessions
from codellama_proxy.web.ui.headers import HEADERS
from codellama_proxy.web.ui.pages import errors
from codellama_proxy.web.ui.state import state_of
from codellama_proxy.web.ui.viewer import Viewer

Page = Callable[[Request, Viewer], Coroutine[Any, Any, Response]]
Handler = Callable[[Request], Awaitable[Response]]

MAX_PARAMETERS = 200
"""Of an address."""


def page(answer: Page, *, operator: bool = False) -> Handler:
    """The handler of a page for signed-in viewers; `operator`: others get the 404 of an unknown page."""

    async def handler(request: Request) -> Response:
        found = await _viewer(request)
        if found is None:
            return _signed_out(request)
        viewer, session = found
        state = state_of(request)
        rate = state.of_operator if viewer.is_operator else state.of_holders
        rate.take(runtime_of(request).time.monotonic())
        if operator and not viewer.is_operator:
            raise not_found()
        is_due = sessions.is_due(runtime_of(request), session)
        if is_due:
            runtime_of(request).store.ui_sessions.seen(viewer.session, runtime_of(request).time.wall())
        answering = answer(request, viewer)
        response = await (while_connected(request, answering) if request.method == "GET" else answering)
        if is_due:
            _renew_cookie(request, response, session)
        return response

    return opened(handler)


def opened(answer: Handler) -> Handler:
    """The handler of a page without sign-in.

    Their rate has no limit: strangers who use it up would keep everyone from signing in.
    """

    async def handler(request: Request) -> Response:
        if request.method == "POST" and (reason := origin.refusal(request.headers)) is not None:
            return errors.foreign(request, reason)
        try:
            response = await answer(request)
        except StoreUnavailableError:
            raise ProxyError("accounting_unavailable", "The database cannot be read at the moment.") from None
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return switched_on(handler)


def switched_on(answer: Handler) -> Handler:
    """The handler of a page or a file; 404 while the dashboard is off."""

    async def handler(request: Request) -> Response:
        if not runtime_of(request).live.snapshot.ui.enabled:
            raise ProxyError("not_found", "The dashboard is off: proxy.yaml has ui.enabled: false.")
        return await answer(request)

    return handler


def not_found() -> ProxyError:
    """For what does not exist, and for what the viewer may not see."""
    return ProxyError("not_found", "There is no such page, or nothing of this name in your project.")


async def _viewer(request: Request) -> tuple[Viewer, UiSession] | None:
    found = await sessions.find(runtime_of(request), sessions.cookie(request))
    if found is None:
        return None
    viewer, _ = found
    request.state.viewer = viewer
    request.scope[CALLER] = Caller(viewer.is_operator, viewer.key)
    return found


def _signed_out(request: Request) -> Response:
    if request.headers.get("hx-request"):
        # The page is loaded again, and then leads to the sign-in and back.
        return Response(status_code=401, headers={"hx-refresh": "true"})
    is_navigation = request.method in ("GET", "HEAD")
    if is_navigation and request.headers.get("sec-fetch-site") == "cross-site":
        return errors.reload(request)
    return redirect(links.sign_in_link(request))


def redirect(link: str) -> Response:
    """To a relative link, by GET."""
    return Response(status_code=303, headers={"location": link})


def _renew_cookie(request: Request, response: Response, session: UiSession) -> None:
    """Lengthens the life of a session's cookie. Deeper pages cannot: they would set it for their own directory."""
    session_id = sessions.cookie(request)
    if session_id is not None and request.scope["path"].count("/") == 2:
        seconds = runtime_of(request).live.snapshot.ui.session
        cookie = sessions.set_cookie(session_id, seconds, secure=session.secure)
        response.headers.append("set-cookie", cookie)


def parameters(request: Request) -> dict[str, str]:
    """The query, without empty values; of a parameter given twice, the last. Raises `ProxyError` 400."""
    try:
        fields = parse_qsl(request.url.query, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        message = f"The address has more than {MAX_PARAMETERS} parameters."
        raise ProxyError("invalid_value", message) from None
    return {name: value for name, value in fields if value}
