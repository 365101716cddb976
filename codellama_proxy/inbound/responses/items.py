"""Input items of a Responses request as the messages of a chat.

(platform.openai.com/docs/api-reference/responses/create, `input`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.responses.content import content_of, text_of
from codellama_proxy.inbound.responses.refusals import check_no_ids, stored
from codellama_proxy.inbound.responses.tools import function_name, names_of
from codellama_proxy.openai_format.fields import invalid_type, invalid_value
from codellama_proxy.openai_format.request import Message
from codellama_proxy.openai_format.texts import Texts, texts_of

OpenSealed = Callable[[str], Mapping[str, Any] | None]
"""The content of a reasoning item that was sealed here, `None` for any other."""

ROLES = ("user", "assistant", "system", "developer")
CALLS = (
    *("function_call", "custom_tool_call", "tool_search_call"),
    *("local_shell_call", "shell_call", "apply_patch_call"),
)
OUTPUTS = (
    *("function_call_output", "custom_tool_call_output", "tool_search_output"),
    *("local_shell_call_output", "shell_call_output", "apply_patch_call_output"),
)
NO_TEXT = " "
"""The content of an assistant message of reasoning alone: several providers refuse an empty one."""


def messages_of(given: str | Sequence[Any], open_sealed: OpenSealed) -> tuple[Sequence[Message], list[str]]:
    """The messages, and the names of what is left out. Raises `ProxyError` with status 400 and `param`."""
    if isinstance(given, str):
        return Texts([{"role": "user", "content": given}]), []
    texts = texts_of(given)
    if texts is not None and "assistant" not in [message["role"] for message in texts]:
        return texts, []
    folder = _Folder(open_sealed)
    for index, item in enumerate(given):
        folder.add(item, f"input[{index}]")
    return folder.done(), folder.ignored


class _Folder:
    """Makes one message of an assistant's items in a row: reasoning, text and calls, in this order."""

    def __init__(self, open_sealed: OpenSealed) -> None:
        self.ignored: list[str] = []
        self._open_sealed = open_sealed
        self._messages: list[Message] = []
        self._assistant: dict[str, Any] | None = None

    def add(self, item: object, at: str) -> None:
        if not isinstance(item, dict):
            raise invalid_type(at, "object")
        kind = _type_of(item, at)
        if kind == "message":
            self._add_message(item, at)
        elif kind == "reasoning":
            self._add_reasoning(item)
        elif kind in CALLS:
            check_no_ids(item, at)
            self._add_call(kind, item, at)
        elif kind in OUTPUTS:
            self._add_output(kind, item, at)
        elif kind == "item_reference":
            raise stored(kind, at)
        elif kind != "additional_tools":
            check_no_ids(item, at)
            self.ignored.append(f"input.{kind}")

    def done(self) -> list[Message]:
        self._close()
        return self._messages

    def _add_message(self, item: Mapping[str, Any], at: str) -> None:
        role = item.get("role")
        if not isinstance(role, str):
            raise invalid_type(f"{at}.role", "string")
        if role not in ROLES:
            raise invalid_value(f"{at}.role", f"'{at}.role' must be one of {', '.join(ROLES)}.")
        content = content_of(item.get("content"), f"{at}.content", self.ignored)
        if role != "assistant":
            self._close()
            self._messages.append({"role": role, "content": content})
        elif text := text_of(content):
            assistant = self._begin()
            before = assistant["content"]
            assistant["content"] = f"{before}\n\n{text}" if before else text

    def _add_reasoning(self, item: Mapping[str, Any]) -> None:
        sealed = item.get("encrypted_content")
        own = self._open_sealed(sealed) if isinstance(sealed, str) else None
        text = own.get("reasoning") if own else _texts(item.get("content")) or _texts(item.get("summary"))
        blocks = own.get("thinking_blocks") if own else None
        if not text and not blocks:
            return
        assistant = self._begin()
        if text:
            before = assistant.get("reasoning_content")
            assistant["reasoning_content"] = f"{before}\n\n{text}" if before else text
        if blocks:
            assistant.setdefault("thinking_blocks", []).extend(blocks)

    def _add_call(self, kind: str, item: Mapping[str, Any], at: str) -> None:
        if kind == "tool_search_call" and item.get("call_id") is None:
            self.ignored.append(f"input.{kind}")  # the provider ran it
            return
        if kind in ("function_call", "custom_tool_call"):
            wire = function_name(_string(item, "name", at), item.get("namespace"))
        else:
            wire = kind.removesuffix("_call")
        call = {
            "id": _string(item, "call_id", at),
            "type": "function",
            "function": {"name": wire, "arguments": _arguments(kind, item, at)},
        }
        if self._assistant is None:
            self._assistant = {"role": "assistant", "content": None}
        self._assistant.setdefault("tool_calls", []).append(call)

    def _add_output(self, kind: str, item: Mapping[str, Any], at: str) -> None:
        if kind == "tool_search_output" and item.get("call_id") is None:
            return
        call_id = _string(item, "call_id", at)
        match kind:
            case "tool_search_output":
                names = names_of(item.get("tools"), f"{at}.tools")
                content: Any = f"Loaded tools: {', '.join(names) or 'none'}"
            case "shell_call_output":
                content = _shell_output(item.get("output"), f"{at}.output", self.ignored)
            case "apply_patch_call_output" if not item.get("output"):
                content = str(item.get("status") or "completed")[:64]
            case _:
                content = content_of(item.get("output"), f"{at}.output", self.ignored)
        self._close()
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def _begin(self) -> dict[str, Any]:
        """The assistant message that text or reasoning belongs to: a new one after calls."""
        if self._assistant is None or "tool_calls" in self._assistant:
            self._close()
            self._assistant = {"role": "assistant", "content": None}
        return self._assistant

    def _close(self) -> None:
        if self._assistant is not None:
            if self._assistant["content"] is None and "tool_calls" not in self._assistant:
                self._assistant["content"] = NO_TEXT
            self._messages.append(self._assistant)
            self._assistant = None


def _type_of(item: Mapping[str, Any], at: str) -> str:
    """Its type; without one it is a message if it has a role, and a reference if it has only an id."""
    kind = item.get("type")
    if isinstance(kind, str):
        return kind
    if kind is not None:
        raise invalid_type(f"{at}.type", "string")
    if "role" in item:
        return "message"
    if "id" in item:
        return "item_reference"
    raise ProxyError("missing_required_parameter", f"'{at}.type' is required.", param=f"{at}.type")


def _string(item: Mapping[str, Any], name: str, at: str) -> str:
    found = item.get(name)
    if found is None:
        raise ProxyError("missing_required_parameter", f"'{at}.{name}' is required.", param=f"{at}.{name}")
    if not isinstance(found, str):
        raise invalid_type(f"{at}.{name}", "string")
    if not found:
        raise invalid_value(f"{at}.{name}", f"'{at}.{name}' must not be empty.")
    return found


def _arguments(kind: str, item: Mapping[str, Any], at: str) -> str:
    """What the model called the tool with, as JSON."""
    match kind:
        case "function_call":
            found = item.get("arguments")
            if found is None:
                return "{}"
            if not isinstance(found, str):
                raise invalid_type(f"{at}.arguments", "string")
            return found
        case "custom_tool_call":
            given = item.get("input")
            if given is not None and not isinstance(given, str):
                raise invalid_type(f"{at}.input", "string")
            value: Any = {"input": given or ""}
        case "tool_search_call":
            value = item.get("arguments") or {}
        case "apply_patch_call":
            value = {"operation": item.get("operation") or {}}
        case _:
            action = item.get("action")
            action = action if isinstance(action, dict) else {}
            value = {name: one for name, one in action.items() if one is not None and name != "type"}
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _texts(parts: object) -> str:
    """The texts of a reasoning item's parts."""
    found = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "\n\n".join([text for text in found if isinstance(text, str) and text])


def _shell_output(output: object, at: str, ignored: list[str]) -> Any:
    """The output of each command: what it wrote, and how it ended."""
    if not isinstance(output, list) or not any(isinstance(one, dict) and "outcome" in one for one in output):
        return content_of(output, at, ignored)
    return "\n\n".join([_command_output(one) for one in output if isinstance(one, dict)])


def _command_output(one: Mapping[str, Any]) -> str:
    written = [text for name in ("stdout", "stderr") if isinstance(text := one.get(name), str) and text]
    outcome = one.get("outcome")
    if isinstance(outcome, dict) and outcome.get("type") == "timeout":
        written.append("Timed out.")
    elif isinstance(outcome, dict) and isinstance(outcome.get("exit_code"), int):
        written.append(f"Exit code: {outcome['exit_code']}")
    return "\n".join(written)
