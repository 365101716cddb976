"""What Anthropic refuses, written down apart from the proxy's code: the fake server's judgement of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

VERSIONS = ("2023-06-01", "2026-10-21")
FIELDS = {
    *("model", "max_tokens", "messages", "system", "stop_sequences", "stream", "tools", "tool_choice"),
    *("thinking", "output_config", "metadata", "service_tier", "cache_control", "container", "speed"),
}
SAMPLING = {"temperature": 1, "top_p": 1, "top_k": None}
BLOCKS: Mapping[str, tuple[set[str], set[str]]] = {
    # type: the fields it must have, those it may have
    "text": ({"text"}, set()),
    "image": ({"source"}, set()),
    "document": ({"source"}, {"title", "context", "citations"}),
    "tool_use": ({"id", "name", "input"}, set()),
    "tool_result": ({"tool_use_id"}, {"content", "is_error"}),
    "thinking": ({"thinking", "signature"}, set()),
    "redacted_thinking": ({"data"}, set()),
}
OF_ROLE = {
    "user": {"text", "image", "document", "tool_result"},
    "assistant": {"text", "tool_use", "thinking", "redacted_thinking"},
    "system": {"text"},
}
SOURCES = {
    "base64": {"type", "media_type", "data"},
    "url": {"type", "url"},
    "text": {"type", "media_type", "data"},
}
IN_WORDS = {
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
}

ALWAYS_THINKING = re.compile(r"(opus|sonnet)-5-5|fable|mythos")
CLASS_5 = re.compile(r"-5(-\d)?$|opus-4-8")
FREE_SAMPLING = re.compile(r"-4-[56]")


class Refused(Exception):  # noqa: N818 - it is what the server does
    """Why, in the words of the 400."""


def check(body: Mapping[str, Any], version: str | None) -> None:
    """Raises `Refused`."""
    if version not in VERSIONS:
        raise Refused("anthropic-version: header is required")
    _fields(body, version)
    _max_tokens(body)
    model = body["model"]
    _system(body)
    _messages(body["messages"], model)
    _tools(body)
    _marks(body)
    _thinking(body, model)
    _output(body.get("output_config", {}), model)


def _only(found: Mapping[str, Any], known: set[str], at: str) -> None:
    for name in found.keys() - known:
        raise Refused(f"{at}{name}: Extra inputs are not permitted")


def _fields(body: Mapping[str, Any], version: str) -> None:
    _only(body, FIELDS | (SAMPLING.keys() if version == "2023-06-01" else set()), "")
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            raise Refused(f"{name}: Field required")
    _only(body.get("metadata", {}), {"user_id"}, "metadata.")
    for name, default in SAMPLING.items():
        if name in body and not FREE_SAMPLING.search(body["model"]) and body[name] != default:
            raise Refused(f"{name}: this model accepts only the default value")
    if not 0 <= body.get("temperature", 0) <= 1:
        raise Refused("temperature: range: 0..1")
    stops = body.get("stop_sequences", [])
    if not isinstance(stops, list) or not all(isinstance(one, str) and one.strip() for one in stops):
        raise Refused("stop_sequences: each stop sequence must contain non-whitespace")


def _max_tokens(body: Mapping[str, Any]) -> None:
    most = 64_000 if "-4-5" in body["model"] else 128_000
    if not isinstance(body["max_tokens"], int) or not 1 <= body["max_tokens"] <= most:
        raise Refused(f"max_tokens: {body['max_tokens']} > {most}, which is the maximum allowed")


# --- messages ------------------------------------------------------------------------------------------------


def _system(body: Mapping[str, Any]) -> None:
    system = body.get("system", "-")
    for at, block in enumerate(system if isinstance(system, list) else [{"type": "text", "text": system}]):
        _block(block, "system", f"system.{at}")


def _messages(messages: Sequence[Mapping[str, Any]], model: str) -> None:
    if not messages or messages[0]["role"] != "user":
        raise Refused("messages: first message must use the user role")
    before: Mapping[str, Any] = {"role": "", "content": ""}
    for at, message in enumerate(messages):
        _only(message, {"role", "content"}, f"messages.{at}.")
        if message["role"] not in OF_ROLE or (message["role"] == "system" and not CLASS_5.search(model)):
            raise Refused(f"messages.{at}.role: Input should be 'user' or 'assistant'")
        if message["role"] == before["role"]:
            raise Refused(f"messages.{at}: roles must alternate")
        for index, block in enumerate(_blocks(message, f"messages.{at}")):
            _block(block, message["role"], f"messages.{at}.content.{index}")
        _results(before, message, f"messages.{at}")
        before = message
    _last(before, model)


def _blocks(message: Mapping[str, Any], at: str = "") -> list[Mapping[str, Any]]:
    content = message["content"]
    if not content:
        raise Refused(f"{at}: content must be non-empty")
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _block(block: Mapping[str, Any], role: str, at: str) -> None:
    kind = block["type"]
    if kind not in OF_ROLE[role]:
        raise Refused(f"{at}: `{kind}` blocks are not permitted in {role} messages")
    required, optional = BLOCKS[kind]
    _only(block, {"type", "cache_control"} | required | optional, f"{at}.")
    for name in required - block.keys():
        raise Refused(f"{at}.{name}: Field required")
    if kind == "text" and not block["text"].strip():
        raise Refused("messages: text content blocks must be non-empty")
    if kind in ("image", "document"):
        _source(block["source"], at)
    if kind == "tool_use" and not isinstance(block["input"], dict):
        raise Refused(f"{at}.input: Input should be a valid dictionary")
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", block.get("id", block.get("tool_use_id", "x"))):
        raise Refused(f"{at}.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    if kind == "tool_result" and isinstance(block.get("content"), list):
        for index, part in enumerate(block["content"]):
            _block(part, "user", f"{at}.content.{index}")
            if "cache_control" in part:
                raise Refused(f"{at}.content.{index}.cache_control: Extra inputs are not permitted")


def _source(source: Mapping[str, Any], at: str) -> None:
    if source.keys() != SOURCES[source["type"]]:
        raise Refused(f"{at}.source: fields do not match its type")
    if source["type"] == "url" and not source["url"].startswith("https://"):
        raise Refused(f"{at}.source.url: only https URLs are supported")


def _results(before: Mapping[str, Any], message: Mapping[str, Any], at: str) -> None:
    """Every call is answered in the next message, before anything else in it, and nothing else is."""
    calls = [one["id"] for one in _blocks(before) if one["type"] == "tool_use"] if before["content"] else []
    kinds = [one["type"] for one in _blocks(message)]
    answered = [one["tool_use_id"] for one in _blocks(message) if one["type"] == "tool_result"]
    if sorted(calls) != sorted(answered):
        raise Refused(
            f"{at}: `tool_use` ids were found without `tool_result` blocks immediately after: {calls}"
        )
    if "tool_result" in kinds[len(answered) :]:
        raise Refused(f"{at}: tool_result blocks must come first")


def _last(message: Mapping[str, Any], model: str) -> None:
    if message["role"] != "assistant":
        return
    if "-4-5" not in model:
        raise Refused("This model does not support assistant message prefill.")
    text = _blocks(message)[-1].get("text", "")
    if text != text.rstrip():
        raise Refused("messages: final assistant content cannot end with trailing whitespace")


# --- tools ---------------------------------------------------------------------------------------------------


def _tools(body: Mapping[str, Any]) -> None:
    tools = body.get("tools", [])
    for at, tool in enumerate(tools):
        _only(tool, {"name", "description", "input_schema", "strict", "cache_control"}, f"tools.{at}.")
        if (
            not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool["name"])
            or tool["input_schema"]["type"] != "object"
        ):
            raise Refused(f"tools.{at}: not a tool")
    used = [b for m in body["messages"] for b in _blocks(m) if b["type"] in ("tool_use", "tool_result")]
    if used and not tools:
        raise Refused("tools: required when the conversation has tool blocks")
    choice = body.get("tool_choice")
    if choice is not None:
        _tool_choice(choice, tools, body)


def _tool_choice(
    choice: Mapping[str, Any], tools: Sequence[Mapping[str, Any]], body: Mapping[str, Any]
) -> None:
    if not tools:
        raise Refused("tool_choice: may only be specified while providing tools")
    more = {"any": set(), "auto": set(), "tool": {"name"}, "none": set()}[choice["type"]]
    parallel = set() if choice["type"] == "none" else {"disable_parallel_tool_use"}
    _only(choice, {"type"} | more | parallel, "tool_choice.")
    if choice["type"] == "tool" and choice["name"] not in [tool["name"] for tool in tools]:
        raise Refused("tool_choice: no such tool")
    thinks = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
    if choice["type"] in ("any", "tool") and (thinks or ALWAYS_THINKING.search(body["model"])):
        raise Refused("Thinking may not be enabled when tool_choice forces tool use.")


def marked_blocks(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tools and blocks with a cache mark, in the order of the prompt."""
    system = body.get("system", [])
    parts = [body.get("tools", []), system if isinstance(system, list) else []]
    parts += [_blocks(message) for message in body["messages"]]
    return [block for part in parts for block in part if "cache_control" in block]


def _marks(body: Mapping[str, Any]) -> None:
    found = len(marked_blocks(body)) + ("cache_control" in body)
    if found > 4:
        raise Refused(f"A maximum of 4 blocks with cache_control may be provided. Found {found}.")


# --- thinking and output -------------------------------------------------------------------------------------


def _thinking(body: Mapping[str, Any], model: str) -> None:
    thinking = body.get("thinking", {"type": "disabled"} if "-4-5" in model else {"type": "unsaid"})
    kind = thinking["type"]
    if kind == "enabled" and not ("-4-5" in model and 1024 <= thinking["budget_tokens"] < body["max_tokens"]):
        raise Refused("thinking: `budget_tokens` must be at least 1024 and less than `max_tokens`")
    if kind == "adaptive" and "-4-5" in model:
        raise Refused("thinking: adaptive is not supported on this model")
    if kind == "disabled" and ALWAYS_THINKING.search(model):
        raise Refused("thinking: cannot be disabled on this model")
    if kind in ("enabled", "adaptive") and (body.get("temperature", 1) != 1 or "top_k" in body):
        raise Refused("`temperature` may only be set to 1 when thinking is enabled")
    if kind == "enabled":
        _kept_thoughts(body["messages"])


def _kept_thoughts(messages: Sequence[Mapping[str, Any]]) -> None:
    if any(block["type"] == "tool_result" for block in _blocks(messages[-1])):
        called = _blocks(messages[-2])
        if called[0]["type"] not in ("thinking", "redacted_thinking"):
            raise Refused("Expected `thinking` or `redacted_thinking`, but found `tool_use`.")


def _output(config: Mapping[str, Any], model: str) -> None:
    _only(config, {"effort", "format"}, "output_config.")
    words = {"low", "medium", "high"}
    if not re.search(r"opus-4-5", model):
        words |= {"max"}
    if not re.search(r"-4-[56]", model):
        words |= {"xhigh"}
    if "effort" in config and (config["effort"] not in words or re.search(r"(haiku|sonnet)-4-5", model)):
        raise Refused("output_config.effort: not supported by this model")
    if "format" in config:
        _only(config["format"], {"type", "schema"}, "output_config.format.")
        _schema(config["format"]["schema"])


def _schema(schema: Mapping[str, Any]) -> None:
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise Refused("output_config.format.schema: For 'object' type, 'additionalProperties' must be false")
    for name in IN_WORDS & schema.keys():
        raise Refused(f"output_config.format.schema: For type, property '{name}' is not supported")
    inner = [
        *schema.get("properties", {}).values(),
        *schema.get("$defs", {}).values(),
        *schema.get("anyOf", []),
    ]
    for one in [*inner, *([schema["items"]] if "items" in schema else [])]:
        _schema(one)
