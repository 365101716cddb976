"""The body of PromptLayer's `POST /log-request` for a request. Pure.

Only the fields named here are sent: no header, key or address, and prompts and answers only if `content` is on.
(docs.promptlayer.com/reference/log-request)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from codellama_proxy.core.masking import mask_for, masked
from codellama_proxy.core.money import NANOS
from codellama_proxy.core.snapshot import Tracking
from codellama_proxy.core.types import Failure
from codellama_proxy.openai_format.parameters import TRACKED_CONTENT, TRACKED_SETTINGS
from codellama_proxy.openai_format.request import TRACKING_KEYS, InferenceRequest
from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext
from codellama_proxy.request.transcript import MAX_CONTENT_BYTES
from codellama_proxy.tracking.promptlayer.blueprints import answer, chat_of, message_of, prompt

HINTS = ("x-promptlayer-tags", "x-promptlayer-prompt-name", "x-promptlayer-prompt-version")
"""Headers with the same meaning as the `TRACKING_KEYS` of the body's metadata."""

MAX_TAGS = 32
MAX_METADATA = 64
MAX_KEY_CHARS = 1024
MAX_VALUE_CHARS = 4096
MAX_MESSAGE_CHARS = 1024
REDACTED = "[redacted]"
TOO_LARGE = "[too large to be tracked]"

PROVIDERS: Mapping[str, str] = {
    "azure": "openai.azure",
    "gemini": "google",
    "bedrock": "amazon.bedrock",
}
"""Providers with another name at PromptLayer."""

ERROR_TYPES: Mapping[str, str] = {
    "busy": "PROVIDER_RATE_LIMIT",
    "credential": "PROVIDER_AUTH_ERROR",
    "client_left": "UNKNOWN_ERROR",
}


def record(context: RequestContext, charge: RequestCharge, tracking: Tracking) -> bytes:
    """The JSON body for a request that had at least one attempt, however it ended."""
    request = context.sent or context.request
    assert request is not None
    with_content = tracking.promptlayer_content and request.size <= MAX_CONTENT_BYTES
    tried = context.serving or context.tried
    clean = mask_for(tried) if tried is not None else str
    hints = _hints(context)
    fields: dict[str, Any] = {
        "provider": PROVIDERS.get(tried.provider, tried.provider) if tried else "codellama-proxy",
        "model": context.upstream_model or (clean(tried.model) if tried else request.model) or "unknown",
        "api_type": request.endpoint.replace("/", "-"),  # of `input`, whatever the client's dialect
        "input": prompt(request) if with_content else chat_of([message_of("user", _placeholder(tracking))]),
        "output": _output(context, request, tracking),
        "request_start_time": _iso(context.created_at),
        "request_end_time": _iso(context.created_at + max(context.ended - context.started, 0.0)),
        "parameters": masked(_parameters(request, with_content=with_content), clean),
        "tags": _tags([*tracking.promptlayer_tags, *_tag_list(hints.get("pl_tags"))]),
        "metadata": _metadata(context, charge, request),
        "input_tokens": charge.usage.prompt_tokens,
        "output_tokens": charge.usage.completion_tokens,
        **_template(hints, with_content=with_content),
        **_status(context, with_content=with_content),
    }
    if charge.cost_nanos is not None:
        fields["price"] = charge.cost_nanos / NANOS
    return orjson.dumps(fields, option=orjson.OPT_NON_STR_KEYS)


def score(value: int, name: str | None) -> bytes:
    """The JSON body of a score (0 to 100); the sender adds the id that PromptLayer gave the request."""
    return orjson.dumps({"score": value} | ({"name": name} if name else {}))


def metadata(given: Mapping[str, Any]) -> bytes:
    """The JSON body of more metadata; the sender adds the id that PromptLayer gave the request."""
    return orjson.dumps({"metadata": texts(given)})


# --- content -------------------------------------------------------------------------------------------------


def _placeholder(tracking: Tracking) -> str:
    """The placeholder for a prompt that is not sent."""
    return TOO_LARGE if tracking.promptlayer_content else REDACTED


def _output(context: RequestContext, request: InferenceRequest, tracking: Tracking) -> dict[str, Any]:
    if context.serving is None:
        return chat_of([])
    if not tracking.promptlayer_content:
        return chat_of([message_of("assistant", REDACTED)])
    choices = context.transcript.choices() if context.transcript else []
    return answer(request, choices)


# --- parameters and metadata ---------------------------------------------------------------------------------


def _parameters(request: InferenceRequest, *, with_content: bool) -> dict[str, Any]:
    names = (*TRACKED_SETTINGS, *TRACKED_CONTENT) if with_content else TRACKED_SETTINGS
    return {
        **{name: request.params[name] for name in names if name in request.params},
        "stream": request.stream,
    }


def _metadata(context: RequestContext, charge: RequestCharge, request: InferenceRequest) -> dict[str, str]:
    """The client's metadata as strings; the proxy's own names win."""
    given = {name: value for name, value in request.metadata.items() if name not in TRACKING_KEYS}
    ours: dict[str, Any] = {
        "request_id": context.id,
        "project": context.settings.name,
        "key_id": context.key.key_id if context.key else None,
        "endpoint": context.endpoint,
        "user": request.user,
        "session": context.session,
        "agent": context.agent,
        "model_requested": context.request.model if context.request else None,
        "model": context.serving.name if context.serving else None,
        "deployment": context.serving.id if context.serving else None,
        "status": context.status,
        "http_status": context.http_status,
        "finish_reason": context.finish_reason,
        "attempts": len(context.attempts),
        "basis": charge.basis,
        "cache": context.cache,
        "config": context.config,
        "cut": "answer" if context.transcript and context.transcript.cut else None,
    }
    return texts(given) | texts(ours)


def texts(given: Mapping[str, Any]) -> dict[str, str]:
    """Keys and values as strings of bounded length, without those that are null."""
    kept = [(str(k), v) for k, v in given.items() if v is not None and len(str(k)) <= MAX_KEY_CHARS]
    return {name: _as_text(value)[:MAX_VALUE_CHARS] for name, value in kept[:MAX_METADATA]}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _hints(context: RequestContext) -> dict[str, Any]:
    """The client's tags and prompt template, from the body's metadata or else from headers."""
    request, headers = context.request, context.hints
    by_header = {
        "pl_tags": headers.get("x-promptlayer-tags"),
        "prompt_name": headers.get("x-promptlayer-prompt-name"),
        "prompt_version": headers.get("x-promptlayer-prompt-version"),
    }
    given = request.metadata if request else {}
    by_body = {name: given[name] for name in TRACKING_KEYS & given.keys()}
    return {name: value for name, value in (by_header | by_body).items() if value is not None}


def _template(hints: Mapping[str, Any], *, with_content: bool) -> dict[str, Any]:
    name = hints.get("prompt_name")
    if not isinstance(name, str) or not name:
        return {}
    shown: dict[str, Any] = {"prompt_name": name[:MAX_KEY_CHARS]}
    version = str(hints.get("prompt_version", ""))
    if version.isascii() and version.isdecimal() and int(version[:18]) > 0:
        shown["prompt_version_number"] = int(version[:18])
    variables = hints.get("prompt_input_variables")
    if with_content and isinstance(variables, Mapping):
        shown["prompt_input_variables"] = dict(variables)
    return shown


def _tag_list(tags: Any) -> Sequence[str]:
    if isinstance(tags, str):
        return tags.split(",")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list | tuple) else ()


def _tags(tags: Iterable[str]) -> list[str]:
    kept = (tag.strip()[:MAX_KEY_CHARS] for tag in tags)
    return list(dict.fromkeys(tag for tag in kept if tag))[:MAX_TAGS]


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")


# --- status --------------------------------------------------------------------------------------------------


def _status(context: RequestContext, *, with_content: bool) -> dict[str, Any]:
    """Status and error. An answer after failed attempts, or one that the client disconnected from, is a warning."""
    failed = [attempt.failure for attempt in context.attempts if attempt.failure is not None]
    if context.complete:
        if not failed:
            return {"status": "SUCCESS"}
        message = f"Answered after {len(failed)} failed attempts."
        return _ended("WARNING", _error_type(failed[-1]), message)
    if context.gone:
        return _ended("WARNING", "PROVIDER_PARTIAL_RESPONSE", "The client left before the answer's end.")
    kind = _error_type(failed[-1]) if failed else "UNKNOWN_ERROR"
    if context.serving is not None:
        kind = "PROVIDER_PARTIAL_RESPONSE"
    message = "" if context.error is None else context.error.message if with_content else context.error.code
    return _ended("ERROR", kind, message or "internal_error")


def _ended(status: str, kind: str, message: str) -> dict[str, Any]:
    return {"status": status, "error_type": kind, "error_message": message[:MAX_MESSAGE_CHARS]}


def _error_type(failure: Failure) -> str:
    if "timeout" in failure.reason or failure.code == "upstream_timeout":
        return "PROVIDER_TIMEOUT"
    if "quota" in failure.reason or failure.status == 402:
        return "PROVIDER_QUOTA_LIMIT"
    return ERROR_TYPES.get(failure.cls, "PROVIDER_ERROR")
