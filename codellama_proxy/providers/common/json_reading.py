"""Reads upstreams' answers and their JSON, which may be anything: a field of another type counts as missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from codellama_proxy.core.snapshot import Json
from codellama_proxy.core.sse import DONE, Frame
from codellama_proxy.core.types import Failure
from codellama_proxy.failures import classify
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.failures.error_body import parse_error
from codellama_proxy.openai_format.usage import usage_in
from codellama_proxy.providers.common import json_documents as parsing
from codellama_proxy.providers.common.json_documents import UnreadableError

ERROR_EVENTS = frozenset({"error", "exception", "failure"})
"""Names of error events, whatever their data."""
KEEPALIVE_EVENTS = frozenset({"ping", "heartbeat", "keepalive", "keep-alive", "keep_alive"})
_ERROR_FIELDS = (
    *("detail", "errors", "fault", "exception", "msg", "err", "error_message", "error_msg", "error_code"),
    *("errorMessage", "errorCode", "error_type"),
)
_CODES = ("status", "code", "status_code", "statusCode")
_TELLING = frozenset({*_ERROR_FIELDS, *_CODES, "message", "error", "success", "base_resp"})
"""An object that reports a failure has at least one of these fields."""
_ERROR_STATUSES = ("error", "failed", "failure", "fail")


def load_answer(body: bytes) -> dict[str, Any]:
    """The object of a plain answer. Raises `AttemptError` for anything else, and for an object that is an error."""
    body, found = load_document(body)
    if is_error(found):
        raise AttemptError(failure_in_band(body, found))
    return found


def load_object(body: bytes) -> dict[str, Any]:
    """The object of a plain answer, which may still be an error. Raises `AttemptError` for anything else."""
    return load_document(body)[1]


def load_document(body: bytes, read: Callable[[bytes], Any] = parsing.whole) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a plain answer, repaired where necessary, and their object. Raises `AttemptError`."""
    try:
        found = read(body)
    except UnreadableError:
        body = parsing.repaired(body)
        found = parsing.loads(body)
    if not isinstance(found, dict):
        if isinstance(found, list) and found and isinstance(found[0], dict) and is_error(found[0]):
            raise AttemptError(failure_in_band(body, found[0]))
        wrong("not_an_object")
    return body, found


def failure_in_band(raw: bytes, found: Mapping[str, Any]) -> Failure:
    """The failure for an error with status 200; `found`: its object, which may report usage."""
    return replace(classify.in_band(parse_error(raw), 200), usage=usage_in(found))


def model_of(found: Mapping[str, Any]) -> str | None:
    """The model that an answer names; `None` if it names none."""
    model = found.get("model")
    return model if isinstance(model, str) and model else None


def piece_of(frame: Frame, read: Callable[[bytes], Any] = parsing.piece) -> dict[str, Any] | None:
    """The object in a frame of a stream; `None` for a frame without data, for keep-alives and for `[DONE]`.

    `read` parses the data. Raises `UnreadableError` for data that are no object, `AttemptError` for an error event.
    """
    data = frame.data
    if is_done(frame):
        return None
    if frame.event.lower() in ERROR_EVENTS:
        raise AttemptError(failure_in_band(data, {}))
    if not data or data.isspace() or frame.event.lower() in KEEPALIVE_EVENTS:
        return None
    found = read(data)
    if isinstance(found, list) and found and isinstance(found[0], dict) and is_error(found[0]):
        raise AttemptError(failure_in_band(data, found[0]))
    if not isinstance(found, dict):
        raise UnreadableError("not_an_object")
    if is_error(found):
        raise AttemptError(failure_in_band(data, found))
    return found


def is_done(frame: Frame) -> bool:
    """Whether it is `[DONE]`, which ends a stream."""
    return frame.data.strip() == DONE


def wrong(reason: str) -> NoReturn:
    """Raises `AttemptError` of class `disguised` for an invalid answer."""
    raise AttemptError(classify.disguised(reason, status=200))


def is_error(found: Json) -> bool:
    """Whether an object that came with status 200 is an error, in any of the forms that upstreams use."""
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
    """The value at this path of names; `None` if part of it is missing or no object."""
    for name in names:
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


def text_at(found: Any, *names: str) -> str:
    value = dig(found, *names)
    return value if isinstance(value, str) else ""


def words_at(found: Any, *names: str) -> str:
    """The text at this path, empty if missing. Raises `AttemptError` for another type."""
    value = dig(found, *names)
    if value is None:
        return ""
    if not isinstance(value, str):
        wrong("not_a_text")
    return value


def count_at(found: Any, *names: str) -> int | None:
    """The count at this path, which some send as a float; `None` if it is missing or no count."""
    value = dig(found, *names)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53
    return int(value) if whole else None


def listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


def objects(found: Any) -> list[dict[str, Any]]:
    """The objects in a list; none of another type."""
    return [one for one in listed(found) if isinstance(one, dict)]
