"""Messages and tools in OpenAI's dialect, without fields that only other providers support.

A conversation may continue at another provider, so its messages can contain other vendors' fields: reasoning, thinking
blocks, cache marks, signatures. They are removed for providers that refuse unknown fields.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping, Sequence, Set
from typing import Any

from codellama_proxy.core.snapshot import Json
from codellama_proxy.openai_format.request import THINKING_PARTS, Message
from codellama_proxy.providers.openai.profiles import OpenAIProfile


def message_for(message: Message, dialect: OpenAIProfile) -> Message:
    """The message as this provider accepts it; the same object if nothing changes."""
    if len(message) == 2 and type(message.get("content")) is str and message["role"] != "developer":
        return message  # nearly all: a role and a text
    if dialect.short_tool_ids and ("tool_calls" in message or "tool_call_id" in message):
        message = with_short_ids(message)
    if not dialect.developer_role and message["role"] == "developer":
        message = {**message, "role": "system"}
    off = _fields_off(message, dialect)
    if off:
        message = {name: value for name, value in message.items() if name not in off}
    content = message.get("content")
    if isinstance(content, list):
        message = _with_parts(message, content, dialect)
    if message.get("tool_calls") and (unknown := _call_fields_off(dialect)):
        calls = message["tool_calls"]
        if any(unknown & call.keys() for call in calls):
            message = {**message, "tool_calls": [without(call, unknown) for call in calls]}
    return message


def tools_for(tools: Sequence[Any], dialect: OpenAIProfile) -> list[Any]:
    """The tools without cache marks that this provider does not accept."""
    off = dialect.refused_marks
    return [_unmarked_tool(tool, off) for tool in tools] if off else list(tools)


def _fields_off(message: Message, dialect: OpenAIProfile) -> Set[str]:
    off: Set[str] = dialect.message_fields_dropped & message.keys()
    if dialect.message_fields is not None:
        off |= message.keys() - dialect.message_fields
    return off


def _with_parts(message: Message, content: list[Any], dialect: OpenAIProfile) -> Message:
    off = dialect.refused_marks
    kept = [
        without(part, off) for part in content if dialect.thinking_parts or part["type"] not in THINKING_PARTS
    ]
    if kept == content:
        return message
    if kept:
        return {**message, "content": kept}
    return {**message, "content": None if message.get("tool_calls") else ""}


def without(value: Json, names: frozenset[str]) -> Json:
    """The object without these fields; the same object if it has none."""
    if not names & value.keys():
        return value
    return {name: inner for name, inner in value.items() if name not in names}


def _call_fields_off(dialect: OpenAIProfile) -> frozenset[str]:
    """Fields of calls that this provider does not accept: cache marks, Gemini's thought signatures."""
    marks = dialect.refused_marks
    return marks if dialect.message_fields is None else marks | {"extra_content"}


def _unmarked_tool(tool: Any, off: frozenset[str]) -> Any:
    if not isinstance(tool, Mapping):
        return tool
    tool = without(tool, off)
    function = tool.get("function")
    if isinstance(function, Mapping) and off & function.keys():
        return {**tool, "function": without(function, off)}
    return tool


# --- ids of tool calls ---------------------------------------------------------------------------------------


TOOL_ID_LENGTH = 9
_LETTERS = string.digits + string.ascii_letters
_SHORT_ID = re.compile(rf"[a-zA-Z0-9]{{{TOOL_ID_LENGTH}}}", re.ASCII)


def short_tool_id(call_id: str) -> str:
    """The id as nine letters and digits: itself if it has that form, else derived from its SHA-256."""
    if _SHORT_ID.fullmatch(call_id):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).digest())
    return "".join(
        _LETTERS[number // len(_LETTERS) ** place % len(_LETTERS)] for place in range(TOOL_ID_LENGTH)
    )


def with_short_ids(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with short ids for its tool calls and for the call it answers."""
    changed = dict(message)
    if isinstance(answered := message.get("tool_call_id"), str):
        changed["tool_call_id"] = short_tool_id(answered)
    if calls := message.get("tool_calls"):
        changed["tool_calls"] = [{**call, "id": short_tool_id(str(call.get("id") or ""))} for call in calls]
    return changed
