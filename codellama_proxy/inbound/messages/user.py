"""The end user of a request, as per-user limits count it: an account or a device, never a session."""

from __future__ import annotations

import re

import orjson

_SESSION = re.compile(r"_session_.*", re.DOTALL)


def user_of(user_id: str) -> str | None:
    """The user in `metadata.user_id`; `None` if it names only a session.

    Claude Code sends a JSON object as a string, older versions `user_X_account_Y_session_Z`.
    """
    try:
        found = orjson.loads(user_id)
    except orjson.JSONDecodeError:
        return _SESSION.sub("", user_id) or None
    if not isinstance(found, dict):
        return user_id or None
    for name in ("account_uuid", "device_id"):
        if isinstance(value := found.get(name), str) and value:
            return value
    return None if "session_id" in found else user_id
