"""Sessions of the dashboard: a random ID in a cookie, its SHA-256 in the database, and no key in either.

Every request checks the credential behind a session again, so blocking a key or changing the master key ends it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from starlette.requests import Request

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.interfaces import UiSession
from codellama_proxy.web.auth import is_master
from codellama_proxy.web.state import Runtime
from codellama_proxy.web.ui.viewer import Viewer

COOKIE = "proxy_session"
MAX_SESSION_SECONDS = 7 * 86400.0
"""After this a session ends, however much it is used."""
SEEN_SECONDS = 300.0
"""The longest time between two records of a session's use."""
ID_BYTES = 32
_MAX_ID_CHARACTERS = 64


async def begin(runtime: Runtime, secret: str, *, secure: bool) -> str:
    """Starts a session for the holder of a secret; returns its ID. Raises `ProxyError` 401 or 503."""
    now = runtime.time.wall()
    session_id = secrets.token_urlsafe(ID_BYTES)
    if is_master(runtime.master_key, secret):
        session = UiSession(None, _mark(session_id, secret), secure, now, now)
    else:
        await runtime.keys.authenticate(secret)
        session = UiSession(hashlib.sha256(secret.encode()).hexdigest(), None, secure, now, now)
    await runtime.store.ui_sessions.add(_hash(session_id), session)
    return session_id


async def find(runtime: Runtime, session_id: str | None) -> tuple[Viewer, UiSession] | None:
    """The viewer of a session that is in force. Raises `ProxyError` 503, `StoreUnavailableError`."""
    if not session_id or len(session_id) > _MAX_ID_CHARACTERS or not session_id.isascii():
        return None
    id_hash = _hash(session_id)
    found = await runtime.store.ui_sessions.find(id_hash)
    if found is None or _is_over(runtime, found):
        return None
    if found.secret_hash is None:
        master_key = runtime.master_key
        if master_key is None or not hmac.compare_digest(
            found.master_mark or "", _mark(session_id, master_key)
        ):
            return None
        return Viewer(None, id_hash), found
    try:
        return Viewer(await runtime.keys.of_hash(found.secret_hash), id_hash), found
    except ProxyError as error:
        if error.status != 401:
            raise
        return None


def is_due(runtime: Runtime, session: UiSession) -> bool:
    """Whether the session's use has to be recorded."""
    pause = min(SEEN_SECONDS, runtime.live.snapshot.ui.session / 10)
    return runtime.time.wall() - session.seen_at >= pause


def _is_over(runtime: Runtime, session: UiSession) -> bool:
    now = runtime.time.wall()
    idle = now - session.seen_at > runtime.live.snapshot.ui.session
    return idle or now - session.created_at > MAX_SESSION_SECONDS


async def end(runtime: Runtime, session_id: str | None) -> None:
    """Ends a session, if there is one with this ID."""
    if session_id:
        await runtime.store.ui_sessions.end(_hash(session_id))


def cookie(request: Request) -> str | None:
    """The session's ID from a request's cookie."""
    return request.cookies.get(COOKIE)


def set_cookie(session_id: str, seconds: float, *, secure: bool) -> str:
    """The header for a session. Without a path, the cookie is sent to the directory of the page that sets it: `/ui`,
    under any prefix that a reverse proxy removes, and never to the API."""
    flags = f"HttpOnly; SameSite=Strict; Max-Age={int(seconds)}"
    return f"{COOKIE}={session_id}; {flags}{'; Secure' if secure else ''}"


def _hash(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()


def _mark(session_id: str, master_key: str) -> str:
    """Tells two master keys apart. Keyed by the ID, so the database alone gives nothing to test guesses against."""
    return hmac.digest(session_id.encode(), master_key.encode(), "sha256").hex()
