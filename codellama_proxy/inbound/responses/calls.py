"""A function call of a chat's answer as the item of the client's tool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from codellama_proxy.inbound.responses.tools import Kind, ToolName
from codellama_proxy.openai_format.fields import MAX_DEPTH, deeper_than

Fields = dict[str, Any]


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
