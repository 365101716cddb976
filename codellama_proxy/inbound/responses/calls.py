"""A function call of a chat's answer as the item of the client's tool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from codellama_proxy.inbound.responses.output import UNPLACED, Fields, Place, StreamEvent
from codellama_proxy.inbound.responses.tools import Kind, ToolName
from codellama_proxy.openai_format.fields import MAX_DEPTH, deeper_than

MAX_ATTEMPTS = 16
"""Times that a call's arguments are parsed to find out whether they are complete."""


class CallForm(NamedTuple):
    """The item of one kind of tool."""

    type: str
    id_prefix: str
    fields: Callable[[ToolName, str], Fields]
    """What it has besides type, id, call_id and status, from the tool and the arguments."""


def arguments_object(arguments: str) -> dict[str, Any] | None:
    """The arguments as an object, `None` if they are not one (yet)."""
    try:
        found = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and not deeper_than(found, MAX_DEPTH) else None


def _name_fields(tool: ToolName) -> Fields:
    return {"name": tool.name, "namespace": tool.namespace} if tool.namespace else {"name": tool.name}


def _function(tool: ToolName, arguments: str) -> Fields:
    return {**_name_fields(tool), "arguments": arguments}


def _custom(tool: ToolName, arguments: str) -> Fields:
    found = arguments_object(arguments)
    given = found.get("input") if found is not None else None
    return {**_name_fields(tool), "input": given if isinstance(given, str) else arguments}


def _tool_search(_: ToolName, arguments: str) -> Fields:
    return {"execution": "client", "arguments": arguments_object(arguments) or {}}


def _local_shell(_: ToolName, arguments: str) -> Fields:
    return {"action": {"type": "exec", "command": [], "env": {}, **(arguments_object(arguments) or {})}}


def _shell(_: ToolName, arguments: str) -> Fields:
    action: Fields = {"commands": [], "timeout_ms": None, "max_output_length": None}
    return {"action": {**action, **(arguments_object(arguments) or {})}}


def _apply_patch(_: ToolName, arguments: str) -> Fields:
    operation = (arguments_object(arguments) or {}).get("operation")
    return {"operation": operation if isinstance(operation, dict) else {}}


CALL_FORMS: Mapping[Kind, CallForm] = {
    "function": CallForm("function_call", "fc", _function),
    "custom": CallForm("custom_tool_call", "ctc", _custom),
    "tool_search": CallForm("tool_search_call", "tsc", _tool_search),
    "local_shell": CallForm("local_shell_call", "lsh", _local_shell),
    "shell": CallForm("shell_call", "sh", _shell),
    "apply_patch": CallForm("apply_patch_call", "apc", _apply_patch),
}


class Call:
    """A call of one of the client's tools."""

    def __init__(self, call_id: str, tool_of: Callable[[str], ToolName]) -> None:
        self._call_id = call_id
        self._tool_of = tool_of
        self._place = UNPLACED
        self._tool: ToolName | None = None
        self._pieces: list[str] = []
        self._attempts = 0

    @property
    def prefix(self) -> str | None:
        return CALL_FORMS[self._tool.kind].id_prefix if self._tool is not None else None

    def set_name(self, name: str) -> None:
        """Sets the name of the function; later ones are ignored."""
        if self._tool is None:
            self._tool = self._tool_of(name)

    def open(self, item_id: str, index: int) -> list[StreamEvent]:
        self._place = Place(item_id, index)
        opened = [self._place.added(self._item("in_progress", ""))]
        return [*opened, *self._delta("".join(self._pieces))]

    def add(self, arguments: str) -> list[StreamEvent]:
        self._pieces.append(arguments)
        return self._delta(arguments)

    def close(self) -> list[StreamEvent]:
        shown = self.shown("completed")
        closed: list[StreamEvent] = []
        if shown["type"] == "function_call":
            if not "".join(self._pieces):
                closed += self._delta(shown["arguments"])
            done = {"name": shown["name"], "arguments": shown["arguments"]}
            closed.append(self._place.event("function_call_arguments.done", **done))
        elif shown["type"] == "custom_tool_call":
            if shown["input"]:
                closed.append(self._place.event("custom_tool_call_input.delta", delta=shown["input"]))
            closed.append(self._place.event("custom_tool_call_input.done", input=shown["input"]))
        return [*closed, self._place.done(shown)]

    def may_close(self) -> bool:
        """Whether the arguments are complete. After `MAX_ATTEMPTS`, only the end of the answer decides."""
        if not self._pieces or not self._pieces[-1].rstrip().endswith("}") or self._attempts >= MAX_ATTEMPTS:
            return False
        self._attempts += 1
        return self.is_whole()

    def is_whole(self) -> bool:
        """Whether the arguments are a JSON object."""
        return arguments_object("".join(self._pieces)) is not None

    def shown(self, status: str) -> Fields:
        arguments = "".join(self._pieces)
        return self._item(status, "{}" if status == "completed" and not arguments.strip() else arguments)

    def _item(self, status: str, arguments: str) -> Fields:
        assert self._tool is not None
        form = CALL_FORMS[self._tool.kind]
        head = {"type": form.type, "id": self._place.id, "call_id": self._call_id, "status": status}
        return {**head, **form.fields(self._tool, arguments)}

    def _delta(self, arguments: str) -> list[StreamEvent]:
        if not arguments or self._tool is None or self._tool.kind != "function":
            return []
        return [self._place.event("function_call_arguments.delta", delta=arguments)]
