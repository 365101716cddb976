"""Requests as Codex CLI 0.171 sends them, by the kind of model name that it was given."""

from __future__ import annotations

from typing import Any

GRAMMAR = 'start: begin_patch hunk+ end_patch\nbegin_patch: "*** Begin Patch" LF'
THREAD = "0199c1de-7a11-7b02-9d5c-1f6a1f0c4e7b"
HEADERS = {
    "authorization": "Bearer sk-x",
    "accept": "text/event-stream",
    "originator": "codex_exec",
    "session-id": THREAD,
    "thread-id": THREAD,
    "x-client-request-id": THREAD,
    "x-codex-window-id": f"{THREAD}:0",
    "x-codex-beta-features": "remote_compaction_v2",
    "x-codex-turn-metadata": '{"turn_id":"1"}',
}


def function(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"type": "function", "name": name, "description": name, "strict": False, "parameters": schema}


STRING = {"type": "string"}
FUNCTIONS = [
    function("exec_command", cmd=STRING, workdir=STRING, yield_time_ms={"type": "number"}),
    function("write_stdin", session_id={"type": "number"}, chars=STRING),
    function("request_user_input", questions={"type": "array", "items": STRING}),
    function("view_image", path=STRING),
    function("get_goal"),
    function("create_goal", objective=STRING),
    function("update_goal", status=STRING),
]
AGENTS = {
    "type": "namespace",
    "name": "multi_agent_v1",
    "description": "Agents",
    "tools": [function("spawn_agent", message=STRING), function("wait", ids=STRING)],
}
WEB_SEARCH = {"type": "web_search", "external_web_access": False}
APPLY_PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": GRAMMAR},
}
TOOL_SEARCH = {
    "type": "tool_search",
    "execution": "client",
    "description": "Finds tools.",
    "parameters": {"type": "object", "properties": {"query": STRING}, "required": ["query"]},
}
CODE_MODE = {
    "type": "additional_tools",
    "role": "developer",
    "tools": [
        {
            "type": "namespace",
            "name": "functions",
            "description": "",
            "tools": [
                {**APPLY_PATCH, "name": "exec", "description": "Runs JavaScript."},
                function("wait", cell_id=STRING),
            ],
        },
        {"type": "namespace", "name": "clock", "description": "", "tools": [function("now")]},
        {
            "type": "namespace",
            "name": "collaboration",
            "description": "",
            "tools": [function("spawn_agent", message=STRING)],
        },
    ],
}


def text(role: str, *texts: str, **more: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {
        "type": "message",
        "role": role,
        "content": [{"type": kind, "text": one} for one in texts],
        **more,
    }


FIRST = [
    text("developer", "You are Codex.", "<permissions>never</permissions>"),
    text("user", "<environment_context>/tmp</environment_context>"),
    text("user", "List the files."),
]
HISTORY = [
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "I should look."}],
        "content": None,
        "encrypted_content": "gAAAAABforeign",
    },
    text("assistant", "I look.", id="msg_1", status="completed", phase="commentary"),
    {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "exec_command",
        "arguments": '{"cmd":"ls"}',
    },
    {
        "type": "function_call",
        "id": "fc_2",
        "call_id": "call_2",
        "name": "spawn_agent",
        "namespace": "multi_agent_v1",
        "arguments": '{"message":"go"}',
    },
    {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "a.txt"},
    {
        "type": "function_call_output",
        "call_id": "call_2",
        "output": [
            {"type": "input_text", "text": "A picture:"},
            {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "high"},
        ],
    },
    {
        "type": "custom_tool_call",
        "id": "ctc_1",
        "status": "completed",
        "call_id": "call_3",
        "name": "apply_patch",
        "input": "*** Begin Patch",
    },
    {"type": "custom_tool_call_output", "call_id": "call_3", "output": "Done!"},
    {
        "type": "tool_search_call",
        "id": "tsc_1",
        "call_id": "call_4",
        "status": "completed",
        "execution": "client",
        "arguments": {"query": "calendar"},
    },
    {
        "type": "tool_search_output",
        "call_id": "call_4",
        "status": "completed",
        "execution": "client",
        "tools": [{"type": "namespace", "name": "mcp__cal", "tools": [function("create", title=STRING)]}],
    },
    text("user", "Go on."),
]


def body(*items: Any, **fields: Any) -> dict[str, Any]:
    """What is the same in every request of Codex, with these input items and fields."""
    return {
        "model": "codellama",
        "input": list(items),
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": THREAD,
        "client_metadata": {"x-codex-installation-id": THREAD},
        **fields,
    }


UNKNOWN_MODEL = body(*FIRST, tools=[*FUNCTIONS, AGENTS, WEB_SEARCH])
GPT_5_5 = body(
    *FIRST,
    *HISTORY,
    model="gpt-5.5",
    reasoning={"effort": "medium", "summary": "auto"},
    text={
        "verbosity": "low",
        "format": {"type": "json_schema", "name": "codex_output_schema", "strict": True, "schema": {}},
    },
    service_tier="priority",
    tools=[*FUNCTIONS, APPLY_PATCH, TOOL_SEARCH, AGENTS, WEB_SEARCH],
)
GPT_6 = body(
    CODE_MODE,
    *FIRST,
    model="gpt-6.2-sol",
    parallel_tool_calls=False,
    reasoning={"effort": "high", "context": "all_turns"},
    text={"verbosity": "low"},
)
COMPACTION = body(*FIRST, text("user", "Write a summary of all this."), tools=[])
BODIES = [UNKNOWN_MODEL, GPT_5_5, GPT_6, COMPACTION]
