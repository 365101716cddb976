"""Reads the error bodies of all providers into one form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson


class UpstreamError(NamedTuple):
    """What an error body says; fields that could not be read are empty."""

    message: str = ""
    code: str = ""
    type: str = ""
    param: str | None = None
    status: int | None = None
    """The HTTP status in the body, from 400 on."""
    flagged: bool = False
    """It names what a moderation flagged."""


def parse_error(body: bytes) -> UpstreamError:
    """The error in a body: OpenAI's, FastAPI's `detail`, `message`, lists of these or plain text. Never raises."""
    try:
        return _error_of(orjson.loads(body))
    except (orjson.JSONDecodeError, RecursionError):
        return UpstreamError(message=body[:2000].decode("utf-8", "replace"))


def _error_of(found: Any) -> UpstreamError:
    if isinstance(found, list) and found:
        return _error_of(found[0])
    if not isinstance(found, dict):
        return UpstreamError(message=found if isinstance(found, str) else "")
    for wrapper in ("error", "detail", "errors"):
        inner = found.get(wrapper)
        if isinstance(inner, dict | list | str) and inner:
            error = _error_of(inner)
            return error._replace(
                code=error.code or _text(found.get("error_type")) or _text(found.get("code")),
                type=error.type or _text(found.get("type")),
                status=error.status or _own_status(found),
            )
    param = found.get("param") or _location(found.get("loc"))
    return UpstreamError(
        _text(found.get("message") or found.get("msg")),
        _inner_code(found) or _text(found.get("code")),
        _text(found.get("type")),
        param if isinstance(param, str) else None,
        _own_status(found),
        _flagged(found.get("metadata")),
    )


def _inner_code(found: Mapping[str, Any]) -> str:
    """The more specific code that Azure, Anthropic and Google nest inside."""
    inner, details = found.get("innererror"), found.get("details")
    if isinstance(inner, dict) and (code := _text(inner.get("code"))):
        return "content_filter" if code == "ResponsibleAIPolicyViolation" else code
    if isinstance(details, dict):
        return _text(details.get("error_code"))
    reasons = [d.get("reason") for d in details if isinstance(d, dict)] if isinstance(details, list) else []
    return next((reason for reason in reasons if isinstance(reason, str)), "")


def _own_status(found: Mapping[str, Any]) -> int | None:
    for name in ("status_code", "code", "status"):
        value = found.get(name)
        if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return None


def _flagged(metadata: Any) -> bool:
    """Whether it has OpenRouter's form of a moderation result."""
    return isinstance(metadata, dict) and bool(metadata.get("reasons") or metadata.get("flagged_input"))


def _location(loc: Any) -> str | None:
    """The field in FastAPI's `loc`, such as `["body", "top_k"]`."""
    if not isinstance(loc, list) or len(loc) < 2 or loc[0] != "body":
        return None
    return ".".join(str(part) for part in loc[1:] if isinstance(part, str | int)) or None


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
