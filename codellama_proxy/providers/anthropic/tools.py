"""Converts tools and `tool_choice` to Anthropic's format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from codellama_proxy.openai_format.fields import invalid_value
from codellama_proxy.openai_format.request import Message
from codellama_proxy.providers.anthropic.capabilities import Capabilities
from codellama_proxy.providers.common.parameters import ParameterSet, name_of, narrow_tool_choice

NO_ARGUMENTS = {"type": "object", "properties": {}}
FORCED = ("any", "tool")


def tool_choice_of(asked: ParameterSet, able: Capabilities) -> tuple[ParameterSet, dict[str, Any]]:
    """The `tool_choice`, empty for none, and the remaining tools."""
    choice = asked.params.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        asked = replace(asked, params=narrow_tool_choice(asked.params))
    if any(tool.get("type", "function") != "function" for tool in asked.params.get("tools", ())):
        asked = asked.refuse("tools")
    if not asked.params.get("tools"):
        return asked.without("tools", "tool_choice", "parallel_tool_calls"), {}
    choice = _choice(asked.params.get("tool_choice"))
    if choice.get("type") in FORCED and not able.forced_tools:
        asked, choice = asked.refuse("tool_choice"), {}
    if asked.params.get("parallel_tool_calls") is False and choice.get("type") != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    return asked, choice


def _choice(found: object) -> dict[str, Any]:
    match found:
        case None:
            return {}
        case "auto" | "none":
            return {"type": found}
        case "required":
            return {"type": "any"}
        case {"type": "function", "function": {"name": str() as name}}:
            return {"type": "tool", "name": name}
    raise invalid_value("tool_choice", "'tool_choice' must be none, auto, required or name a function.")


def tools_of(asked: ParameterSet, messages: Iterable[Message]) -> dict[str, Any]:
    """The tools; if there are none but the conversation contains calls, the called tools, which the API requires."""
    found = [_tool(tool) for tool in asked.params.get("tools", ())]
    if not found:
        calls = [call for message in messages for call in message.get("tool_calls") or ()]
        names = dict.fromkeys(name for call in calls if (name := name_of(call)))
        found = [{"name": name, "input_schema": NO_ARGUMENTS} for name in names]
    return {"tools": found} if found else {}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise invalid_value("tools", "Every tool needs a 'function'.")
    found = {"name": function.get("name"), "input_schema": function.get("parameters") or NO_ARGUMENTS}
    for name in ("description", "strict"):
        if function.get(name) is not None:
            found[name] = function[name]
    mark = tool.get("cache_control")
    return {**found, "cache_control": mark} if isinstance(mark, Mapping) else found
