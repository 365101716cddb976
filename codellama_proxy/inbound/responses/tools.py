"""Tools of a Responses request as functions of a chat, and the way back from a function's name to the tool.

Every tool that the client runs becomes a function. Tools that the provider would run are left out.
(platform.openai.com/docs/api-reference/responses/create, `tools`)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.responses.refusals import stored
from codellama_proxy.inbound.responses.schemas import FIXED_TOOLS, INPUT_SCHEMA, NO_PARAMETERS
from codellama_proxy.inbound.tool_names import wire_name
from codellama_proxy.openai_format.fields import invalid_type, invalid_value

Kind = Literal["function", "custom", "tool_search", "local_shell", "shell", "apply_patch"]
UNPREFIXED_NAMESPACE = "functions"
"""The namespace of tools that models call by their plain names."""
TOOL_ITEMS = ("additional_tools", "tool_search_output")
"""Input items that offer tools."""
HOSTED = re.compile(
    r"(web_search|file_search|code_interpreter|image_generation|computer|programmatic_tool_calling|mcp)(_|$)"
)
"""Types of tools that a provider runs, or that no chat model knows; the date of a version may follow."""
CHOICES = ("none", "auto", "required")


class ToolName(NamedTuple):
    """The client's name of a tool."""

    kind: Kind
    name: str
    namespace: str = ""


class Offered(NamedTuple):
    """The tools of one request."""

    functions: tuple[Mapping[str, Any], ...]
    """As a chat's `tools`."""
    names: Mapping[str, ToolName]
    """By the names of the functions."""
    hosted: tuple[str, ...]
    """Types of the hosted tools that are left out."""
    ignored: tuple[str, ...]
    """All that is left out, for reports."""


NO_TOOLS = Offered((), {}, (), ())


def function_name(name: str, namespace: object = None) -> str:
    """The name of the function that stands for a tool."""
    if isinstance(namespace, str) and namespace not in ("", UNPREFIXED_NAMESPACE):
        return wire_name(f"{namespace}__{name}")
    return wire_name(name)


def offered(body: Mapping[str, Any]) -> Offered:
    """The tools of the request and of its input items. Raises `ProxyError` with status 400 and `param`.

    A pure function of the body, so the answer's encoder calls it again. A later definition of a tool replaces an
    earlier one; two tools that would get one name are refused.
    """
    lists = [(at, tools) for at, tools in _tool_lists(body) if tools is not None]
    if not lists:
        return NO_TOOLS
    found = _Collector()
    for at, tools in lists:
        found.add_all(tools, at)
    return Offered(tuple(found.functions.values()), found.names, tuple(found.hosted), tuple(found.ignored))


def names_of(tools: object, at: str) -> list[str]:
    """The function names of these tools, for a text that names them."""
    found = _Collector()
    found.add_all(tools, at)
    return list(found.names)


def _tool_lists(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "tools", body.get("tools")
    items = body.get("input")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and item.get("type") in TOOL_ITEMS:
            yield f"input[{index}].tools", item.get("tools")


class _Collector:
    """Collects tools in order."""

    def __init__(self) -> None:
        self.functions: dict[str, Mapping[str, Any]] = {}
        self.names: dict[str, ToolName] = {}
        self.hosted: list[str] = []
        self.ignored: list[str] = []

    def add_all(self, tools: object, at: str, namespace: str = "") -> None:
        if tools is None:
            return
        if not isinstance(tools, list):
            raise invalid_type(at, "array")
        for index, tool in enumerate(tools):
            self._add(tool, f"{at}[{index}]", namespace)

    def _add(self, tool: object, at: str, namespace: str) -> None:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(tool, dict) or not isinstance(kind, str):
            raise invalid_type(at, "object with a 'type'")
        match kind:
            case "function":
                self._define(ToolName(kind, _name(tool, at), namespace), tool, _parameters(tool, at), at)
            case "custom":
                self._define(ToolName(kind, _name(tool, at), namespace), tool, INPUT_SCHEMA, at)
            case "namespace" if not namespace:
                name = _name(tool, at)
                inner = "" if name == UNPREFIXED_NAMESPACE else name
                self.add_all(tool.get("tools"), f"{at}.tools", inner)
            case "tool_search" if tool.get("execution") == "client":
                self._define(ToolName(kind, kind), tool, _parameters(tool, at), at)
            case "local_shell" | "shell" | "apply_patch":
                _check_local(tool, at)
                self._define(ToolName(kind, kind), tool, FIXED_TOOLS[kind].parameters, at)
            case _:
                _check_references(tool, at)
                self.ignored.append(f"tools.{kind}")
                if HOSTED.match(kind):
                    self.hosted.append(kind)

    def _define(self, tool: ToolName, given: Mapping[str, Any], parameters: Any, at: str) -> None:
        wire = function_name(tool.name, tool.namespace)
        if self.names.setdefault(wire, tool) != tool:
            both = f"'{_shown(self.names[wire])}' and '{_shown(tool)}'"
            raise invalid_value(
                at, f"The tools {both} would have the same name, '{wire}'. Rename one of them."
            )
        function = {"name": wire, "description": _description(tool, given), "parameters": parameters}
        if isinstance(given.get("strict"), bool) and tool.kind == "function":
            function["strict"] = given["strict"]
        self.functions[wire] = {"type": "function", "function": function}


def _shown(tool: ToolName) -> str:
    return (
        f"{tool.kind} {tool.namespace}.{tool.name}"[:200]
        if tool.namespace
        else f"{tool.kind} {tool.name}"[:200]
    )


def _name(tool: Mapping[str, Any], at: str) -> str:
    name = tool.get("name")
    if name is None:
        raise ProxyError("missing_required_parameter", f"'{at}.name' is required.", param=f"{at}.name")
    if not isinstance(name, str):
        raise invalid_type(f"{at}.name", "string")
    if not name:
        raise invalid_value(f"{at}.name", f"'{at}.name' must not be empty.")
    return name


def _parameters(tool: Mapping[str, Any], at: str) -> Mapping[str, Any]:
    parameters = tool.get("parameters")
    if parameters is None:
        return NO_PARAMETERS
    if not isinstance(parameters, dict):
        raise invalid_type(f"{at}.parameters", "object")
    return parameters or NO_PARAMETERS


def _description(tool: ToolName, given: Mapping[str, Any]) -> str:
    text = given.get("description")
    if not isinstance(text, str) or not text:
        text = FIXED_TOOLS[tool.kind].description if tool.kind in FIXED_TOOLS else ""
    form = given.get("format")
    if tool.kind == "custom" and isinstance(form, dict) and isinstance(form.get("definition"), str):
        syntax = form["syntax"] if isinstance(form.get("syntax"), str) else ""
        grammar = f"{syntax} grammar".strip()
        text = f"{text}\n\nThe input must follow this {grammar}:\n{form['definition']}".strip()
    return text


def _check_local(tool: Mapping[str, Any], at: str) -> None:
    """A shell runs at the client unless it has another `environment`, which is a container at the provider."""
    environment = tool.get("environment")
    if isinstance(environment, dict) and environment.get("type", "local") != "local":
        raise stored("container", f"{at}.environment")


def _check_references(tool: Mapping[str, Any], at: str) -> None:
    """Raises `ProxyError` for a hosted tool with a stored object or a server of the client's choice."""
    if tool["type"] == "mcp":
        raise stored("mcp", at)
    if isinstance(tool.get("container"), str):
        raise stored("container", f"{at}.container")
    if tool.get("vector_store_ids"):
        raise stored("vector_store_ids", f"{at}.vector_store_ids")


# --- tool_choice ---------------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """What a request says about the use of its tools."""

    value: Any = None
    """A chat's `tool_choice`; `None` for none."""
    needed: str = ""
    """A tool that the answer needs and that is not offered as a function; without it, a model would make up results."""


def choice_of(choice: object, tools: Offered) -> Choice:
    """The `tool_choice` of a request. Raises `ProxyError` with status 400 and `param` for a wrong type."""
    found = _choice(choice, tools)
    if tools.hosted and not tools.functions and choice != "none":
        return Choice(None, tools.hosted[0])
    return found


def _choice(choice: object, tools: Offered) -> Choice:
    if choice is None:
        return Choice()
    if isinstance(choice, str):
        if choice not in CHOICES:
            raise invalid_value("tool_choice", f"'tool_choice' must be one of {', '.join(CHOICES)}.")
        return Choice(choice if tools.functions else None)
    if not isinstance(choice, dict) or not isinstance(choice.get("type"), str):
        raise invalid_type("tool_choice", "string or object with a 'type'")
    if choice["type"] == "allowed_tools":
        return _allowed_tools(choice, tools)
    name = _chosen(choice, "tool_choice", tools)
    if name is None:
        return Choice(None, _label(choice))
    return Choice({"type": "function", "function": {"name": name}})


def _allowed_tools(choice: Mapping[str, Any], tools: Offered) -> Choice:
    listed = choice.get("tools")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise invalid_type("tool_choice.tools", "array of objects")
    names = [name for one in listed if (name := _chosen(one, "tool_choice.tools", tools)) is not None]
    required = choice.get("mode") == "required"
    if not names:
        needed = _label(listed[0]) if required and listed else ""
        return Choice("none" if tools.functions and not needed else None, needed)
    allowed = [{"type": "function", "function": {"name": name}} for name in names]
    mode = "required" if required else "auto"
    return Choice({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}})


def _chosen(choice: Mapping[str, Any], at: str, tools: Offered) -> str | None:
    """The function that a choice names, `None` if it is not offered."""
    kind, name = choice.get("type"), choice.get("name")
    if kind in ("function", "custom"):
        if not isinstance(name, str):
            raise invalid_type(f"{at}.name", "string")
        wire = function_name(name, choice.get("namespace"))
    elif isinstance(kind, str):
        wire = kind
    else:
        return None
    return wire if wire in tools.names else None


def _label(choice: Mapping[str, Any]) -> str:
    name = choice.get("name", choice.get("type"))
    return name[:64] if isinstance(name, str) and name else "unknown"
