"""Sign-in and sign-out."""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.web.observed import ERROR
from codellama_proxy.web.state import runtime_of
from codellama_proxy.web.ui import links, sessions
from codellama_proxy.web.ui.forms import form
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.state import state_of
from codellama_proxy.web.ui.throttle import TooManyTriesError

log = logging.getLogger(__name__)

START = "overview"
_UNKNOWN = "This key is not known. Check that you have copied all of it."
_TOO_MANY = "Too many wrong keys are being tried at the moment. Try again in a few seconds."


async def index(request: Request) -> Response:
    """To the first page."""
    return Response(status_code=303, headers={"location": links.to_ui(request) + START})


async def form_page(request: Request) -> Response:
    """The form; with a session, the first page instead."""
    if await sessions.find(runtime_of(request), sessions.cookie(request)) is not None:
        return Response(status_code=303, headers={"location": START})
    return _form(request, links.safe_next(request.query_params.get("next", "")))


async def sign_in(request: Request) -> Response:
    """Starts a session, and leads to the page that was wanted. A wrong key waits for its 401, or gets a 429 at once."""
    fields = await form(request)
    wanted = links.safe_next(fields.get("next", ""))
    secure = _is_secure(request)
    runtime = runtime_of(request)
    try:
        session_id = await sessions.begin(runtime, fields.get("secret", ""), secure=secure)
    except ProxyError as error:
        if error.status != 401:
            raise
        return await _wrong(request, error, wanted)
    runtime.metrics.sign_in("ok")
    await sessions.end(runtime, sessions.cookie(request))
    cookie = sessions.set_cookie(session_id, runtime.live.snapshot.ui.session, secure=secure)
    return Response(status_code=303, headers={"location": wanted or START, "set-cookie": cookie})


async def sign_out(request: Request) -> Response:
    """Ends the session."""
    await sessions.end(runtime_of(request), sessions.cookie(request))
    cookie = sessions.set_cookie("", 0, secure=_is_secure(request))
    return Response(status_code=303, headers={"location": "sign-in", "set-cookie": cookie})


async def _wrong(request: Request, error: ProxyError, wanted: str | None) -> Response:
    runtime = runtime_of(request)
    request.scope[ERROR] = error.code
    runtime.metrics.sign_in(error.code)
    log.warning("a sign-in to the dashboard was refused: %s", error.code)
    try:
        await state_of(request).throttle.wrong(runtime.time)
    except TooManyTriesError:
        return _form(request, wanted, _TOO_MANY, 429)
    message = _UNKNOWN if error.code == "invalid_api_key" else error.message
    return _form(request, wanted, message, 401)


def _form(request: Request, wanted: str | None, error: str | None = None, status: int = 200) -> Response:
    has_master = runtime_of(request).master_key is not None
    headers = {"retry-after": "2", "retry-after-ms": "2000"} if status == 429 else {}
    return render(
        request,
        "sign_in.html",
        status=status,
        headers=headers,
        next=wanted,
        error=error,
        has_master=has_master,
    )


def _is_secure(request: Request) -> bool:
    """Whether the browser came by https. A forged header only makes the sender's own cookie stricter."""
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
    return request.headers.get("origin", "").startswith("https:") or forwarded == "https"
