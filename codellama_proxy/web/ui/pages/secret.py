"""The page that shows a new secret, once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Key
from codellama_proxy.web.state import runtime_of
from codellama_proxy.web.ui.pages.connect import clients_of
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.viewer import Viewer
from codellama_proxy.web.welcome.root import base_url

TOKEN_BYTES = 18
MIN_TOKEN_CHARACTERS = 24


def new_token() -> str:
    """For one form whose answer has a secret."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def sent_token(texts: Mapping[str, str]) -> str:
    """The token of a form. Raises `ProxyError` 400 without one."""
    token = texts.get("token", "")
    if not MIN_TOKEN_CHARACTERS <= len(token) <= 2 * MIN_TOKEN_CHARACTERS:
        raise ProxyError("invalid_value", "The form is incomplete. Nothing was changed.")
    return token


def secret_page(request: Request, viewer: Viewer, key: Key, secret: str, what: str) -> Response:
    """The page; `what` happened to the key."""
    holder = Viewer(key, viewer.session)
    return render(
        request,
        "secret.html",
        secret=True,
        key=key,
        value=secret,
        what=what,
        base=base_url(request),
        clients=clients_of(request, holder, runtime_of(request).live.snapshot, secret),
    )
