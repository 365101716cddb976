"""Reads JSON that may be anything: what is missing or of another kind is simply not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from codellama_proxy.core.snapshot import Json
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Failure
from codellama_proxy.failures.classify import AttemptError, disguised
from codellama_proxy.providers.common import json_documents as parsing
from codellama_proxy.providers.common.json_documents import UnreadableError

ERROR_EVENTS = frozenset({"error", "exception", "failure"})
"""Names of events that tell an error, whatever their data look like."""
KEEPALIVE_EVENTS = frozenset({"ping", "heartbeat", "keepalive", "keep-alive", "keep_alive"})
_ERROR_FIELDS = (
    *("detail", "errors", "fault", "exception", "msg", "err", "error_message", "error_msg", "error_code"),
    *("errorMessage", "errorCode", "error_type"),
)
_CODES = ("status", "code", "status_code", "statusCode")
_TELLING = frozenset({*_ERROR_FIELDS, *_CODES, "message", "error", "success", "base_resp"})
"""Fields of which an object that tells a failure has at least one."""
_ERROR_STATUSES = ("error", "failed", "failure", "fail")


def piece_of(frame: Frame, failure: Callable[[bytes, Json], Failure]) -> dict[str, Any] | None:
    """The object in a stream's frame; `None` for a frame that carries none.

    Raises `UnreadableError` for data that are no object, and the `failure` of those that tell an error.
    """
    data = frame.data
    if frame.event.lower() in ERROR_EVENTS:
        raise AttemptError(failure(data, {}))
    if not data or data.isspace() or frame.event.lower() in KEEPALIVE_EVENTS:
        return None
    found = parsing.piece(data)
    if isinstance(found, list) and found and isinstance(found[0], dict) and is_error(found[0]):
        raise AttemptError(failure(data, found[0]))
    if not isinstance(found, dict):
        raise UnreadableError("not_an_object")
    if is_error(found):
        raise AttemptError(failure(data, found))
    return found


def wrong(reason: str) -> NoReturn:
    """Raises `AttemptError` for an answer that is not what its dialect says."""
    raise AttemptError(disguised(reason, status=200))


def is_error(found: Json) -> bool:
    """Whether an object that came with status 200 tells an error, in any of the shapes that upstreams use."""
    if found.get("error"):
        return True
    if "error" in (found.get("type"), found.get("object")) or dig(found, "x_groq", "error"):
        return True
    if found.get("choices"):
        return False
    return _reports_failure(found)


def _reports_failure(found: Json) -> bool:
    """The shapes without an `error` field; for objects that carry no content."""
    if _TELLING.isdisjoint(found):
        return False
    if isinstance(found.get("message"), str) or any(found.get(name) for name in _ERROR_FIELDS):
        return True
    if found.get("error") in ("", {}, []):
        return True
    status = found.get("status")
    if status in _ERROR_STATUSES or found.get("success") is False:
        return True
    return any(_is_status(found.get(name)) for name in _CODES) or bool(dig(found, "base_resp", "status_code"))


def _is_status(value: object) -> bool:
    return isinstance(value, int) and 400 <= value < 600


def dig(found: Any, *names: str) -> Any:
    """What lies under these names; `None` where anything on the way is no object."""
    for name in names:
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def text_at(found: Any, *names: str) -> str:
    value = dig(found, *names)
    return value if isinstance(value, str) else ""


def words_at(found: Any, *names: str) -> str:
    """Text that must not get lost: empty where there is none. Raises `AttemptError` where it is of another kind."""
    value = dig(found, *names)
    if value is None:
        return ""
    if not isinstance(value, str):
        wrong("not_a_text")
    return value


def count_at(found: Any, *names: str) -> int | None:
    """A number of tokens, which some send as a float."""
    value = dig(found, *names)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53
    return int(value) if whole else None


def listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []
