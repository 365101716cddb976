"""What OpenAI's Responses API says, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 27,
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_790_000_000,
    "model": "gpt-2026",
    "error": None,
    "incomplete_details": None,
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "store": False,
}


def message(text: str, number: int = 0) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {
        "type": "message",
        "id": f"msg_{number}",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }


def reasoning(text: str, encrypted: str, number: int = 0) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}]
    return {"type": "reasoning", "id": f"rs_{number}", "summary": summary, "encrypted_content": encrypted}


def function_call(name: str, arguments: str, number: int = 0) -> dict[str, Any]:
    ids = {"id": f"fc_{number}", "call_id": f"call_{name}"}
    return {"type": "function_call", **ids, "name": name, "arguments": arguments, "status": "completed"}


def web_search(number: int = 0) -> dict[str, Any]:
    return {
        "type": "web_search_call",
        "id": f"ws_{number}",
        "status": "completed",
        "action": {"type": "search"},
    }


def whole(*items: Mapping[str, Any], status: str = "completed", **more: Any) -> bytes:
    """A plain answer."""
    return orjson.dumps({**RESPONSE, "status": status, "output": items, "usage": USAGE, **more})


def events(*pieces: Mapping[str, Any]) -> bytes:
    """Events with their names and consecutive numbers."""
    numbered = [{**piece, "sequence_number": at} for at, piece in enumerate(pieces)]
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (one["type"].encode(), orjson.dumps(one)) for one in numbered
    )


def begun(**more: Any) -> list[dict[str, Any]]:
    response = {**RESPONSE, "status": "in_progress", "output": [], "usage": None, **more}
    return [{"type": f"response.{kind}", "response": response} for kind in ("created", "in_progress")]


def ended(items: Sequence[Mapping[str, Any]], status: str = "completed", **more: Any) -> dict[str, Any]:
    response = {**RESPONSE, "status": status, "output": items, "usage": USAGE, **more}
    return {"type": f"response.{status}", "response": response}


def pieces(*items: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events of these items, in pieces."""
    return [piece for index, item in enumerate(items) for piece in _item(index, item)]


def stream(*items: Mapping[str, Any], status: str = "completed", **more: Any) -> bytes:
    """A whole stream."""
    return events(*begun(), *pieces(*items), ended(items, status, **more))


def _item(index: int, item: Mapping[str, Any]) -> list[dict[str, Any]]:
    at = {"output_index": index, "item_id": item["id"]}
    opened: dict[str, Any] = {**item, "status": "in_progress"}
    inner: list[dict[str, Any]] = []
    match item["type"]:
        case "message":
            text = item["content"][0]["text"]
            part = {"content_index": 0, "part": {"type": "output_text", "text": "", "annotations": []}}
            opened["content"] = []
            inner = [
                {"type": "response.content_part.added", **at, **part},
                *_deltas("response.output_text", text, {**at, "content_index": 0, "logprobs": []}, "text"),
                {"type": "response.content_part.done", **at, "content_index": 0, "part": item["content"][0]},
            ]
        case "reasoning":
            text = item["summary"][0]["text"]
            opened["summary"] = []
            inner = _deltas("response.reasoning_summary_text", text, {**at, "summary_index": 0}, "text")
            part = {"summary_index": 0, "part": {"type": "summary_text", "text": ""}}
            inner = [{"type": "response.reasoning_summary_part.added", **at, **part}, *inner]
        case "function_call":
            opened["arguments"] = ""
            inner = _deltas("response.function_call_arguments", item["arguments"], at, "arguments")
            inner[-1]["name"] = item["name"]
    return [
        {"type": "response.output_item.added", "output_index": index, "item": opened},
        *inner,
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]


def _deltas(kind: str, text: str, at: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    deltas = [{"type": f"{kind}.delta", **at, "delta": part} for part in (text[:3], text[3:]) if part]
    return [*deltas, {"type": f"{kind}.done", **at, field: text}]
