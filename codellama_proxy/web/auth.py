"""The caller of a request: a virtual key or the administrator."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import NamedTuple

from starlette.requests import Request

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Key
from codellama_proxy.web.observed import CALLER
from codellama_proxy.web.state import runtime_of

NO_BEARER = "-"
"""The credential of a scheme other than Bearer: it matches no key."""


class Caller(NamedTuple):
    admin: bool = False
    key: Key | None = None
    """`None` for the administrator, and for callers without a key where auth is not required."""


def credential(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The secret of a request, from `Authorization: Bearer`, `x-api-key` or `api-key`; `None` without one.

    Some clients send both of the first two, and `Bearer undefined` when they have only the second. Two
    `Authorization` headers are refused: a reverse proxy may have checked the other one.
    """
    bearer: str | None = None
    plain: str | None = None
    for name, value in headers:
        if name == b"authorization":
            if bearer is not None:
                raise ProxyError(
                    "invalid_value", "There is more than one Authorization header.", param="authorization"
                )
            kind, _, rest = value.decode("latin-1").partition(" ")
            bearer = rest.strip() if kind.lower() == "bearer" else NO_BEARER
        elif name in (b"x-api-key", b"api-key"):
            plain = plain or value.decode("latin-1").strip()
    if bearer and (bearer not in (NO_BEARER, "undefined", "null") or not plain):
        return bearer
    return plain or None


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
