"""Requests of other dialects as plain chats, without what only their own providers understand.

Results of tools become text, with images and files in a user message after them; adjacent user messages become one,
because many chat templates require alternating roles. Requests that came as chats stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.openai_format.request import CACHE_MARKS, SYSTEM_ROLES, InferenceRequest, Message
from codellama_proxy.openai_format.texts import Texts
from codellama_proxy.providers.common.output_limits import narrowed

NO_OUTPUT = "(no output)"
SEE_ATTACHMENT = "(see the attachment in the next message)"
NOT_FOR_CHATS = frozenset({"thinking_blocks", "is_error"})
"""Message fields that no provider of chats knows."""


def available(chat: InferenceRequest) -> None:
    """Raises `ProxyError` unsupported_parameter if the request is about a tool that is not available here."""
    if chat.needed_tool:
        message = f"The tool {chat.needed_tool[:64]} is not available with this model."
        raise ProxyError("unsupported_parameter", message, param="tools")


def plain_chat(
    chat: InferenceRequest,
    deployment: Deployment,
    *,
    system_first: bool = True,
    marks: frozenset[str] = frozenset(),
) -> InferenceRequest:
    """The request as a plain chat. Raises `ProxyError` unsupported_parameter.

    `system_first`: system messages are accepted only at the beginning; `marks`: the accepted cache marks.
    """
    if chat.dialect == "chat":
        return chat
    available(chat)
    if _is_plain(chat.messages):
        return narrowed(chat, deployment)
    messages = _joined(_plain(_without_attachments(chat.messages), system_first=system_first))
    flat = [_flat(message, marks) for message in messages]
    return narrowed(chat.with_content(flat, chat.params, chat.native), deployment)


def _is_plain(messages: Sequence[Message]) -> bool:
    """Whether they are texts already: system messages at most at the beginning, and no two user messages in a row."""
    if type(messages) is not Texts:
        return False
    before = "system"
    for message in messages:
        role = message["role"]
        if (role == "user" and before == "user") or (role == "system" and before != "system"):
            return False
        before = role
    return True


def dropped(names: Iterable[str], chat: InferenceRequest) -> tuple[str, ...]:
    """Everything that the upstream does not get: parameters it does not support, and what the translation left out."""
    return tuple(sorted({*names, *chat.ignored}))


# --- results of tools ----------------------------------------------------------------------------------------


def _without_attachments(messages: Sequence[Message]) -> Iterable[Message]:
    """Results as text; what is not text follows the last result of a turn in a user message."""
    waiting: list[Mapping[str, Any]] = []
    for message in messages:
        if message["role"] != "tool":
            if waiting:
                yield {"role": "user", "content": waiting}
                waiting = []
            yield message
            continue
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        texts = [str(part.get("text") or "") for part in parts if part["type"] == "text"]
        others = [part for part in parts if part["type"] != "text"]
        text = "\n".join(texts) or (SEE_ATTACHMENT if others else NO_OUTPUT)
        if message.get("is_error") is True:
            text = f"Error: {text}"
        if others:
            called = f"Attachment of tool result {message.get('tool_call_id')}:"
            waiting += [{"type": "text", "text": called}, *others]
        yield {**message, "content": text}
    if waiting:
        yield {"role": "user", "content": waiting}


# --- one message ---------------------------------------------------------------------------------------------


def _plain(messages: Iterable[Message], *, system_first: bool) -> Iterable[Message]:
    begun = False
    for message in messages:
        off = (NOT_FOR_CHATS | (CACHE_MARKS if message["role"] == "tool" else frozenset())) & message.keys()
        if off:
            message = {name: value for name, value in message.items() if name not in off}  # noqa: PLW2901
        if message.get("tool_calls"):
            message = {**message, "tool_calls": [_unmarked(call) for call in message["tool_calls"]]}  # noqa: PLW2901
        is_system = message["role"] in SYSTEM_ROLES
        if is_system and begun and system_first:
            yield _reminder(message)
            continue
        begun = begun or not is_system
        yield message


def _unmarked(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in call.items() if name not in CACHE_MARKS}


def _reminder(message: Message) -> Message:
    """A late system message as a user message, in the form in which coding agents write reminders."""
    texts = [part["text"] for part in _parts(message["content"]) if part["type"] == "text"]
    text = "\n\n".join(texts)
    return {"role": "user", "content": f"<system-reminder>\n{text}\n</system-reminder>"}


def _parts(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _joined(messages: Iterable[Message]) -> Iterable[Message]:
    """Adjacent user messages as one."""
    last: Message | None = None
    for message in messages:
        if last is not None and last["role"] == message["role"] == "user":
            last = {**last, "content": [*_parts(last["content"]), *_parts(message["content"])]}
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last


def _flat(message: Message, marks: frozenset[str]) -> Message:
    """The message with content of only text as one string, and linked files as text."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = [_part(part, marks) for part in content]
    if all(part.keys() == {"type", "text"} for part in parts):
        between = "" if message["role"] == "assistant" else "\n\n"
        return {**message, "content": between.join(str(part["text"]) for part in parts)}
    return {**message, "content": parts}


def _part(part: Mapping[str, Any], marks: frozenset[str]) -> Mapping[str, Any]:
    off = CACHE_MARKS - marks
    if off & part.keys():
        part = {name: value for name, value in part.items() if name not in off}
    match part:
        case {"type": "file", "file": {"file_url": str(url), "filename": name}}:
            return {"type": "text", "text": f"Document {name}: {url}"}
    return part
