"""The caller of a request: a virtual key or the administrator."""

from __future__ import annotations

import hmac
from typing import NamedTuple

from starlette.requests import Request

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Key
from codellama_proxy.web.client_headers import credential
from codellama_proxy.web.observed import CALLER
from codellama_proxy.web.state import runtime_of


class Caller(NamedTuple):
    admin: bool = False
    key: Key | None = None
    """`None` for the administrator, and for callers without a key where auth is not required."""


def is_master(master_key: str | None, presented: str | None) -> bool:
    """Whether a secret is the master key, compared in constant time."""
    if not master_key or not presented:
        return False
    return hmac.compare_digest(master_key.encode(), presented.encode())


async def caller(request: Request) -> Caller:
    """Raises `ProxyError` 401."""
    found = await _caller(request)
    request.scope[CALLER] = found
    return found


async def _caller(request: Request) -> Caller:
    runtime = runtime_of(request)
    secret = credential(request.scope["headers"])
    if is_master(runtime.master_key, secret):
        return Caller(admin=True)
    return Caller(key=await runtime.keys.caller(secret, required=runtime.live.snapshot.auth_required))


async def virtual_key(request: Request) -> Key | None:
    """The caller's key, as the inference endpoints take it: the master key is refused. Raises `ProxyError` 401."""
    runtime = runtime_of(request)
    secret = credential(request.scope["headers"])
    key = await runtime.keys.caller(secret, required=runtime.live.snapshot.auth_required)
    request.scope[CALLER] = Caller(key=key)
    return key


async def require_admin(request: Request) -> None:
    """Raises `ProxyError`: admin_disabled without a master key, admin_required for a virtual key, else 401."""
    if runtime_of(request).master_key is None:
        message = "Admin endpoints are off: the server was started without PROXY_MASTER_KEY."
        raise ProxyError("admin_disabled", message)
    if not (await caller(request)).admin:
        raise ProxyError("admin_required", "This needs the master key.")
