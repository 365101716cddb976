"""Converts chat requests to OpenAI's Responses API (platform.openai.com/docs/api-reference/responses/create).

Nothing is stored at OpenAI: every request has the whole conversation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.openai_format.parameters import IGNORABLE
from codellama_proxy.openai_format.request import SYSTEM_ROLES, TRACKING_KEYS, InferenceRequest, Message
from codellama_proxy.providers.common import legacy_functions as legacy
from codellama_proxy.providers.common import translated
from codellama_proxy.providers.common.identity import short
from codellama_proxy.providers.common.parameters import (
    Policy,
    UnsupportedError,
    narrow_tool_choice,
    translate,
)
from codellama_proxy.providers.openai.endpoint_urls import address, credential, upstream_model
from codellama_proxy.providers.openai.profiles import profile_of
from codellama_proxy.providers.openai.request import drop_refused, narrow_hints

MIN_OUTPUT_TOKENS = 16
"""The smallest `max_output_tokens` that OpenAI accepts."""
SAME_NAMES = (
    *("temperature", "top_p", "service_tier", "parallel_tool_calls", "top_logprobs"),
    *("prompt_cache_retention", "prompt_cache_options"),
)


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """The HTTP request for `chat`. Raises `ProxyError`: unsupported_parameter, invalid_value."""
    chat = translated.plain_chat(legacy.modern(chat), deployment, system_first=False)
    params, dropped = _params(chat, deployment)
    instructions, messages = _instructions(chat.messages)
    body = {
        "model": upstream_model(deployment),
        **instructions,
        "input": [item for message in messages for item in _items(message)],
        **params,
        **_metadata(chat),
        "store": False,
        **({"stream": True} if chat.stream else {}),
    }
    sent = request_to(
        deployment, orjson.dumps(body, default=dict)
    )  # an entry's parameters are read-only mappings
    return sent._replace(dropped=translated.dropped(dropped, chat))


def request_to(deployment: Deployment, body: bytes) -> HttpRequest:
    """The HTTP request with this body."""
    profile = profile_of(deployment)
    headers = {"content-type": "application/json", **profile.headers, **deployment.headers}
    return HttpRequest(
        address(deployment, profile, "/responses"), {**headers, **credential(deployment, profile)}, body
    )


# --- parameters --------------------------------------------------------------------------------------------------


def _params(chat: InferenceRequest, deployment: Deployment) -> tuple[dict[str, Any], tuple[str, ...]]:
    profile = profile_of(deployment)
    params = dict(narrow_tool_choice(chat.params))
    left_out = narrow_hints(params, chat, deployment, profile) if chat.soft else []
    left_out += drop_refused(params, deployment, profile, chat.soft)
    sent, dropped = translate(params, POLICY, deployment, chat.soft)
    merged: dict[str, Any] = {}
    for name, value in sent.items():
        outer, _, inner = name.partition(".")
        merged[outer] = {**merged.get(outer, {}), inner: value} if inner else value
    return merged, (*left_out, *dropped)


def _bound(value: int) -> Mapping[str, Any]:
    return {"max_output_tokens": max(value, MIN_OUTPUT_TOKENS)}


def _format(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema stands beside its type here, not in an object of its own."""
    schema = given.get("json_schema")
    flat = {**schema, "type": "json_schema"} if isinstance(schema, Mapping) else dict(given)
    return {"text.format": flat}


def _tools(given: Any) -> Mapping[str, Any]:
    return {"tools": [_flat_tool(tool) for tool in given]}


def _flat_tool(tool: Any) -> Mapping[str, Any]:
    match tool:
        case {"type": "function", "function": {"name": str(_)} as function}:
            strict = function.get("strict")
            return {"type": "function", **function, "strict": strict if isinstance(strict, bool) else False}
    raise UnsupportedError


def _tool_choice(choice: Any) -> Mapping[str, Any]:
    match choice:
        case str(word):
            return {"tool_choice": word}
        case {"type": "function", "function": {"name": str(name)}}:
            return {"tool_choice": {"type": "function", "name": name}}
    raise UnsupportedError


def _logprobs(wanted: Any) -> Mapping[str, Any]:
    return {"include": ["message.output_text.logprobs"]} if wanted else {}


def _identifier(name: str) -> Any:
    return lambda value: {name: short(value) if isinstance(value, str) else value}


POLICY = Policy(
    rules={
        **{name: name for name in SAME_NAMES},
        **{name: _identifier(name) for name in ("user", "safety_identifier", "prompt_cache_key")},
        "max_tokens": _bound,
        "max_completion_tokens": _bound,
        "reasoning_effort": "reasoning.effort",
        "verbosity": "text.verbosity",
        "response_format": _format,
        "tools": _tools,
        "tool_choice": _tool_choice,
        "logprobs": _logprobs,
    },
    drop=IGNORABLE - {*SAME_NAMES, "safety_identifier", "prompt_cache_key"},
)


def _metadata(chat: InferenceRequest) -> dict[str, Any]:
    shown = {name: value for name, value in chat.metadata.items() if name not in TRACKING_KEYS}
    return {"metadata": shown} if shown else {}


# --- messages ----------------------------------------------------------------------------------------------------


def _instructions(messages: Sequence[Message]) -> tuple[dict[str, Any], Sequence[Message]]:
    """The first system message, which is the guardrail if there is one, as `instructions`; and the other messages."""
    first = messages[0] if messages else {}
    content = first.get("content") if first.get("role") in SYSTEM_ROLES else None
    if not content or (isinstance(content, list) and not all(part["type"] == "text" for part in content)):
        return {}, messages
    texts = [part["text"] for part in _listed(content)]
    return {"instructions": "\n\n".join(texts)}, messages[1:]


def _items(message: Message) -> Iterator[dict[str, Any]]:
    """The input items of one message."""
    role, content = message["role"], message.get("content")
    if role == "tool":
        yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": content or ""}
        return
    parts = [_part(part, role) for part in _listed(content)]
    if isinstance(refusal := message.get("refusal"), str) and refusal:
        parts.append({"type": "refusal", "refusal": refusal})
    if parts:
        only_text = len(parts) == 1 and isinstance(content, str)
        yield {"type": "message", "role": role, "content": content if only_text else parts}
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            arguments = function.get("arguments")
            yield {
                "type": "function_call",
                "call_id": call.get("id") or "",
                "name": function.get("name") or "",
                "arguments": arguments if isinstance(arguments, str) else "{}",
            }


def _listed(content: Any) -> list[Mapping[str, Any]]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _part(part: Mapping[str, Any], role: str) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"type": "output_text" if role == "assistant" else "input_text", "text": text}
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "refusal", "refusal": text}
        case {"type": "image_url", "image_url": {"url": str(url), **more}}:
            return {"type": "input_image", "image_url": url, "detail": more.get("detail") or "auto"}
        case {"type": "image_url", "image_url": str(url)}:
            return {"type": "input_image", "image_url": url, "detail": "auto"}
        case {"type": "file", "file": {"file_data": str(data), **more}}:
            return {"type": "input_file", "file_data": data, "filename": more.get("filename") or "file"}
        case {"type": "input_audio", "input_audio": Mapping() as audio}:
            return {"type": "input_audio", "input_audio": dict(audio)}
    message = f"This model does not support content of type '{str(part.get('type'))[:64]}'."
    raise ProxyError("unsupported_parameter", message, param="messages")
