"""The playground: one chat, answered by the gateway like any other request, and paid by a key."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from codellama_proxy.auth.keys import require_usable
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Key
from codellama_proxy.policy.permissions import permission
from codellama_proxy.store.reports import MAX_ROWS
from codellama_proxy.web.inference import InferenceEndpoint
from codellama_proxy.web.state import Runtime, runtime_of
from codellama_proxy.web.ui.guard import parameters
from codellama_proxy.web.ui.headers import HEADERS
from codellama_proxy.web.ui.pages.request import MAX_ID_CHARACTERS, row_of
from codellama_proxy.web.ui.pages.requests import keys_of
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.request_rows import shown
from codellama_proxy.web.ui.viewer import Viewer

ENDPOINT = "chat/completions"


async def playground(request: Request, viewer: Viewer) -> Response:
    """The page: the viewer's key pays; the operator chooses one of the newest keys."""
    runtime = runtime_of(request)
    keys: Sequence[Key] = ()
    if viewer.is_operator:
        found, _ = await runtime.store.keys.page(1, MAX_ROWS, None)
        now = runtime.time.wall()
        keys = [key for key in found if not key.blocked and (key.expires_at or now + 1) > now]
    given = parameters(request)
    return render(
        request,
        "playground.html",
        keys=keys,
        chosen_key=given.get("key", ""),
        chosen_model=given.get("model", ""),
        models=_models(runtime, viewer),
    )


def _models(runtime: Runtime, viewer: Viewer) -> list[str]:
    """The chat models that the viewer's key may use."""
    snapshot = runtime.live.snapshot
    chats = [name for name, model in snapshot.models.items() if "chat" in model.modes]
    if viewer.key is None:
        return chats
    permitted = permission(snapshot.project(viewer.key.project), viewer.key, ENDPOINT)
    return [name for name in chats if permitted(name)]


async def answer(request: Request, viewer: Viewer) -> Response:
    """Answers the chat completion in the body. Raises `ProxyError`: no key to pay, or it cannot be used."""
    runtime = runtime_of(request)
    return Answer(runtime, await _payer(runtime, viewer, parameters(request).get("key", "")))


async def _payer(runtime: Runtime, viewer: Viewer, key_id: str) -> Key:
    if viewer.key is not None:
        return viewer.key
    if not key_id:
        raise ProxyError("missing_required_parameter", "Choose the key that pays.", param="key")
    key = await runtime.store.keys.get(key_id[:MAX_ID_CHARACTERS])
    return require_usable(key, None, runtime.time.wall())


async def answered(request: Request, viewer: Viewer) -> Response:
    """What the log has about an answer, as a part of the page. Raises `ProxyError` 404."""
    row = await row_of(request, viewer)
    one = shown([row], await keys_of(runtime_of(request).store, [row]))[0]
    return render(request, "_answered.html", row=row, shown=one)


class Answer(Response):
    """The gateway's response, with the headers of the dashboard."""

    def __init__(self, runtime: Runtime, key: Key) -> None:
        super().__init__()
        self._endpoint = InferenceEndpoint(runtime.gateway, ENDPOINT, lambda: runtime.observer, key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                cookies = [(name, value) for name, value in self.raw_headers if name == b"set-cookie"]
                message = {**message, "headers": [*message["headers"], *own, *cookies]}
            await send(message)

        await self._endpoint(scope, receive, with_headers)
