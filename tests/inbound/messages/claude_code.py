"""Requests as Claude Code 2.1 sends them: a turn in the middle of a task, and its sub-requests."""

from __future__ import annotations

from typing import Any

import orjson

from codellama_proxy.inbound.messages import MESSAGES
from codellama_proxy.inbound.sealed import Seals
from codellama_proxy.openai_format.request import InferenceRequest

EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PDF = "JVBERi0xLjQKJSVFT0YK"
BETAS = "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27"
HEADERS = {
    "authorization": "Bearer sk-secret",
    "x-api-key": "sk-secret",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": BETAS,
    "user-agent": "claude-cli/2.1.332 (external, cli)",
    "x-claude-code-session-id": "0b5f1c9e-0000-4000-8000-000000000000",
}


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


def tool(name: str, **fields: Any) -> dict[str, Any]:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "command": {"type": "string"},
            "timeout": {"type": "number", "maximum": 9007199254740991},
        },
        "required": ["command"],
    }
    return {"name": name, "description": f"Runs {name}.", "input_schema": schema, **fields}


def use(call_id: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def result(call_id: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def image() -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


def pdf(**fields: Any) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "application/pdf", "data": PDF}
    return {"type": "document", "source": source, **fields}


SYSTEM = [
    text("x-anthropic-billing-header: cc_version=2.1.332.a1b; cc_entrypoint=cli;"),
    text("You are Claude Code, Anthropic's official CLI for Claude.", **EPHEMERAL),
    text("You are an interactive agent that helps users with software engineering tasks.", **EPHEMERAL),
]
HISTORY = [
    {
        "role": "user",
        "content": [text("<system-reminder>\nToday\n</system-reminder>"), text("Fix the test.")],
    },
    {"role": "system", "content": [text("Be brief.")], "output_config": {"effort": "high"}},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "I should look.", "signature": "EqQBCgIYAhIM"},
            {"type": "redacted_thinking", "data": "EmwKAhgB"},
            text("I look."),
            use("toolu_1", "Bash", command="ls"),
            use("toolu_2", "Read", command="shot.png"),
        ],
    },
    {
        "role": "user",
        "content": [
            result("toolu_1", "README.md", is_error=False),
            result("toolu_2", [text("A picture:"), image()]),
            text("Go on."),
        ],
    },
    {"role": "system", "content": "Only this turn.", "clear_at": "next_user_message"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            use("toolu_3", "ToolSearch", query="select:Web"),
        ],
    },
    {
        "role": "user",
        "content": [
            result("toolu_3", [{"type": "tool_reference", "tool_name": "WebFetch"}]),
            pdf(title="manual.pdf"),
            text("And now?", **EPHEMERAL),
        ],
    },
]
TOOLS = [
    tool("Bash"),
    tool("Read"),
    tool("mcp__a-server-with-a-long-name__and.a.tool.with.a.name.that.is.even.longer.than.that"),
    tool("WebFetch", defer_loading=True),
    tool("DeferredToolPlaceholder", defer_loading=True),
]
TURN: dict[str, Any] = {
    "model": "claude-opus-5-5",
    "max_tokens": 128_000,
    "system": SYSTEM,
    "messages": HISTORY,
    "tools": TOOLS,
    "thinking": {"type": "adaptive", "display": "omitted"},
    "output_config": {"effort": "medium"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "metadata": {"user_id": '{"device_id":"d1","account_uuid":"a1","session_id":"s1"}'},
    "stream": True,
}
SEARCH: dict[str, Any] = {
    "model": "claude-haiku-5-5",
    "max_tokens": 32_000,
    "system": SYSTEM,
    "messages": [{"role": "user", "content": [text("Perform a web search for the query: x")]}],
    "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
    "tool_choice": {"type": "tool", "name": "web_search"},
    "thinking": {"type": "disabled"},
    "temperature": 1,
    "stream": True,
}


SEALS = Seals(b"key", "a-project")


def parsed(body: Any = None, headers: dict[str, str] | None = None, **fields: Any) -> InferenceRequest:
    """A request from a body, by default a minimal one, with these fields."""
    plain = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
    sent = orjson.dumps({**(plain if body is None else body), **fields})
    return MESSAGES.parse(sent, lambda: headers or {}, "req_1", 1_795_340_000, SEALS)
