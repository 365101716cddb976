"""Converts a conversation to Anthropic's format: separate system text, alternating turns, tool results first."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.openai_format.fields import invalid_value
from codellama_proxy.openai_format.request import OWN_SIGNATURE, SYSTEM_ROLES, Message

IMAGE_TYPES = {"image/png", "image/jpeg", "image/gif", "image/webp"}
DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w-]+=[^;,]*)*)(;base64)?,", re.ASCII)
THINKING_BLOCKS = ("thinking", "redacted_thinking")
"""Types of thinking blocks."""
NO_QUESTION = "."
"""Inserted if the first user message is missing: a conversation must begin with one."""

Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    system: list[Block] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    """Messages with a role and blocks."""


def conversation(messages: Sequence[Message], *, late_system: bool) -> Conversation:
    """`late_system`: later system messages keep their position; otherwise all of them come first."""
    found = Conversation()
    waiting: list[Block] = []
    for index, message in enumerate(messages):
        blocks = _blocks(message, f"messages[{index}]")
        role = message["role"]
        if role in SYSTEM_ROLES:
            stays = late_system and found.turns
            (waiting if stays else found.system).extend(blocks)
            continue
        if role != "tool" and waiting:  # results must directly follow their calls
            _add(found.turns, "system", waiting)
            waiting = []
        _add(found.turns, "assistant" if role == "assistant" else "user", blocks)
    _add(found.turns, "system", waiting)
    if not found.turns or found.turns[0]["role"] != "user":
        found.turns.insert(0, {"role": "user", "content": [{"type": "text", "text": NO_QUESTION}]})
    return Conversation(found.system, [_finished(turn) for turn in found.turns])


def _add(turns: list[dict[str, Any]], role: str, blocks: list[Block]) -> None:
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _finished(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Tool results first; a single plain text as a string."""
    blocks = turn["content"]
    if turn["role"] == "user":
        blocks = sorted(blocks, key=lambda block: bool(block["type"] != "tool_result"))
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return {"role": turn["role"], "content": blocks[0]["text"]}
    return {"role": turn["role"], "content": blocks}


def prefilled(conversation: Conversation) -> bool:
    """Whether the conversation ends with a prefill, an assistant message to be continued."""
    return bool(conversation.turns[-1]["role"] == "assistant")


def without_trailing_space(conversation: Conversation) -> Conversation:
    """Removes white space at the end of a prefill, which the API refuses."""
    *before, last = conversation.turns
    content = last["content"]
    if isinstance(content, str):
        content = content.rstrip()
    elif content[-1]["type"] == "text":
        content = [*content[:-1], {**content[-1], "text": content[-1]["text"].rstrip()}]
    return Conversation(conversation.system, [*before, {**last, "content": content}])


def tool_id(call_id: object) -> str:
    """The id with only characters that this API accepts; the same for a call and its result."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", str(call_id or "")) or "_"


# --- one message ---------------------------------------------------------------------------------------------


def _blocks(message: Message, at: str) -> list[Block]:
    match message["role"]:
        case "assistant":
            blocks = _assistant(message, at)
        case "tool":
            blocks = [_result(message, at)]
        case _:
            blocks = _content(message.get("content"), at)
    if blocks and (mark := _cache_mark(message)):
        blocks[-1] = {**blocks[-1], **mark}
    return blocks


def _assistant(message: Message, at: str) -> list[Block]:
    thinking = message.get("thinking_blocks")
    blocks = (
        [dict(block) for block in thinking if isinstance(block, Mapping) and is_signed(block)]
        if isinstance(thinking, list)
        else []
    )
    blocks += _content(message.get("content"), at)
    for index, call in enumerate(message.get("tool_calls") or ()):
        blocks.append(_tool_use(call, f"{at}.tool_calls[{index}]"))
    return blocks


def is_signed(block: Mapping[str, Any]) -> bool:
    """Whether it is a thinking block that Claude signed, not one that this proxy made of other models' reasoning."""
    if block.get("type") == "redacted_thinking":
        return True
    signature = block.get("signature")
    return (
        block.get("type") == "thinking"
        and isinstance(signature, str)
        and signature != ""
        and not signature.startswith(OWN_SIGNATURE)
    )


def _tool_use(call: Mapping[str, Any], at: str) -> Block:
    function = call.get("function")
    if not isinstance(function, Mapping):
        raise invalid_value(at, f"'{at}' must be a call of a function.")
    return {
        "type": "tool_use",
        "id": tool_id(call.get("id")),
        "name": function.get("name"),
        "input": _input(function.get("arguments")),
        **_cache_mark(call),
    }


def _input(arguments: object) -> Mapping[str, Any]:
    """Arguments as an object; invalid ones are kept as text, so that the model sees its error."""
    if isinstance(arguments, Mapping):
        return arguments
    try:
        found = orjson.loads(str(arguments or "") or "{}")
    except orjson.JSONDecodeError:
        found = None
    return found if isinstance(found, dict) else {"_raw": arguments}


def _result(message: Message, at: str) -> Block:
    content = message.get("content")
    parts = [] if isinstance(content, str) else _content(content, at)
    marks = [_cache_mark(part) for part in parts]
    block: Block = {
        "type": "tool_result",
        "tool_use_id": tool_id(message["tool_call_id"]),
        "content": content if isinstance(content, str) else [_unmarked(part) for part in parts],
        **next((mark for mark in reversed(marks) if mark), {}),  # only the result itself may have a mark
    }
    return {**block, "is_error": True} if message.get("is_error") is True else block


# --- content -------------------------------------------------------------------------------------------------


def _content(content: object, at: str) -> list[Block]:
    """The content without empty texts, which this API refuses."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    parts: Iterable[Any] = content if isinstance(content, list | tuple) else ()
    return [block for i, part in enumerate(parts) if (block := _part(part, f"{at}.content[{i}]"))]


def _part(part: Mapping[str, Any], at: str) -> Block | None:
    match part["type"]:
        case "text" | "refusal":
            text = part.get(part["type"])
            if not isinstance(text, str) or not text.strip():
                return None
            block: Block = {"type": "text", "text": text}
        case "image_url":
            block = {"type": "image", "source": _image(part.get("image_url"), at)}
        case "file":
            block = _document(part.get("file"), at)
        case "thinking" | "redacted_thinking" | "reasoning":
            return _thought(part)
        case other:
            message = f"Provider 'anthropic' does not support content of type '{other}'."
            raise ProxyError("unsupported_parameter", message, param=at)
    return {**block, **_cache_mark(part)}


def _thought(part: Mapping[str, Any]) -> Block | None:
    """A signed thinking block of Claude; thinking of other models is left out."""
    names = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}.get(part["type"])
    if names is None or not all(isinstance(part.get(name), str) and part[name] for name in names[-1:]):
        return None
    return {"type": part["type"], **{name: str(part.get(name) or "") for name in names}}


def _cache_mark(of: Mapping[str, Any]) -> Block:
    mark = of.get("cache_control", of.get("prompt_cache_breakpoint"))
    if not isinstance(mark, Mapping):
        return {}
    ttl = {"ttl": mark["ttl"]} if mark.get("ttl") in ("5m", "1h") else {}
    return {"cache_control": {"type": "ephemeral", **ttl}}


def _unmarked(block: Block) -> Block:
    return {name: value for name, value in block.items() if name != "cache_control"}


def _image(found: object, at: str) -> Block:
    url = found.get("url") if isinstance(found, Mapping) else found
    if isinstance(url, str) and url.startswith("https://"):
        return {"type": "url", "url": url}
    media_type, data = _data_url(url, f"{at}.image_url")
    if media_type not in IMAGE_TYPES:
        kinds = ", ".join(sorted(IMAGE_TYPES))
        raise invalid_value(f"{at}.image_url", f"Images must be one of {kinds}.")
    return {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}


def _document(found: object, at: str) -> Block:
    file = found if isinstance(found, Mapping) else {}
    title = {"title": file["filename"]} if isinstance(file.get("filename"), str) else {}
    url = file.get("file_url")
    if isinstance(url, str) and url.startswith("https://"):
        return {"type": "document", "source": {"type": "url", "url": url}, **title}
    media_type, data = _data_url(file.get("file_data"), f"{at}.file.file_data")
    if media_type == "application/pdf":
        source = {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}
    elif media_type.startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": data.decode("utf-8", "replace")}
    else:
        raise invalid_value(f"{at}.file.file_data", "Files must be PDF or text.")
    return {"type": "document", "source": source, **title}


def _data_url(url: object, at: str) -> tuple[str, bytes]:
    """The media type and the bytes of a `data:` URL."""
    found = DATA_URL.match(url) if isinstance(url, str) else None
    if not isinstance(url, str) or found is None:
        raise invalid_value(at, f"'{at}' must be a data: URL, or an https: URL of an image.")
    rest = url[found.end() :]
    try:
        data = base64.b64decode(rest, validate=True) if found[3] else unquote_to_bytes(rest)
    except (binascii.Error, ValueError):
        raise invalid_value(at, f"'{at}' is not valid base64.") from None
    return (found[1] or "text/plain").lower(), data
