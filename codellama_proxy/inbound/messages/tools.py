"""Converts tools and `tool_choice` to OpenAI's format.

Tools that the provider itself runs exist only on relays. Elsewhere they are left out if other tools remain, and the
request is refused if it is about them: without the tool, the model would invent its results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from codellama_proxy.inbound.messages.checks import LeftOut, given, mark_of, text_given
from codellama_proxy.inbound.tool_names import wire_name
from codellama_proxy.openai_format.fields import invalid_type

PLACEHOLDER = "DeferredToolPlaceholder"
"""A tool of Claude Code that only tells a model of deferred tools."""
MAX_EXAMPLES = 2000
"""Characters of examples that are appended to a description."""
_VERSION = re.compile(r"_\d{8}$")
_SERVER_TOOLS = re.compile(
    r"web_search|web_fetch|code_execution|tool_search_tool|advisor|mcp_toolset|computer", re.ASCII
)


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


_TEXT = {"type": "string"}
_RANGE = {"type": "array", "items": {"type": "integer"}}
CLIENT_TOOLS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bash": (
        "Runs a command in a persistent bash session.",
        _object([], command=_TEXT, restart={"type": "boolean"}),
    ),
    "text_editor": (
        "Views, creates and edits text files. Commands: view, create, str_replace, insert.",
        _object(
            ["command", "path"],
            command=_TEXT,
            path=_TEXT,
            file_text=_TEXT,
            old_str=_TEXT,
            new_str=_TEXT,
            insert_line={"type": "integer"},
            insert_text=_TEXT,
            view_range=_RANGE,
        ),
    ),
    "memory": (
        "Reads and writes files below /memories. Commands: view, create, str_replace, insert, delete, rename.",
        _object(
            ["command"],
            command=_TEXT,
            path=_TEXT,
            file_text=_TEXT,
            old_str=_TEXT,
            new_str=_TEXT,
            insert_line={"type": "integer"},
            insert_text=_TEXT,
            view_range=_RANGE,
            old_path=_TEXT,
            new_path=_TEXT,
        ),
    ),
}
"""Anthropic's tools that clients run, with their published arguments (docs.anthropic.com/en/docs/agents-and-tools)."""


class Tools(NamedTuple):
    params: dict[str, Any]
    """`tools`, `tool_choice`, `parallel_tool_calls`, as far as there are any."""
    needed: str = ""
    """The server tool that the request is about."""


NO_TOOLS = Tools({})


def tools_of(body: Mapping[str, Any], removed: Iterable[str], left_out: LeftOut) -> Tools:
    """The tools of a request without the `removed` ones. Raises `ProxyError`."""
    if body.get("tools") is None and body.get("tool_choice") is None:
        return NO_TOOLS
    offered: list[dict[str, Any]] = []
    served: list[str] = []
    absent = {PLACEHOLDER, *removed}
    for index, tool in enumerate(given(body, "tools", list, "array") or ()):
        if not isinstance(tool, dict):
            raise invalid_type(f"tools[{index}]", "object")
        kind = given(tool, "type", str, "string", f"tools[{index}].") or "custom"
        if _name_of(tool, kind) in absent:
            continue
        if converted := _converted(tool, kind, f"tools[{index}]"):
            offered.append(converted)
            continue
        name = _name_of(tool, kind)
        left_out.add(f"tools.{name}")
        if _SERVER_TOOLS.match(kind):
            served.append(name)
    choice = given(body, "tool_choice", dict, "object") or {}
    forced = choice.get("name") if choice.get("type") == "tool" else None
    names = {tool["function"]["name"] for tool in offered}
    needed = _needed(served, forced, has_others=bool(offered))
    params = {**_choice(choice, names, left_out), "tools": offered} if offered else {}
    return Tools(params, needed)


def _needed(served: list[str], forced: Any, *, has_others: bool) -> str:
    for name in served:
        if name in (forced, "computer") or not has_others:
            return name
    return ""


def _name_of(tool: Mapping[str, Any], kind: str) -> str:
    own = tool.get("name")
    return own if isinstance(own, str) and own else _VERSION.sub("", kind)


def _converted(tool: Mapping[str, Any], kind: str, at: str) -> dict[str, Any] | None:
    """The tool as a function; `None` if only its provider can run it or it is unknown."""
    mark = mark_of(tool)
    known = CLIENT_TOOLS.get(_VERSION.sub("", kind)) if kind != "custom" else None
    if known is not None:
        description, schema = known
        function: dict[str, Any] = {
            "name": _name_of(tool, kind),
            "description": description,
            "parameters": schema,
        }
    elif kind == "custom":
        function = _function(tool, at)
    else:
        return None
    function["name"] = wire_name(function["name"])
    return {"type": "function", "function": function, **mark}


def _function(tool: Mapping[str, Any], at: str) -> dict[str, Any]:
    schema = given(tool, "input_schema", dict, "object", f"{at}.") or {"type": "object", "properties": {}}
    function: dict[str, Any] = {"name": text_given(tool, "name", at)}
    description = given(tool, "description", str, "string", f"{at}.") or ""
    examples = tool.get("input_examples")
    if isinstance(examples, list) and examples:
        shown = orjson.dumps(examples).decode()
        if len(shown) <= MAX_EXAMPLES:
            description = f"{description}\n\nExamples of its input: {shown}".strip()
    if description:
        function["description"] = description
    function["parameters"] = {name: value for name, value in schema.items() if name != "$schema"}
    if isinstance(tool.get("strict"), bool):
        function["strict"] = tool["strict"]
    return function


def _choice(choice: Mapping[str, Any], offered: set[str], left_out: LeftOut) -> dict[str, Any]:
    params: dict[str, Any] = {}
    match choice.get("type"):
        case None:
            pass
        case "auto" | "none" as word:
            params["tool_choice"] = word
        case "any":
            params["tool_choice"] = "required"
        case "tool":
            name = wire_name(text_given(choice, "name", "tool_choice"))
            if name in offered:
                params["tool_choice"] = {"type": "function", "function": {"name": name}}
            else:
                left_out.add("tool_choice")
        case _:
            left_out.add("tool_choice")
    if choice.get("disable_parallel_tool_use") is True:
        params["parallel_tool_calls"] = False
    return params
