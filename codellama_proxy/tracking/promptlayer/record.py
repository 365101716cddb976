"""A request as PromptLayer's `POST /log-request` wants it: pure, and only fields that are named here.

No header, no key and no address is ever
part of a record, and without `content` nothing that anybody said.
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
from codellama_proxy.request.transcript import MOST_BYTES
from codellama_proxy.tracking.promptlayer.blueprints import answer, chat_of, message_of, prompt

HINTS = ("x-promptlayer-tags", "x-promptlayer-prompt-name", "x-promptlayer-prompt-version")
"""Headers by which a client says the same as with `TRACKING_KEYS`."""

MOST_TAGS = 32
MOST_METADATA = 64
LONGEST_KEY = 1024
LONGEST_VALUE = 4096
LONGEST_MESSAGE = 1024
REDACTED = "[redacted]"
TOO_LARGE = "[too large to be tracked]"

PROVIDERS: Mapping[str, str] = {
    "azure": "openai.azure",
    "gemini": "google",
    "bedrock": "amazon.bedrock",
}
"""Where PromptLayer has another word than we."""

ERROR_TYPES: Mapping[str, str] = {
    "busy": "PROVIDER_RATE_LIMIT",
    "credential": "PROVIDER_AUTH_ERROR",
    "client_left": "UNKNOWN_ERROR",
}


def record(trace: RequestContext, done: RequestCharge, tracking: Tracking) -> bytes:
    """The body of one request that was tried, however it ended."""
    chat = trace.sent or trace.chat
    assert chat is not None
    spoken = tracking.promptlayer_content and chat.size <= MOST_BYTES
    tried = trace.serving or trace.tried
    clean = mask_for(tried) if tried is not None else str
    hints = _hints(trace)
    fields: dict[str, Any] = {
        "provider": PROVIDERS.get(tried.provider, tried.provider) if tried else "codellama-proxy",
        "model": trace.upstream_model or (clean(tried.model) if tried else chat.model) or "unknown",
        "api_type": trace.endpoint.replace("/", "-"),
        "input": prompt(chat) if spoken else chat_of([message_of("user", _instead(tracking))]),
        "output": _output(trace, chat, tracking),
        "request_start_time": _iso(trace.created_at),
        "request_end_time": _iso(trace.created_at + max(trace.ended - trace.started, 0.0)),
        "parameters": masked(_parameters(chat, spoken=spoken), clean),
        "tags": _tags([*tracking.promptlayer_tags, *_listed(hints.get("pl_tags"))]),
        "metadata": _metadata(trace, done, chat),
        "input_tokens": done.usage.prompt_tokens,
        "output_tokens": done.usage.completion_tokens,
        **_template(hints, spoken=spoken),
        **_status(trace, spoken=spoken),
    }
    if done.cost_nanos is not None:
        fields["price"] = done.cost_nanos / NANOS
    return orjson.dumps(fields, option=orjson.OPT_NON_STR_KEYS)


def score(value: int, name: str | None) -> bytes:
    """A score for a request; who delivers it adds the request's number."""
    return orjson.dumps({"score": value} | ({"name": name} if name else {}))


def metadata(given: Mapping[str, Any]) -> bytes:
    """More metadata for a request."""
    return orjson.dumps({"metadata": texts(given)})


# --- what was said ------------------------------------------------------------------------------------------


def _instead(tracking: Tracking) -> str:
    """What stands for a prompt that is not sent."""
    return TOO_LARGE if tracking.promptlayer_content else REDACTED


def _output(trace: RequestContext, chat: InferenceRequest, tracking: Tracking) -> dict[str, Any]:
    if trace.serving is None:
        return chat_of([])
    if not tracking.promptlayer_content:
        return chat_of([message_of("assistant", REDACTED)])
    choices = trace.transcript.choices() if trace.transcript else []
    return answer(chat, choices)


# --- what belongs to it ------------------------------------------------------------------------------------


def _parameters(chat: InferenceRequest, *, spoken: bool) -> dict[str, Any]:
    names = (*TRACKED_SETTINGS, *TRACKED_CONTENT) if spoken else TRACKED_SETTINGS
    return {**{name: chat.params[name] for name in names if name in chat.params}, "stream": chat.stream}


def _metadata(trace: RequestContext, done: RequestCharge, chat: InferenceRequest) -> dict[str, str]:
    """The client's own, as strings, under what we say ourselves."""
    given = {name: value for name, value in chat.metadata.items() if name not in TRACKING_KEYS}
    ours: dict[str, Any] = {
        "request_id": trace.id,
        "project": trace.project,
        "key_id": trace.key.key_id if trace.key else None,
        "user": chat.user,
        "model_requested": trace.chat.model if trace.chat else None,
        "model": trace.serving.name if trace.serving else None,
        "deployment": trace.serving.id if trace.serving else None,
        "status": trace.status,
        "http_status": trace.http_status,
        "finish_reason": trace.finish_reason,
        "attempts": len(trace.attempts),
        "basis": done.basis,
        "cache": trace.cache,
        "config": trace.config,
        "cut": "answer" if trace.transcript and trace.transcript.cut else None,
    }
    return texts(given) | texts(ours)


def texts(given: Mapping[str, Any]) -> dict[str, str]:
    """Keys and values as strings of bearable length; without those that are null."""
    kept = [(str(k), v) for k, v in given.items() if v is not None and len(str(k)) <= LONGEST_KEY]
    return {name: _as_text(value)[:LONGEST_VALUE] for name, value in kept[:MOST_METADATA]}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _hints(trace: RequestContext) -> dict[str, Any]:
    """What the client says about the template it used: in the body's metadata, or else in headers."""
    chat, headers = trace.chat, trace.hints
    by_header = {
        "pl_tags": headers.get("x-promptlayer-tags"),
        "prompt_name": headers.get("x-promptlayer-prompt-name"),
        "prompt_version": headers.get("x-promptlayer-prompt-version"),
    }
    given = chat.metadata if chat else {}
    by_body = {name: given[name] for name in TRACKING_KEYS & given.keys()}
    return {name: value for name, value in (by_header | by_body).items() if value is not None}


def _template(hints: Mapping[str, Any], *, spoken: bool) -> dict[str, Any]:
    name = hints.get("prompt_name")
    if not isinstance(name, str) or not name:
        return {}
    shown: dict[str, Any] = {"prompt_name": name[:LONGEST_KEY]}
    version = str(hints.get("prompt_version", ""))
    if version.isascii() and version.isdecimal() and int(version[:18]) > 0:
        shown["prompt_version_number"] = int(version[:18])
    variables = hints.get("prompt_input_variables")
    if spoken and isinstance(variables, Mapping):
        shown["prompt_input_variables"] = dict(variables)
    return shown


def _listed(tags: Any) -> Sequence[str]:
    if isinstance(tags, str):
        return tags.split(",")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list | tuple) else ()


def _tags(tags: Iterable[str]) -> list[str]:
    kept = (tag.strip()[:LONGEST_KEY] for tag in tags)
    return list(dict.fromkeys(tag for tag in kept if tag))[:MOST_TAGS]


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")


# --- how it went -------------------------------------------------------------------------------------------


def _status(trace: RequestContext, *, spoken: bool) -> dict[str, Any]:
    """An answer that took several attempts, or that its client left, is a warning."""
    failed = [attempt.failure for attempt in trace.attempts if attempt.failure is not None]
    if trace.complete:
        if not failed:
            return {"status": "SUCCESS"}
        words = f"Answered after {len(failed)} failed attempts."
        return _ended("WARNING", _error_type(failed[-1]), words)
    if trace.gone:
        return _ended("WARNING", "PROVIDER_PARTIAL_RESPONSE", "The client left before the answer's end.")
    kind = _error_type(failed[-1]) if failed else "UNKNOWN_ERROR"
    if trace.serving is not None:
        kind = "PROVIDER_PARTIAL_RESPONSE"
    words = "" if trace.error is None else trace.error.message if spoken else trace.error.code
    return _ended("ERROR", kind, words or "internal_error")


def _ended(status: str, kind: str, words: str) -> dict[str, Any]:
    return {"status": status, "error_type": kind, "error_message": words[:LONGEST_MESSAGE]}


def _error_type(failure: Failure) -> str:
    if "timeout" in failure.reason or failure.code == "upstream_timeout":
        return "PROVIDER_TIMEOUT"
    if "quota" in failure.reason or failure.status == 402:
        return "PROVIDER_QUOTA_LIMIT"
    return ERROR_TYPES.get(failure.cls, "PROVIDER_ERROR")
