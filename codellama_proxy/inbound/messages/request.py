"""Parses requests of Anthropic's Messages API into chat requests (docs.anthropic.com/en/api/messages).

Fields that are unknown, or that only shape Anthropic's own work, are left out and reported. Fields that would reach
objects of the provider's account, or another model than the requested one, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.dialect import Headers
from codellama_proxy.inbound.messages.checks import LeftOut, given, mark_of, unavailable
from codellama_proxy.inbound.messages.content import Conversation, conversation
from codellama_proxy.inbound.messages.tools import Tools, tools_of
from codellama_proxy.inbound.messages.user import user_of
from codellama_proxy.inbound.sealed import Seals
from codellama_proxy.native import betas
from codellama_proxy.openai_format.fields import (
    MAX_FIELDS,
    check_fields,
    invalid_type,
    parse_json,
)
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS
from codellama_proxy.openai_format.request import InferenceRequest, Native, request_of

SOFT = frozenset(
    {"reasoning_effort", "temperature", "top_p", "top_k", "parallel_tool_calls", "max_tokens", "user"}
)
"""Parameters that clients of this API send to every model, so providers without them do without."""
REFUSED: Mapping[str, str] = {
    "fallbacks": "A fallback model",
    "fallback_credit_token": "A fallback credit",
    "billing_policy": "A billing policy",
    "container": "A container",
    "mcp_servers": "An MCP server",
    "thread": "A stored thread",
    "user_profile_id": "A user profile",
    "workspace_id": "A workspace",
}
"""Fields that reach objects of the provider's account or another model -> what they ask for."""
TRANSLATED = frozenset(
    {
        *("model", "max_tokens", "system", "messages", "tools", "tool_choice", "stop_sequences"),
        *("temperature", "top_p", "top_k", "thinking", "output_config", "output_format", "metadata"),
        *("cache_control", "stream", *REFUSED),
    }
)
SILENT = frozenset({"context_management", "compaction", "diagnostics", *betas.FIELDS})
"""Left out without a report: they shape only Anthropic's own work."""
UNREPORTED = TRANSLATED | SILENT
SAME_NAMES = frozenset({"model", "max_tokens", "temperature", "top_p", "stream"})
"""Fields that chats have too."""
PLAIN_TIERS = ("auto", "standard_only")
"""Values of `service_tier` without an effect elsewhere."""
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
LOW_BUDGET_TOKENS, MEDIUM_BUDGET_TOKENS = 2048, 8192
"""Thinking budgets below these are a low and a medium effort."""
MAX_STOPS = 4
SESSION_HEADERS = frozenset(
    {
        *("x-claude-code-session-id", "x-claude-code-agent-id", "x-session-id", "x-session-affinity"),
        *("session-id", "thread-id"),
    }
)


def parse(
    body: bytes, headers: Headers, request_id: str, created: int, seals: Seals | None = None, /
) -> InferenceRequest:
    """The chat request that `body` becomes. Raises `ProxyError` with status 400 and `param`."""
    found = parse_json(body)
    if len(found) > MAX_FIELDS:
        raise ProxyError("invalid_value", f"The request has more than {MAX_FIELDS} fields.")
    left_out = LeftOut()
    _refuse(found)
    _report(found, left_out)
    talk = conversation(found.get("system"), found.get("messages"), left_out, seals)
    tools = tools_of(found, talk.removed_tools, left_out)
    fields = check_fields(_fields(found, talk, tools, left_out), CHAT_PARAMETERS)
    request = request_of("chat/completions", talk.messages, fields, len(body), request_id, created)
    return request.from_dialect(
        "messages",
        Native(*betas.in_header(found, _wanted(headers()))),
        include_usage=True,
        soft=SOFT,
        ignored=left_out.names,
        needed_tool=tools.needed,
    )


def _wanted(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if name.startswith("anthropic-") or name in SESSION_HEADERS
    }


def _refuse(found: Mapping[str, Any]) -> None:
    if REFUSED.keys().isdisjoint(found):
        return
    for name, what in REFUSED.items():
        if found.get(name):
            raise unavailable(name, what)


def _report(found: Mapping[str, Any], left_out: LeftOut) -> None:
    for name, value in found.items():
        if name in UNREPORTED or value is None or (name == "service_tier" and value in PLAIN_TIERS):
            continue
        left_out.add(name)


def _fields(found: Mapping[str, Any], talk: Conversation, tools: Tools, left_out: LeftOut) -> dict[str, Any]:
    """The parameters of the chat request."""
    fields: dict[str, Any] = {name: value for name, value in found.items() if name in SAME_NAMES}
    fields |= tools.params
    if "top_k" in found:
        fields["top_k"] = given(found, "top_k", int, "integer")
    if "stop_sequences" in found:
        fields["stop"] = _stop(found, left_out)
    if "metadata" in found:
        fields["user"] = _user(found, left_out)
    config = given(found, "output_config", dict, "object") or {}
    for name in config.keys() - {"effort", "format"} if config else ():
        left_out.add(f"output_config.{name}")
    wanted = config.get("format") or found.get("output_format")
    if wanted is not None:
        fields["response_format"] = _response_format(wanted, left_out)
    effort = talk.effort if talk.effort is not None else config.get("effort")
    if effort is not None or "thinking" in found:
        fields["reasoning_effort"] = _effort(found, effort, left_out)
    if "cache_control" in found:
        fields |= mark_of(found)
    return fields


def _stop(found: Mapping[str, Any], left_out: LeftOut) -> list[str] | None:
    stops = given(found, "stop_sequences", list, "array of strings") or []
    if not all(isinstance(stop, str) for stop in stops):
        raise invalid_type("stop_sequences", "array of strings")
    if len(stops) > MAX_STOPS:
        left_out.add("stop_sequences")
    return stops[:MAX_STOPS] or None


def _user(found: Mapping[str, Any], left_out: LeftOut) -> str | None:
    metadata = given(found, "metadata", dict, "object") or {}
    for name in metadata.keys() - {"user_id"}:
        left_out.add(f"metadata.{name}")
    user_id = given(metadata, "user_id", str, "string", "metadata.")
    return None if user_id is None else user_of(user_id)


def _response_format(wanted: Any, left_out: LeftOut) -> dict[str, Any] | None:
    match wanted:
        case None | {"type": "text"}:
            return None
        case {"type": "json_schema", "schema": dict() as schema}:
            return {
                "type": "json_schema",
                "json_schema": {"name": "output", "schema": schema, "strict": True},
            }
    left_out.add("output_config.format")
    return None


def _effort(found: Mapping[str, Any], effort: Any, left_out: LeftOut) -> str | None:
    """The reasoning effort. A budget above `max_tokens` is no error: only its size class is used."""
    thinking = given(found, "thinking", dict, "object") or {}
    if effort is not None and not (isinstance(effort, str) and effort in EFFORTS):
        left_out.add("output_config.effort")
        effort = None
    match thinking.get("type"):
        case None | "adaptive":
            return effort if "type" in thinking else None
        case "disabled":
            return None
        case "enabled":
            budget = thinking.get("budget_tokens")
            return effort or (_of_budget(budget) if isinstance(budget, int) else None)
    left_out.add("thinking")
    return None


def _of_budget(tokens: int) -> str:
    if tokens < LOW_BUDGET_TOKENS:
        return "low"
    return "medium" if tokens < MEDIUM_BUDGET_TOKENS else "high"
