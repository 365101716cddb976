"""Who is to blame for a failed attempt: every status, body, timeout and broken stream becomes one `Failure`.

One classifier for all providers and for streams and plain answers alike (the classes are `FailureClass`):

    caller      the request itself; the next deployment would refuse it too, unless `fallback_on` says otherwise
    credential  our key, our quota, our model name: this deployment is of no use for a while
    busy        the deployment works but has no room now
    transient   it may well work the next time
    disguised   said 200 and meant a failure

An upstream's own words are kept apart (`Failure.said`), and shown only after `told` has cleaned them with what is known
of the deployment's secrets.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from codellama_proxy.core.masking import Clean, sentence, words
from codellama_proxy.core.types import Failure, FailureClass
from codellama_proxy.failures import repairs, wording

BY_STATUS: Mapping[int, FailureClass] = {
    400: "caller",
    401: "credential",
    402: "credential",
    403: "credential",
    404: "caller",
    407: "credential",
    408: "transient",
    409: "transient",
    413: "caller",
    422: "caller",
    424: "transient",
    425: "transient",
    429: "busy",
    498: "busy",
    529: "busy",
}

CODE_OF_CLASS: Mapping[FailureClass, str] = {
    "caller": "upstream_rejected",
    "credential": "upstream_auth_failed",
    "busy": "upstream_rate_limited",
    "transient": "upstream_error",
    "disguised": "upstream_invalid_response",
    "client_left": "upstream_error",
}

MESSAGE_OF_CLASS: Mapping[FailureClass, str] = {
    "caller": "The upstream refused the request.",
    "credential": "The upstream did not accept this proxy's credential or quota for the model.",
    "busy": "The upstream is rate limited or overloaded.",
    "transient": "The upstream failed.",
    "disguised": "The upstream's answer was not valid.",
    "client_left": "The client left.",
}

LONGEST_PARAM = 256
"""Characters."""
LONGEST_WAIT = 86400.0
"""Seconds: who says "in a year" means "not today", and the number has to fit into a header."""
CALLER_REASONS = frozenset({400, 403, 413, 422, 498})
"""Statuses with which a request may have been refused for what it says."""


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """An error body of any provider, read as far as it could be understood."""

    message: str = ""
    code: str = ""
    type: str = ""
    param: str | None = None
    status: int | None = None
    """The HTTP status that it says itself, from 400 on."""
    flagged: bool = False
    """A moderation says what it found."""


class AttemptError(Exception):
    """Raised by dialects and by the upstream edge; the routing loop is its only reader."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def of_status(status: int, headers: Mapping[str, str], error: UpstreamError, now: float) -> Failure:
    """An answer whose status is not 200. `now` is unix seconds, for HTTP dates."""
    if status < 400:
        reason = "redirect" if status >= 300 else f"http_{status}"
        return replace(disguised(reason, status=status), refused=status >= 300)
    return _classed(status, error, f"http_{status}", retry_after(headers, now))


def in_band(error: UpstreamError, status: int | None = None) -> Failure:
    """An error inside a 200: as the whole body, as a stream's first event, or later in it.

    One that says a status, or has a code or type that stands for one, means what it means with that status.
    """
    own = error.status or wording.STATUSES.get(error.code) or wording.STATUSES.get(error.type)
    if own is None and status is not None and status >= 400:
        own = status
    if own is not None:
        return _classed(own, error, "error_in_200")
    reason = _caller_reason(error)
    return _failure("caller" if reason else "disguised", status, error, reason=reason or "error_in_200")


def _classed(status: int, error: UpstreamError, otherwise: str, wait: float | None = None) -> Failure:
    """`otherwise` is the reason where the error has no better one."""
    reason = _caller_reason(error) if status in CALLER_REASONS else ""
    if reason:
        return _failure("caller", status, error, reason=reason, wait=wait)
    cls = _class_of(status, error, wait)
    if cls == "caller" and status in (400, 404) and wording.passes_over(error.message):
        passed = _failure("credential", status, error, reason=otherwise, wait=wait)
        return replace(passed, cools=False)
    return _failure(cls, status, error, reason=otherwise, wait=wait)


def disguised(reason: str, *, status: int | None = None) -> Failure:
    """A 200 that is not an answer: `not_json`, `no_choices`, `empty_stream`, `cut_stream` ..."""
    return _failure("disguised", status, UpstreamError(), reason=reason, refused=False)


def too_large(*, answered: bool) -> Failure:
    """What we cut. An answer is as large as its request made it: it is not tried again, and cools no deployment."""
    if not answered:
        return disguised("too_large", status=200)
    return Failure(
        "caller",
        status=200,
        code="upstream_invalid_response",
        message="The upstream's answer is larger than this proxy accepts.",
        reason="too_large",
    )


def unreachable(reason: str, *, sent: bool) -> Failure:
    """No HTTP answer at all: `connect`, `tls`, `read` ...; `sent`: the request may have been processed."""
    return Failure("transient", reason=reason, sent=sent, message="The upstream could not be reached.")


def timed_out(reason: str, *, sent: bool = True) -> Failure:
    """`connect_timeout`, `first_token_timeout`, `idle_timeout`, `answer_timeout`."""
    message = "The upstream did not answer in time."
    return Failure("transient", code="upstream_timeout", reason=reason, sent=sent, message=message)


def _class_of(status: int, error: UpstreamError, wait: float | None) -> FailureClass:
    said = {error.code.lower(), error.type.lower()}
    if status in (400, 429) and said & wording.QUOTA:
        return "credential"
    if status in (400, 404) and said & (wording.KEY | wording.MODEL):
        return "credential"
    if status == 503 and wait is not None:
        return "busy"
    return BY_STATUS.get(status, "transient" if status >= 500 else "caller")


def _caller_reason(error: UpstreamError) -> str:
    return wording.caller_reason(error.message, error.code, flagged=error.flagged)


def _failure(
    cls: FailureClass,
    status: int | None,
    error: UpstreamError,
    *,
    reason: str,
    wait: float | None = None,
    refused: bool = True,
) -> Failure:
    code = {"context_length": "context_length_exceeded", "content_filter": "content_filter"}.get(
        reason, CODE_OF_CLASS[cls]
    )
    callers = cls == "caller"
    return Failure(
        cls,
        status=status,
        code=code,
        message=MESSAGE_OF_CLASS[cls],
        retry_after=wait,
        reason=reason,
        refused=refused,
        said=error.message if callers else "",
        said_param=error.param if callers else None,
        unsupported=_unsupported(error) if callers and status in (400, 422) else "",
    )


def _unsupported(error: UpstreamError) -> str:
    return repairs.named(error.code, error.type, error.message, error.param)


TOLD_WHOLE = frozenset({None, 200, 400, 413, 422})
"""Statuses with which a caller's fault is told in all of the upstream's words."""


def told(failure: Failure, clean: Clean) -> Failure:
    """The failure as it may be shown: with the upstream's words, cleaned of what `clean` and we take for secrets."""
    if not failure.said and failure.said_param is None:
        return failure
    shown = (words if failure.status in TOLD_WHOLE else sentence)(failure.said, clean)
    param = words(failure.said_param or "", clean, LONGEST_PARAM) or None
    return replace(failure, message=shown or failure.message, param=param, said="", said_param=None)


# --- reading what upstreams say ------------------------------------------------------------------------------


def parse_error(body: bytes) -> UpstreamError:
    """Any provider's error body (reference forms: OpenAI, FastAPI's `detail`, `message`, lists, plain text)."""
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
            return replace(
                error,
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
    """The more exact code that some put further inside: Azure, Anthropic, Google."""
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
    """OpenRouter's form: what a moderation objects to, and where."""
    return isinstance(metadata, dict) and bool(metadata.get("reasons") or metadata.get("flagged_input"))


def _location(loc: Any) -> str | None:
    """FastAPI's way to say which field it means: `["body", "top_k"]`."""
    if not isinstance(loc, list) or len(loc) < 2 or loc[0] != "body":
        return None
    return ".".join(str(part) for part in loc[1:] if isinstance(part, str | int)) or None


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait: `retry-after-ms`, else `retry-after` as seconds or HTTP date; `None` for neither or nonsense."""
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, LONGEST_WAIT)
    value = headers.get("retry-after", "")
    seconds = _seconds(value)
    if seconds is None:
        seconds = _until(value, now)
    return None if seconds is None else min(seconds, LONGEST_WAIT)


def _until(date: str, now: float) -> float | None:
    try:
        return max(email.utils.parsedate_to_datetime(date).timestamp() - now, 0.0)
    except (ValueError, OverflowError, OSError):
        return None


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value) if value is not None else -1.0
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
