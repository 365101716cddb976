"""Edits of requests of Anthropic's Messages API (docs.anthropic.com/en/api/messages). Pure.

Only what an edit is about changes: the order of fields and every text stay as they came, because signatures and cached
prefixes depend on them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from codellama_proxy.native.blocks import Body, check_tools, has_hour, listed, objects, stored, without_hours
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS
from codellama_proxy.openai_format.request import OWN_SIGNATURE

BILLING_HEADER = re.compile(
    r"x-anthropic-billing-header:( ?cc\w{0,32}=[\w.:/+-]{0,64}(;|\Z)){0,12}\s{0,4}", re.ASCII
)
"""The block with which Claude Code tells Anthropic its version, and nothing else; it stays first."""
THINKING = ("thinking", "redacted_thinking")
SAMPLING = frozenset({"temperature", "top_p", "top_k"})
SAME_PARAMETERS = SAMPLING | {"service_tier"}
"""Parameters of chats that this API has under the same name."""
PRICED_FIELDS = ("service_tier", "speed", "inference_geo", "context_management", "compaction")
"""Fields that change the price, or make the provider work more."""
MARKED_FIELDS = ("system", "messages", "tools")
"""Fields with places for cache marks."""


def guarded(body: Body, text: str, client_system: str) -> Body:
    """The body with the guardrail `text` as the first system block; `client_system` `drop` removes the client's.

    The block has no cache mark: clients use the few marks that are allowed.
    """
    own = _system_blocks(body.get("system"))
    if client_system == "drop":
        kept = [one for one in listed(body.get("messages")) if _role(one) != "system"]
        body = {**body, "messages": kept}
        own = own[: _billing_blocks(own)]
    elif not text:
        return body
    at = _billing_blocks(own)
    first = [{"type": "text", "text": text}] if text else []
    system = [*own[:at], *first, *own[at:]]
    if not system:
        return {name: value for name, value in body.items() if name != "system"}
    return {**body, "system": system}


def _system_blocks(system: Any) -> list[Any]:
    if isinstance(system, list):
        return system
    return [{"type": "text", "text": system}] if isinstance(system, str) and system else []


def _billing_blocks(own: list[Any]) -> int:
    """1 if the first block is Claude Code's, else 0."""
    text = own[0].get("text") if own and isinstance(own[0], Mapping) else None
    return int(isinstance(text, str) and is_billing_header(text))


def is_billing_header(text: str) -> bool:
    """Whether a system text only names a version of Claude Code; free text behind the name is the client's own."""
    return BILLING_HEADER.fullmatch(text) is not None


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None


def with_defaults(body: Body, params: Mapping[str, Any]) -> Body:
    """The body over the entry's `params`, which are in the words of chats or of this API.

    Sampling parameters are left out where the client asks for thinking, which excludes them.
    """
    defaults: dict[str, Any] = {}
    thinks = _thinks(body)
    for name, value in params.items():
        if name == "stop":
            defaults["stop_sequences"] = [value] if isinstance(value, str) else list(value)
        elif name == "reasoning_effort":
            config = body.get("output_config")
            if config is None or (isinstance(config, Mapping) and "effort" not in config):
                body = {**body, "output_config": {"effort": value, **(config or {})}}
        elif _is_known(name) and not (thinks and name in SAMPLING):
            defaults[name] = value
    return {**body, **{name: value for name, value in defaults.items() if name not in body}}


def _is_known(name: str) -> bool:
    """Whether a parameter of an entry is in the words of this API; betas are a header."""
    return name in SAME_PARAMETERS or (name not in CHAT_PARAMETERS and name != "betas")


def _thinks(body: Body) -> bool:
    thinking = body.get("thinking")
    return isinstance(thinking, Mapping) and thinking.get("type") not in (None, "disabled")


def without_own_reasoning(body: Body) -> Body:
    """The body without thinking blocks that are not signed by the provider."""
    return _without_blocks(body, _is_ours)


def without_reasoning(body: Body) -> Body:
    """The body without any thinking blocks."""
    return _without_blocks(body, lambda block: block.get("type") in THINKING)


def has_reasoning(body: Body) -> bool:
    """Whether its history has thinking blocks."""
    return any(
        block.get("type") in THINKING
        for message in objects(body.get("messages"))
        if message.get("role") == "assistant"
        for block in objects(message.get("content"))
    )


def _is_ours(block: Body) -> bool:
    if block.get("type") == "redacted_thinking":
        return str(block.get("data")).startswith(OWN_SIGNATURE)
    if block.get("type") != "thinking":
        return False
    signature = block.get("signature")
    return not isinstance(signature, str) or signature == "" or signature.startswith(OWN_SIGNATURE)


def _without_blocks(body: Body, gone: Callable[[Body], bool]) -> Body:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return body
    kept: list[Any] = []
    changed = False
    for message in messages:
        content = message.get("content") if _role(message) == "assistant" else None
        if not isinstance(content, list) or not any(gone(block) for block in objects(content)):
            kept.append(message)
            continue
        changed = True
        rest = [block for block in content if not (isinstance(block, Mapping) and gone(block))]
        if rest:  # an empty turn would be refused
            kept.append({**message, "content": rest})
    return _without_budget({**body, "messages": kept}) if changed else body


def _without_budget(body: Body) -> Body:
    """Without thinking by budget if the last assistant turn called tools and has no thinking block any more.

    Anthropic then requires that block (docs.anthropic.com/en/docs/build-with-claude/extended-thinking).
    """
    thinking = body.get("thinking")
    turns = [message for message in objects(body["messages"]) if message.get("role") == "assistant"]
    kinds = [block.get("type") for block in objects(turns[-1].get("content"))] if turns else []
    budgeted = isinstance(thinking, Mapping) and thinking.get("type") == "enabled"
    if not budgeted or "tool_use" not in kinds or any(kind in THINKING for kind in kinds):
        return body
    rest = {name: value for name, value in body.items() if name != "thinking"}
    management = rest.get("context_management")
    if isinstance(management, Mapping) and isinstance(management.get("edits"), list):
        edits = [one for one in management["edits"] if not _clears_thinking(one)]
        rest["context_management"] = {**management, "edits": edits}
        if not edits:
            del rest["context_management"]
    return rest


def _clears_thinking(edit: Any) -> bool:
    kind = edit.get("type") if isinstance(edit, Mapping) else None
    return isinstance(kind, str) and kind.startswith("clear_thinking")


# --- what is shared with other projects -------------------------------------------------------------------------


def check(body: Body) -> None:
    """Raises `ProxyError` unsupported_parameter for objects stored at the provider, and servers of the client's choice.

    Top-level fields are checked where the request is parsed.
    """
    for index, message in enumerate(listed(body.get("messages"))):
        if isinstance(message, Mapping):
            _check_blocks(message.get("content"), f"messages[{index}].content")
    for index, tool in enumerate(objects(body.get("tools"))):
        if str(tool.get("type")).startswith("mcp"):
            raise stored(f"tools[{index}].type")
    check_tools(body.get("tools"), "tools")


def _check_blocks(content: Any, at: str) -> None:
    for index, block in enumerate(objects(content)):
        source = block.get("source")
        if block.get("type") == "container_upload":
            raise stored(f"{at}[{index}]")
        if isinstance(source, Mapping):
            if source.get("type") == "file" or "file_id" in source:
                raise stored(f"{at}[{index}].source")
            _check_blocks(source.get("content"), f"{at}[{index}].source.content")
        if isinstance(block.get("content"), list):
            _check_blocks(block["content"], f"{at}[{index}].content")


# --- what costs extra -------------------------------------------------------------------------------------------


def tools(body: Body) -> Iterator[Body]:
    """The tools that it offers."""
    yield from objects(body.get("tools"))


def without_tools(body: Body, gone: Callable[[Any], bool]) -> Body:
    """The body without these tools, and without a choice of one of them."""
    kept = [tool for tool in listed(body.get("tools")) if not gone(tool)]
    names = {tool.get("name") for tool in objects(kept)}
    choice = body.get("tool_choice")
    lost = isinstance(choice, Mapping) and choice.get("type") == "tool" and choice.get("name") not in names
    found = {**body, "tools": kept}
    off = {"tools", "tool_choice"} if not kept else {"tool_choice"} if lost else set()
    return {name: value for name, value in found.items() if name not in off}


def has_hour_marks(body: Body) -> bool:
    """Whether a cache mark has a lifetime of one hour."""
    return has_hour({"cache_control": body.get("cache_control")}) or any(
        has_hour(body[name]) for name in MARKED_FIELDS if isinstance(body.get(name), list)
    )


def without_hour_marks(body: Body) -> Body:
    """The body with the default lifetime of cache marks."""
    found = {**body, **without_hours({name: body[name] for name in ("cache_control",) if name in body})}
    for name in MARKED_FIELDS:
        if isinstance(found.get(name), list):
            found[name] = without_hours(found[name])
    return found
