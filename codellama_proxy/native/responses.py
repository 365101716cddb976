"""Edits of requests of OpenAI's Responses API (platform.openai.com/docs/api-reference/responses/create). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from codellama_proxy.native.blocks import Body, check_tools, objects, stored
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS
from codellama_proxy.openai_format.request import OWN_SIGNATURE, SYSTEM_ROLES

SYSTEM = tuple(SYSTEM_ROLES)
ENCRYPTED_ITEMS = ("reasoning", "compaction", "context_compaction")
"""Items whose content only their maker can read."""
GENERATED = "image_generation_call"
"""A picture; without its bytes in `result` OpenAI looks it up by its id."""
TOOL_ITEMS = ("additional_tools", "tool_search_output")
"""Input items that offer tools."""
SAME_PARAMETERS = frozenset(
    {
        *("temperature", "top_p", "top_logprobs", "user", "safety_identifier", "metadata", "service_tier"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "parallel_tool_calls"),
    }
)
"""Parameters of chats that this API has under the same name."""
INNER_PARAMETERS = {"reasoning_effort": ("reasoning", "effort"), "verbosity": ("text", "verbosity")}
PRICED_FIELDS = ("service_tier", "context_management")
"""Fields that change the price, or make the provider work more."""


def guarded(body: Body, text: str, client_system: str) -> Body:
    """The body with the guardrail `text` at the beginning of `instructions`, and `store` off.

    `client_system` `drop` removes the client's instructions and its system and developer messages.
    """
    body = {**body, "store": False}
    own = body.get("instructions")
    if client_system == "drop":
        own = None
        body = {name: value for name, value in body.items() if name != "instructions"}
        if isinstance(body.get("input"), list):
            body["input"] = [item for item in body["input"] if not _is_system(item)]
    if not text:
        return body
    return {**body, "instructions": f"{text}\n\n{own}" if isinstance(own, str) and own else text}


def _is_system(item: Any) -> bool:
    if not isinstance(item, Mapping) or item.get("type", "message") != "message":
        return False
    return item.get("role") in SYSTEM


def with_defaults(body: Body, params: Mapping[str, Any]) -> Body:
    """The body over the entry's `params`, which are in the words of chats or of this API."""
    found = dict(body)
    for name, value in params.items():
        if name in INNER_PARAMETERS:
            outer, inner = INNER_PARAMETERS[name]
            given = found.get(outer)
            if given is None or (isinstance(given, Mapping) and inner not in given):
                found[outer] = {inner: value, **(given or {})}
        elif (name in SAME_PARAMETERS or name not in CHAT_PARAMETERS) and name not in found:
            found[name] = value
    return found


def without_own_reasoning(body: Body) -> Body:
    """The body without the items that were sealed by this proxy, and without reasoning that is only named by its id.

    OpenAI looks such an id up in the account, which all projects share.
    """
    return _without_items(body, lambda item: _is_ours(item) or _is_named_reasoning(item))


def _is_ours(item: Body) -> bool:
    sealed = item.get("encrypted_content")
    return isinstance(sealed, str) and sealed.startswith(OWN_SIGNATURE)


def _is_named_reasoning(item: Body) -> bool:
    return item.get("type") == "reasoning" and not item.get("encrypted_content") and not item.get("content")


def without_reasoning(body: Body) -> Body:
    """The body without any items that only their maker can read.

    The ids of the other items go with them: OpenAI requires the reasoning of items that it knows by their ids.
    """
    found = _without_items(body, _is_encrypted)
    if found is body:
        return body
    kept = [_without_id(item) for item in found["input"]]
    return {**found, "input": kept}


def has_reasoning(body: Body) -> bool:
    """Whether its input has such items."""
    return any(_is_encrypted(item) for item in objects(body.get("input")))


def _is_encrypted(item: Body) -> bool:
    return item.get("type") in ENCRYPTED_ITEMS


def _without_id(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return item
    return {name: value for name, value in item.items() if name != "id"}


def _without_items(body: Body, gone: Callable[[Body], bool]) -> Body:
    items = body.get("input")
    if not isinstance(items, list) or not any(gone(item) for item in objects(items)):
        return body
    kept = [item for item in items if not (isinstance(item, Mapping) and gone(item))]
    return {**body, "input": kept}


def check(body: Body) -> None:
    """Raises `ProxyError` unsupported_parameter for tools and pictures that are stored at the provider.

    Fields and other items are checked where the request is parsed.
    """
    for index, item in enumerate(body["input"] if isinstance(body.get("input"), list) else ()):
        if isinstance(item, Mapping) and item.get("type") == GENERATED and not item.get("result"):
            raise stored(f"input[{index}]")
    for at, listed in _tool_lists(body):
        check_tools(listed, at)


def _tool_lists(body: Body) -> Iterator[tuple[str, Any]]:
    yield "tools", body.get("tools")
    for index, item in enumerate(body["input"] if isinstance(body.get("input"), list) else ()):
        if isinstance(item, Mapping) and item.get("type") in TOOL_ITEMS:
            yield f"input[{index}].tools", item.get("tools")


def tools(body: Body) -> Iterator[Body]:
    """The tools that it offers, those in namespaces and in its input included."""
    for _, listed in _tool_lists(body):
        yield from _flat(listed)


def _flat(listed: Any) -> Iterator[Body]:
    for tool in objects(listed):
        yield tool
        if tool.get("type") == "namespace":
            yield from _flat(tool.get("tools"))


def without_tools(body: Body, gone: Callable[[Any], bool]) -> Body:
    """The body without these tools, and without a choice that could name one of them."""

    def kept(listed: Any) -> Any:
        if not isinstance(listed, list):
            return listed
        return [_with_inner(tool, kept) for tool in listed if not gone(tool)]

    found = {**body, "tools": kept(body.get("tools"))} if "tools" in body else dict(body)
    if isinstance(found.get("input"), list):
        found["input"] = [
            {**item, "tools": kept(item.get("tools"))}
            if isinstance(item, Mapping) and item.get("type") in TOOL_ITEMS
            else item
            for item in found["input"]
        ]
    choice = found.get("tool_choice")
    if not found.get("tools") or (
        isinstance(choice, Mapping) and choice.get("type") not in ("function", "custom")
    ):
        found.pop("tool_choice", None)
    return found


def _with_inner(tool: Any, kept: Callable[[Any], Any]) -> Any:
    """A namespace with those of its tools that are kept; any other tool as it is."""
    if isinstance(tool, Mapping) and tool.get("type") == "namespace" and "tools" in tool:
        return {**tool, "tools": kept(tool["tools"])}
    return tool


def has_hour_marks(body: Body) -> bool:
    """This API has no cache marks with a lifetime."""
    del body
    return False


def without_hour_marks(body: Body) -> Body:
    """This API has no cache marks with a lifetime."""
    return body
