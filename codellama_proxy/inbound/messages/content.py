"""Converts system prompts, messages and blocks to OpenAI's messages, with side fields for what those cannot say.

Cache marks stay on parts, calls and results; signed thinking is kept in `thinking_blocks`, images and files inside
the content of `tool` messages. Providers remove what they do not support (`providers.common.translated`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.messages.checks import (
    LeftOut,
    given,
    mark_of,
    object_given,
    text_given,
    typed_objects,
    unavailable,
)
from codellama_proxy.inbound.messages.thinking import is_foreign, own_text
from codellama_proxy.inbound.sealed import Seals
from codellama_proxy.inbound.tool_names import wire_name
from codellama_proxy.native.messages import is_billing_header
from codellama_proxy.openai_format.fields import invalid_type, invalid_value
from codellama_proxy.openai_format.request import Message
from codellama_proxy.openai_format.texts import Texts, texts_of

PDF_NAME = "document.pdf"
SIGNED_FIELDS = ("type", "thinking", "signature", "data")
"""The fields of thinking blocks."""

Part = dict[str, Any]
Block = Mapping[str, Any]


@dataclass(slots=True)
class Conversation:
    """The messages, and what system messages say about other fields."""

    messages: list[Message] = field(default_factory=list)
    effort: Any = None
    """The last `output_config.effort` of a system message."""
    removed_tools: set[str] = field(default_factory=set)
    left_out: LeftOut = field(default_factory=LeftOut)
    seals: Seals | None = None


def conversation(system: Any, messages: Any, left_out: LeftOut, seals: Seals | None = None) -> Conversation:
    """The whole conversation in OpenAI's form. Raises `ProxyError`."""
    if (texts := _texts(system, messages)) is not None:
        return Conversation(texts, left_out=left_out)
    found = Conversation(left_out=left_out, seals=seals)
    _add(found.messages, "system", _system(system, "system", left_out))
    if messages is None:
        raise ProxyError("missing_required_parameter", "'messages' is required.", param="messages")
    if not isinstance(messages, list):
        raise invalid_type("messages", "array")
    turns = [_turn(message, f"messages[{index}]") for index, message in enumerate(messages)]
    last_user = max((at for at, (role, _) in enumerate(turns) if role == "user"), default=-1)
    for index, (role, message) in enumerate(turns):
        _convert(found, role, message, f"messages[{index}]", is_answered=index < last_user)
    if all(message["role"] == "system" for message in found.messages):
        raise invalid_value("messages", "'messages' must have at least one message with content.")
    return found


def _texts(system: Any, messages: Any) -> Texts | None:
    """A conversation that consists of texts, with a system prompt at most at its beginning; `None` for any other."""
    found = texts_of(messages)
    if not found:
        return None
    for message in found:
        if message["role"] == "system" or not message["content"].strip():
            return None
    if system is None:
        return found
    if type(system) is not str or not system.strip() or is_billing_header(system):
        return None
    return Texts([{"role": "system", "content": system}, *found])


def _turn(message: Any, at: str) -> tuple[str, Block]:
    if not isinstance(message, dict):
        raise invalid_type(at, "object")
    role = text_given(message, "role", at)
    if role not in ("user", "assistant", "system"):
        raise invalid_value(f"{at}.role", f"'{at}.role' must be one of assistant, system, user.")
    return role, message


def _convert(found: Conversation, role: str, message: Block, at: str, *, is_answered: bool) -> None:
    if role == "system":
        _convert_system(found, message, at, is_answered=is_answered)
        return
    content = message.get("content")
    if not isinstance(content, str | list):
        raise invalid_type(f"{at}.content", "string or array")
    if isinstance(content, str):
        _add(found.messages, role, _text_parts(content))
        return
    blocks = typed_objects(content, f"{at}.content")
    if role == "assistant":
        _convert_assistant(found, blocks)
    else:
        _convert_user(found, blocks)


def _add(messages: list[Message], role: str, parts: list[Part], **fields: Any) -> None:
    """Adds a message; one without content or other fields is left out."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        messages.append({"role": role, "content": parts[0]["text"], **fields})
    elif parts or fields:
        messages.append({"role": role, "content": parts or None, **fields})


# --- system --------------------------------------------------------------------------------------------------


def _system(content: Any, at: str, left_out: LeftOut) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [] if is_billing_header(content) else _text_parts(content)
    if not isinstance(content, list):
        raise invalid_type(at, "string or array")
    parts = []
    for place, block in typed_objects(content, at):
        if block["type"] in ("tool_addition", "tool_removal"):
            continue
        parts += [part for part in _parts(block, place, left_out) if part["type"] == "text"]
    return [part for part in parts if not is_billing_header(part["text"])]


def _convert_system(found: Conversation, message: Block, at: str, *, is_answered: bool) -> None:
    """A system message; `is_answered`: a later user message follows."""
    content = message.get("content")
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict) and block.get("type") == "tool_removal":
            found.removed_tools |= set(_names_in(block))
    config = message.get("output_config")
    if isinstance(config, dict) and config.get("effort") is not None:
        found.effort = config["effort"]
    parts = _system(content, f"{at}.content", found.left_out)
    if not (is_answered and message.get("clear_at") == "next_user_message"):
        _add(found.messages, "system", parts)


def _names_in(block: Block) -> Iterable[str]:
    """The tools that a `tool_removal` names, in any of the forms clients use."""
    for name in ("tool_name", "name", "tool", "tools", "tool_names"):
        value = block.get(name)
        for one in value if isinstance(value, list) else [value]:
            named = one.get("name", one.get("tool_name")) if isinstance(one, dict) else one
            if isinstance(named, str):
                yield named


# --- assistant -----------------------------------------------------------------------------------------------


def _convert_assistant(found: Conversation, blocks: Sequence[tuple[str, Block]]) -> None:
    parts: list[Part] = []
    thinking: list[Block] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    for at, block in blocks:
        match block["type"]:
            case "thinking" | "redacted_thinking" if is_foreign(block):
                thinking.append({name: block[name] for name in SIGNED_FIELDS if name in block})
            case "thinking":
                reasoning.append(own_text(block, found.seals))
            case "tool_use":
                calls.append(_call(block, at))
            case "compaction":
                parts += _text_parts(block.get("content"))
            case "text":
                parts += _parts(block, at, found.left_out)
            case other if other != "redacted_thinking":
                found.left_out.add(f"messages.{other}")
    fields: dict[str, Any] = {}
    if calls:
        fields["tool_calls"] = calls
    if parts or calls:
        if thinking:
            fields["thinking_blocks"] = thinking
        if text := "".join(reasoning):
            fields["reasoning_content"] = text
        _add(found.messages, "assistant", parts, **fields)


def _call(block: Block, at: str) -> dict[str, Any]:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        arguments = {} if arguments is None else {"_raw": arguments}
    function = {
        "name": wire_name(text_given(block, "name", at)),
        "arguments": orjson.dumps(arguments).decode(),
    }
    return {"id": text_given(block, "id", at), "type": "function", "function": function, **mark_of(block)}


# --- user ----------------------------------------------------------------------------------------------------


def _convert_user(found: Conversation, blocks: Sequence[tuple[str, Block]]) -> None:
    """Results of tools first, each as a message of its own; then the rest of the turn."""
    rest: list[Part] = []
    for at, block in blocks:
        if block["type"] == "tool_result":
            found.messages.append(_result(block, at, found.left_out))
        else:
            rest += _parts(block, at, found.left_out)
    _add(found.messages, "user", rest)


def _result(block: Block, at: str, left_out: LeftOut) -> dict[str, Any]:
    content = block.get("content")
    parts: list[Part] = []
    mark = mark_of(block)
    if isinstance(content, str):
        parts = _text_parts(content)
    elif content is not None:
        if not isinstance(content, list):
            raise invalid_type(f"{at}.content", "string or array")
        for place, inner in typed_objects(content, f"{at}.content"):
            parts += _parts(inner, place, left_out)
            mark = mark or mark_of(inner)  # a mark inside a result is one after it
    parts = [{name: value for name, value in part.items() if name != "cache_control"} for part in parts]
    is_text = not parts or (len(parts) == 1 and parts[0]["type"] == "text")
    message: dict[str, Any] = {
        "role": "tool",
        "tool_call_id": text_given(block, "tool_use_id", at),
        "content": (parts[0]["text"] if parts else "") if is_text else parts,
        **mark,
    }
    return {**message, "is_error": True} if block.get("is_error") is True else message


# --- blocks --------------------------------------------------------------------------------------------------


def _text_parts(text: Any) -> list[Part]:
    return [{"type": "text", "text": text}] if isinstance(text, str) and text.strip() else []


def _parts(block: Block, at: str, left_out: LeftOut) -> list[Part]:
    """The parts that a block becomes; the last one has its cache mark."""
    match block["type"]:
        case "text":
            parts = _text_parts(text_given(block, "text", at))
        case "image":
            parts = _image(block, at, left_out)
        case "document":
            parts = _document(block, at, left_out)
        case "search_result":
            parts = _search_result(block)
        case "tool_reference":
            parts = _text_parts(f"Tool loaded: {block.get('tool_name') or block.get('name') or ''}")
        case other:
            left_out.add(f"messages.{other}")
            parts = []
    if parts and (mark := mark_of(block)):
        parts[-1] = {**parts[-1], **mark}
    return parts


def _image(block: Block, at: str, left_out: LeftOut) -> list[Part]:
    source = object_given(block, "source", at)
    match source.get("type"):
        case "base64":
            url = _data_url(source, f"{at}.source")
        case "url":
            url = text_given(source, "url", f"{at}.source")
        case "file":
            raise unavailable(f"{at}.source", "An uploaded file")
        case other:
            left_out.add(f"messages.image.{other}")
            return []
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document(block: Block, at: str, left_out: LeftOut) -> list[Part]:
    source = object_given(block, "source", at)
    title = given(block, "title", str, "string", f"{at}.")
    match source.get("type"):
        case "base64":
            held = {"file_data": _data_url(source, f"{at}.source")}
        case "url":
            held = {"file_url": text_given(source, "url", f"{at}.source")}
        case "text":
            return _titled(title, _text_parts(text_given(source, "data", f"{at}.source")))
        case "content":
            return _titled(title, _inner(source.get("content"), f"{at}.source.content", left_out))
        case "file":
            raise unavailable(f"{at}.source", "An uploaded file")
        case other:
            left_out.add(f"messages.document.{other}")
            return []
    return [{"type": "file", "file": {"filename": title or PDF_NAME, **held}}]


def _titled(title: str | None, parts: list[Part]) -> list[Part]:
    return [*_text_parts(title), *parts] if parts else []


def _inner(content: Any, at: str, left_out: LeftOut) -> list[Part]:
    """Texts and images inside a document."""
    if not isinstance(content, list):
        return _text_parts(content)
    blocks = typed_objects(content, at)
    return [
        p for place, one in blocks if one["type"] in ("text", "image") for p in _parts(one, place, left_out)
    ]


def _data_url(source: Block, at: str) -> str:
    return f"data:{text_given(source, 'media_type', at)};base64,{text_given(source, 'data', at)}"


def _search_result(block: Block) -> list[Part]:
    content = block.get("content")
    texts = [
        one["text"]
        for one in (content if isinstance(content, list) else ())
        if isinstance(one, dict) and isinstance(one.get("text"), str)
    ]
    return _text_parts("\n".join([f"{block.get('title') or ''} ({block.get('source') or ''})", *texts]))
