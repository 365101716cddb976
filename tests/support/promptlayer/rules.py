"""What PromptLayer's API accepts, field by field (docs.promptlayer.com/reference): pure, stricter where it is vague."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
STATUSES = {"SUCCESS", "WARNING", "ERROR"}
ERROR_TYPES = {
    "PROVIDER_RATE_LIMIT",
    "PROVIDER_QUOTA_LIMIT",
    "PROVIDER_PARTIAL_RESPONSE",
    "PROVIDER_TIMEOUT",
    "PROVIDER_AUTH_ERROR",
    "PROVIDER_ERROR",
    "UNKNOWN_ERROR",
}


def text(value: Any) -> bool:
    return isinstance(value, str)


def whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def amount(value: Any) -> bool:
    return type(value) in (int, float) and value >= 0


def moment(value: Any) -> bool:
    return text(value) and datetime.fromisoformat(value).tzinfo is not None


def texts(value: Any) -> bool:
    return isinstance(value, dict) and all(text(v) and len(k) <= 1024 for k, v in value.items())


def tags(value: Any) -> bool:
    return isinstance(value, list) and all(map(text, value))


def json_object(value: Any) -> bool:
    return isinstance(value, dict)


FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "provider": text,
    "model": text,
    "input": lambda value: not list(blueprint(value)),
    "output": lambda value: not list(blueprint(value)),
    "request_start_time": moment,
    "request_end_time": moment,
    "parameters": json_object,
    "tags": tags,
    "metadata": texts,
    "prompt_name": text,
    "prompt_version_number": lambda value: whole(value) and value > 0,
    "prompt_input_variables": json_object,
    "input_tokens": whole,
    "output_tokens": whole,
    "price": amount,
    "api_type": text,
    "status": lambda value: value in STATUSES,
    "error_type": lambda value: value in ERROR_TYPES,
    "error_message": lambda value: text(value) and len(value) <= 1024,
}
REQUIRED = ("provider", "model", "input", "output", "request_start_time", "request_end_time")


def log_request(body: Any) -> list[str]:
    """What is wrong with a body of POST /log-request."""
    if not isinstance(body, dict):
        return ["not an object"]
    wrong = [f"{name} is missing" for name in REQUIRED if name not in body]
    wrong += [f"{name} is not known" for name in body if name not in FIELDS]
    wrong += [f"{name} is wrong" for name, good in FIELDS.items() if name in body and not good(body[name])]
    for name in ("input", "output"):
        wrong += [f"{name}: {problem}" for problem in blueprint(body.get(name))]
    return wrong


def blueprint(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value.get("type") == "completion":
        if not isinstance(value.get("content"), list) or not all(map(_block, value["content"])):
            yield "has content that is no list of blocks"
        return
    if (
        not isinstance(value, dict)
        or value.get("type") != "chat"
        or not isinstance(value.get("messages"), list)
    ):
        yield "no blueprint"
        return
    for index, message in enumerate(value["messages"]):
        for problem in _message(message):
            yield f"messages[{index}] {problem}"
    for tool in value.get("tools", ()):
        if tool.get("type") != "function" or not text(tool.get("function", {}).get("name")):
            yield "a tool is no function"


def _message(message: Any) -> Iterator[str]:
    if message.get("role") not in ROLES:
        yield f"has the role {message.get('role')!r}"
    if not isinstance(message.get("content"), list):
        yield "has content that is no list of blocks"
        return
    for block in message["content"]:
        if not _block(block):
            yield f"has a bad block of type {block.get('type')!r}"
    for call in message.get("tool_calls", ()):
        function = call["function"]
        if not (text(call["id"]) and call["type"] == "function" and text(function["name"])):
            yield "has a bad tool call"
        if not text(function["arguments"]):
            yield "has a tool call with arguments that are no string"


def _block(block: Mapping[str, Any]) -> bool:
    match block.get("type"):
        case "text":
            return text(block.get("text"))
        case "image_url":
            return text(block["image_url"]["url"])
        case "thinking":
            return text(block.get("thinking")) and "signature" in block
    return False


def track_score(body: Any, known: int) -> list[str]:
    """What is wrong with a body of POST /rest/track-score, if `known` requests were logged."""
    wrong = [] if 0 < body.get("request_id", 0) <= known else ["request_id is unknown"]
    if not (whole(body.get("score")) and body["score"] <= 100):
        wrong.append("score is wrong")
    if "name" in body and not text(body["name"]):
        wrong.append("name is wrong")
    return wrong + _others(body, {"request_id", "score", "name", "api_key"})


def track_metadata(body: Any, known: int) -> list[str]:
    wrong = [] if 0 < body.get("request_id", 0) <= known else ["request_id is unknown"]
    if not texts(body.get("metadata")):
        wrong.append("metadata is wrong")
    return wrong + _others(body, {"request_id", "metadata", "api_key"})


def _others(body: Mapping[str, Any], allowed: set[str]) -> list[str]:
    return [f"{name} is not known" for name in body.keys() - allowed]
