"""AI21's Jamba: OpenAI's dialect with few parameters, text content only, and answers that omit some fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Deployment, Json
from codellama_proxy.core.sse import DONE, Frame
from codellama_proxy.core.types import Event, HttpRequest
from codellama_proxy.openai_format.fields import invalid_value
from codellama_proxy.openai_format.parameters import IGNORABLE
from codellama_proxy.openai_format.request import CACHE_MARKS, THINKING_PARTS, InferenceRequest, Message
from codellama_proxy.providers.common import legacy_functions as legacy
from codellama_proxy.providers.common import translated
from codellama_proxy.providers.common.identity import bearer_headers
from codellama_proxy.providers.common.json_reading import is_done, load_object, piece_of
from codellama_proxy.providers.common.parameters import (
    Policy,
    Rule,
    UnsupportedError,
    functions,
    narrow_tool_choice,
    translate,
)
from codellama_proxy.providers.openai import response as openai_answer
from codellama_proxy.providers.openai import stream as openai_stream
from codellama_proxy.providers.openai.messages import without
from codellama_proxy.providers.openai.stream_state import StreamState

BASE_URL = "https://api.ai21.com/studio/v1"
MESSAGE_FIELDS = ("role", "content", "tool_calls", "tool_call_id")
TEXT_PARTS = {"text": "text", "refusal": "refusal"}
"""Content types with text, and the field that holds it."""


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """The HTTP request for `chat`. Raises `ProxyError` unsupported_parameter."""
    chat = translated.plain_chat(legacy.modern(chat), deployment)
    policy = STREAMED if chat.stream else WHOLE
    params, dropped = translate(
        _without_tools(narrow_tool_choice(chat.params)), policy, deployment, chat.soft
    )
    body: dict[str, Any] = {"model": deployment.model, "messages": _messages(chat.messages), **params}
    if chat.stream:
        body["stream"] = True
    headers = {"content-type": "application/json", **bearer_headers(deployment)}
    url = (deployment.base_url or BASE_URL).rstrip("/") + "/chat/completions"
    return HttpRequest(
        url, headers, orjson.dumps(body, default=dict), dropped=translated.dropped(dropped, chat)
    )


def parse_response(body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
    """A plain answer as one event. Raises `AttemptError` if a 200 is not an answer."""
    found = load_object(body)
    event = openai_answer.parse_response(_named(found, deployment), chat, deployment)
    return legacy.restored(event, chat)


def parse_stream(
    state: StreamState | None, frame: Frame, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    """One frame's events and the state for the next. Raises `AttemptError` for an error event."""
    state, events = openai_stream.parse_stream(state, _understood(frame, deployment), chat, deployment)
    return state, [legacy.restored(event, chat) for event in events]


def _understood(frame: Frame, deployment: Deployment) -> Frame:
    """The frame in OpenAI's format."""
    if is_done(frame):
        return Frame(DONE)
    found = piece_of(frame)
    return Frame(b"") if found is None else Frame(_named(found, deployment))


def _named(found: Json, deployment: Deployment) -> bytes:
    """The answer with the model's name, which AI21 does not repeat."""
    return orjson.dumps({"model": deployment.model, **found})


# --- parameters ----------------------------------------------------------------------------------------------


def _tools(tools: Sequence[Json]) -> Json:
    return {"tools": [{"type": "function", "function": function} for function in functions(tools)]}


def _tool_choice(value: Any) -> Json:
    if value != "auto":
        raise UnsupportedError
    return {}


def _response_format(value: Json) -> Json:
    if value.get("type") != "json_object":
        raise UnsupportedError
    return {"response_format": {"type": "json_object"}}


def _without_tools(params: Json) -> Json:
    """`tool_choice: none` has no equivalent, so the tools are left out."""
    if params.get("tool_choice") != "none":
        return params
    return {name: value for name, value in params.items() if name not in ("tools", "tool_choice")}


RULES: Mapping[str, Rule] = {
    **{name: name for name in ("max_tokens", "temperature", "top_p", "stop", "documents")},
    "max_completion_tokens": "max_tokens",
    "tools": _tools,
    "tool_choice": _tool_choice,
    "response_format": _response_format,
}
DROP = IGNORABLE | {"user", "parallel_tool_calls"}
STREAMED = Policy(RULES, DROP)
WHOLE = Policy({**RULES, "n": "n"}, DROP)
"""`n` above 1 is supported only without streaming."""


# --- messages ------------------------------------------------------------------------------------------------


def _messages(messages: Sequence[Message]) -> list[Json]:
    """One system message, then alternating roles: adjacent messages of one role are merged."""
    plain = [_plain(message, f"messages[{at}]") for at, message in enumerate(messages)]
    systems = [message for message in plain if message["role"] == "system"]
    others = [message for message in plain if message["role"] != "system"]
    return list(_joined([*systems, *others]))


def _plain(message: Message, at: str) -> dict[str, Any]:
    found = {name: message[name] for name in MESSAGE_FIELDS if message.get(name) is not None}
    if found["role"] == "developer":
        found["role"] = "system"
    if isinstance(calls := found.get("tool_calls"), list):
        found["tool_calls"] = [without(call, CACHE_MARKS) for call in calls]
    if isinstance(parts := found.get("content"), list):
        found["content"] = "\n".join(
            _text(part, f"{at}.content[{i}]")
            for i, part in enumerate(parts)
            if part["type"] not in THINKING_PARTS
        )
    return found


def _text(part: Json, at: str) -> str:
    kind = part["type"]
    if kind not in TEXT_PARTS:
        raise invalid_value(f"{at}.type", f"Provider 'ai21' does not support content of type '{kind}'.")
    return str(part.get(TEXT_PARTS[kind]) or "")


def _joined(messages: Iterable[dict[str, Any]]) -> Iterable[Json]:
    last: dict[str, Any] | None = None
    for message in messages:
        if (
            last is not None
            and _is_text_only(last)
            and _is_text_only(message)
            and last["role"] == message["role"]
        ):
            last["content"] += "\n\n" + message["content"]
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last


def _is_text_only(message: Json) -> bool:
    """Whether a message has only text, so that it may be merged with another one."""
    return message.keys() == {"role", "content"}
