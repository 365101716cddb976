"""Reads plain answers of OpenAI's Responses API as chat completions; parts are shared with streams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Event, Failure, Usage
from codellama_proxy.failures import classify
from codellama_proxy.failures.error_body import parse_error
from codellama_proxy.openai_format.completion import message_text
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import usage_in
from codellama_proxy.providers.common import answers as shape
from codellama_proxy.providers.common import legacy_functions as legacy
from codellama_proxy.providers.common.json_reading import load_answer, model_of, text_at, words_at, wrong
from codellama_proxy.providers.common.tool_calls import MAX_TOOL_CALLS
from codellama_proxy.providers.openai.responses_items import Kind

CALLS: Mapping[str, str] = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "tool_search_call": "arguments",
    "local_shell_call": "action",
    "shell_call": "action",
    "apply_patch_call": "operation",
}
"""Items that call a tool of the client, and the field with the arguments."""
KINDS: Mapping[str, Kind] = {"message": "message", "reasoning": "reasoning", **dict.fromkeys(CALLS, "call")}
"""The items that have a place in a chat."""
HOSTED_CALLS: Mapping[str, str] = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
}
"""Items of tools that ran at the provider, which its usage does not count, and our names of them."""
CUT: Mapping[str, str] = {"max_output_tokens": "length", "content_filter": "content_filter"}
"""Why an answer is incomplete, and the finish reason of a chat."""


def parse_response(body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
    """A plain answer as one event. Raises `AttemptError` if a 200 is not an answer."""
    del deployment
    found = load_answer(body)
    items = found.get("output")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        wrong("no_content")
    if found.get("status") in ("queued", "in_progress", "cancelled"):
        wrong("not_complete")
    message = message_of(items, chat)
    first = shape.head("chat.completion", answer_id(found, chat), chat.created, model_of(found))
    usage = usage_of(found, hosted_calls(items))
    shown = None if usage is None else shape.usage_json(usage)
    reason = finish_reason(found, called="tool_calls" in message)
    return legacy.restored(shape.completion(first, message, reason, shown, message_text(message)), chat)


def answer_id(found: Mapping[str, Any], chat: InferenceRequest) -> str:
    return f"chatcmpl-{text_at(found, 'id') or chat.id}"


def message_of(items: Iterable[Mapping[str, Any]], chat: InferenceRequest) -> dict[str, Any]:
    """The message of a completion with all of these items."""
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": []}
    calls: list[dict[str, Any]] = []
    for item in items:
        for name, text in texts_of(item):
            texts[name].append(text)
        if kind_of(item) == "call":
            if len(calls) >= MAX_TOOL_CALLS:
                wrong("bad_tool_calls")
            calls.append(call_of(item, arguments_of(item), f"call_{chat.id}_{len(calls)}"))
    message: dict[str, Any] = {name: "".join(found) for name, found in texts.items() if found}
    message.setdefault("content", None if calls or message.get("refusal") else "")
    return {**message, **({"tool_calls": calls} if calls else {})}


def texts_of(item: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The texts of an item, each with the field of a chat message that it belongs to."""
    match item.get("type"):
        case "message":
            for part in _parts(item.get("content")):
                if text := words_at(part, "text"):
                    yield "content", text
                if text := words_at(part, "refusal"):
                    yield "refusal", text
        case "reasoning":
            parts = _parts(item.get("content")) or _parts(item.get("summary"))
            if text := "\n\n".join(words_at(part, "text") for part in parts):
                yield "reasoning_content", text


def _parts(content: Any) -> list[dict[str, Any]]:
    """The parts of a content, which some send as one part or as a plain text."""
    found = content if isinstance(content, list) else [] if content is None else [content]
    if not all(isinstance(part, dict | str) for part in found):
        wrong("not_a_text")
    return [{"text": part} if isinstance(part, str) else part for part in found]


def kind_of(item: Mapping[str, Any]) -> Kind | None:
    """The kind of an item; `None` for one that has no place in a chat."""
    return KINDS.get(text_at(item, "type"))


def call_of(item: Mapping[str, Any], arguments: str, own_id: str) -> dict[str, Any]:
    """A tool call in OpenAI's chat format; `own_id` replaces a missing id. Raises `AttemptError` without a name."""
    kind = text_at(item, "type")
    name = text_at(item, "name") or (
        "" if kind in ("function_call", "custom_tool_call") else kind.removesuffix("_call")
    )
    if not name:
        wrong("call_without_name")
    call_id = text_at(item, "call_id") or text_at(item, "id") or own_id
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def arguments_of(item: Mapping[str, Any]) -> str:
    """A call's arguments as one string: JSON, or the plain input of a custom tool."""
    given = item.get(CALLS.get(text_at(item, "type"), ""))
    if isinstance(given, str):
        return given
    return "" if given is None else orjson.dumps(given).decode()


def finish_reason(found: Mapping[str, Any], *, called: bool) -> str:
    """A chat's finish reason for an answer that has ended."""
    details = found.get("incomplete_details")
    reason = CUT.get(text_at(details, "reason")) if found.get("status") == "incomplete" else None
    if reason is None and found.get("status") == "incomplete":
        reason = "length"
    return reason or ("tool_calls" if called else "stop")


def hosted_calls(items: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The number of calls of each tool that ran at the provider."""
    counted: dict[str, int] = {}
    for item in items:
        name = HOSTED_CALLS.get(text_at(item, "type"))
        if name is not None:
            counted[name] = counted.get(name, 0) + 1
    return counted


def usage_of(found: Mapping[str, Any], calls: Mapping[str, int]) -> Usage | None:
    """The reported usage with these calls of hosted tools; `None` if none was reported."""
    usage = usage_in(found)
    if usage is None or not calls:
        return usage
    return usage._replace(tool_calls=tuple({**dict(usage.tool_calls), **calls}.items()))


def failure_of(found: Mapping[str, Any]) -> Failure:
    """The failure for a response whose status is `failed`."""
    error = parse_error(orjson.dumps({"error": found.get("error") or {}}))
    return replace(classify.in_band(error, 200), usage=usage_in(found))
