"""The `/key/...` endpoints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.auth.keys import invalid_api_key
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Json
from codellama_proxy.core.types import Key
from codellama_proxy.store import key_fields as key_values
from codellama_proxy.store.key_fields import shown
from codellama_proxy.web.admin.key_info import endpoints_shown, limits_shown, own_standing, scopes_shown
from codellama_proxy.web.auth import caller, require_admin
from codellama_proxy.web.client_headers import credential
from codellama_proxy.web.http import exact_json_object, respond
from codellama_proxy.web.query_params import Query
from codellama_proxy.web.state import runtime_of, snapshot_of

# --- handlers ----------------------------------------------------------------------------------------------


async def generate(request: Request) -> Response:
    """Creates a key; the response contains its secret."""
    await require_admin(request)
    change = key_values.read(await exact_json_object(request))
    key, secret = await runtime_of(request).keys.create(change)
    return respond({"key": secret, **shown(key)})


async def info(request: Request) -> Response:
    """A key as it sees itself, or as an administrator sees it."""
    key, admin = await _requested(request)
    snapshot = snapshot_of(request)
    standings = await runtime_of(request).store.reports.standing(key, snapshot)
    return respond(
        {
            **shown(key),
            "endpoints": endpoints_shown(key, snapshot),
            "limits": limits_shown(key, snapshot),
            **own_standing(standings),
            "scopes": scopes_shown(standings, everything=admin),
        }
    )


async def list_keys(request: Request) -> Response:
    """All keys, or those of one project, the newest first."""
    await require_admin(request)
    query = Query(request, ("page", "size", "project"))
    page, size = query.page(), query.size()
    keys, total = await runtime_of(request).keys.page(page, size, query.text("project"))
    return respond({"data": [shown(key) for key in keys], "page": page, "size": size, "total": total})


async def update(request: Request) -> Response:
    """Changes only the fields that are given; null unsets one."""
    await require_admin(request)
    key_id, rest = await _subject(request)
    return respond(shown(await runtime_of(request).keys.update(key_id, key_values.read(rest))))


async def block(request: Request) -> Response:
    """Refuses the key from now on."""
    await require_admin(request)
    key_id, rest = await _subject(request)
    _only(rest)
    return respond(shown(await runtime_of(request).keys.block(key_id)))


async def unblock(request: Request) -> Response:
    """Accepts a blocked key again."""
    await require_admin(request)
    key_id, rest = await _subject(request)
    _only(rest)
    return respond(shown(await runtime_of(request).keys.unblock(key_id)))


async def delete(request: Request) -> Response:
    """Removes the key; what it spent stays on record."""
    await require_admin(request)
    key_id, rest = await _subject(request)
    _only(rest)
    key = await runtime_of(request).keys.delete(key_id)
    return respond({"key_id": key.key_id, "deleted": True})


async def regenerate(request: Request) -> Response:
    """The same key with a new secret; `overlap` keeps the old one valid for a while."""
    await require_admin(request)
    key_id, rest = await _subject(request)
    _only(rest, {"overlap"})
    given = rest.get("overlap")
    overlap = 0.0 if given is None else key_values.duration("overlap", given)
    key, secret = await runtime_of(request).keys.rotate(key_id, overlap)
    return respond({"key": secret, **shown(key)})


# --- reading the request ----------------------------------------------------------------------------------------


async def _requested(request: Request) -> tuple[Key, bool]:
    """The key to show, and whether the caller is the administrator."""
    who = await caller(request)
    query = Query(request, ("key_id", "key"))
    key_id, secret = query.text("key_id"), query.text("key")
    if who.admin:
        return await runtime_of(request).keys.get(await _named(request, key_id, secret)), True
    if who.key is None:
        raise invalid_api_key()
    if key_id not in {None, who.key.key_id} or secret not in {None, credential(request.scope["headers"])}:
        raise ProxyError("admin_required", "Only an administrator may look at other keys.")
    return who.key, False


async def _subject(request: Request) -> tuple[str, dict[str, Any]]:
    """The key id of a body, and its other fields."""
    body = await exact_json_object(request)
    rest = {field: value for field, value in body.items() if field not in {"key_id", "key"}}
    return await _named(request, body.get("key_id"), body.get("key")), rest


async def _named(request: Request, key_id: Any, secret: Any) -> str:
    if key_id is None and secret is None:
        raise ProxyError("missing_required_parameter", "'key_id' is required.", param="key_id")
    if key_id is not None and secret is not None:
        raise ProxyError("invalid_value", "Give either 'key_id' or 'key'.", param="key")
    if not isinstance(secret if key_id is None else key_id, str):
        param = "key" if key_id is None else "key_id"
        raise ProxyError("invalid_type", f"'{param}' must be a string.", param=param)
    return key_id if secret is None else (await runtime_of(request).keys.find(secret)).key_id


def _only(rest: Json, known: Iterable[str] = ()) -> None:
    unknown = next((field[:64] for field in rest if field not in known), None)
    if unknown is not None:
        raise ProxyError("unsupported_parameter", f"'{unknown}' is not known here.", param=unknown)
