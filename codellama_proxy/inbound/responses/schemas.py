"""JSON schemas of the functions that stand for tools without a schema of their own.

The fields are those of the calls' items: `local_shell_call.action`, `shell_call.action`, `apply_patch_call.operation`.
(platform.openai.com/docs/api-reference/responses/object)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Schema = Mapping[str, Any]


class FixedTool(NamedTuple):
    """A tool whose interface OpenAI defines."""

    description: str
    parameters: Schema


def _object(properties: Schema, *required: str) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_STRING: Schema = {"type": "string"}
_STRINGS: Schema = {"type": "array", "items": _STRING}
_INTEGER: Schema = {"type": "integer"}

NO_PARAMETERS: Schema = {"type": "object", "properties": {}}
INPUT_SCHEMA = _object(
    {"input": {"type": "string", "description": "The whole input of the tool, as text."}}, "input"
)
"""Of custom tools, whose input is one text."""
FIXED_TOOLS: Mapping[str, FixedTool] = {
    "tool_search": FixedTool("Searches for tools that can be loaded.", NO_PARAMETERS),
    "local_shell": FixedTool(
        "Runs a command on the user's machine.",
        _object(
            {
                "command": {**_STRINGS, "description": "The program and its arguments."},
                "env": {"type": "object", "additionalProperties": _STRING},
                "timeout_ms": _INTEGER,
                "user": _STRING,
                "working_directory": _STRING,
            },
            "command",
        ),
    ),
    "shell": FixedTool(
        "Runs shell commands on the user's machine.",
        _object(
            {
                "commands": {**_STRINGS, "description": "Command lines, each run by a shell."},
                "timeout_ms": _INTEGER,
                "max_output_length": _INTEGER,
            },
            "commands",
        ),
    ),
    "apply_patch": FixedTool(
        "Creates, updates or deletes a file.",
        _object(
            {
                "operation": _object(
                    {
                        "type": {"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
                        "path": _STRING,
                        "diff": {"type": "string", "description": "In the V4A format; not for delete_file."},
                    },
                    "type",
                    "path",
                )
            },
            "operation",
        ),
    ),
}
