"""What a model says to a coding agent: call its shell tool, or another, then repeat what the tool returned. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

COMMAND = "echo from-the-shell-$((40 + 2)); sleep 1"  # Qwen Code loses what a command prints as it ends
OUTPUT = "from-the-shell-42"
"""What the command prints: it is in no request unless the command was run."""
TOOLS = frozenset(
    {"Bash", "bash", "shell", "shell_command", "exec_command", "run_shell_command", "execute_command"}
    | {"run_commands", "run_terminal_command"}
)
"""The names that agents give to their shell tool."""
VALUES: Mapping[str, Any] = {"boolean": False, "number": 1, "integer": 1, "array": [], "object": {}}


def call(body: Mapping[str, Any], wanted: str = "") -> tuple[str, str] | None:
    """Name and JSON arguments of the call; `None` without that tool, or if one was called already.

    `wanted` is a name and its arguments, `NAME{JSON}`; otherwise the shell tool runs `COMMAND`.
    """
    if any(_results(body)):
        return None
    name, brace, arguments = wanted.partition("{")
    for tool in body.get("tools") or ():
        described = tool.get("function", tool)
        offered = str(described.get("name"))
        if wanted and offered.endswith(name):
            return offered, brace + arguments
        if not wanted and offered in TOOLS:
            schema = described.get("parameters") or described.get("input_schema") or {}
            return offered, json.dumps(_arguments(schema))
    return None


def summary(body: Mapping[str, Any]) -> str:
    """The last answer of the task."""
    found = returned(body)
    return f"The tool returned {OUTPUT}." if OUTPUT in found else f"No tool ran. {found}".strip()


def returned(body: Mapping[str, Any]) -> str:
    """What tools returned, as JSON."""
    return " ".join(_results(body))


def _arguments(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    return {name: _value(name, properties.get(name) or {}) for name in schema.get("required") or properties}


def _value(name: str, schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if name in ("command", "cmd", "commands"):
        return [COMMAND] if kind == "array" else COMMAND
    return VALUES.get(str(kind), (schema.get("enum") or ["run a command"])[0])


def _results(body: Mapping[str, Any]) -> Iterator[str]:
    """Results of tools, in the form of chat completions, of Messages or of Responses."""
    for item in body["input"] if isinstance(body.get("input"), list) else ():
        if item.get("type") == "function_call_output":
            yield json.dumps(item["output"])
    for message in body.get("messages") or ():
        content = message.get("content")
        if message.get("role") == "tool":
            yield json.dumps(content)
        elif isinstance(content, list):
            yield from (json.dumps(one) for one in content if one.get("type") == "tool_result")
