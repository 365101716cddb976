"""Request features that cost more than tokens, in one table. Pure.

With a budget, each of them needs a price in the entry's `price`; otherwise it is refused, or dropped with
`drop_params`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Price
from codellama_proxy.core.types import Usage
from codellama_proxy.native.blocks import NESTED_FIELDS, has_hour, without_hours
from codellama_proxy.native.forms import edited, form_of
from codellama_proxy.openai_format.request import InferenceRequest, Message
from codellama_proxy.openai_format.texts import Texts
from codellama_proxy.pricing.cost import PLAIN_TIERS

MAX_UNBOUNDED_CALLS = 10
"""Calls of one tool that are held for a request without a limit of its own."""
CALL_TOKENS = 10_000
"""Prompt tokens for the results of one call."""
VERSION = re.compile(r"(_preview)?(_\d{8}|_\d{4}_\d\d_\d\d)?$")
CLIENT_TOOLS = re.compile(
    r"(function|custom|allowed_tools|namespace|tool_search(_tool_(regex|bm25)(_\d{8})?)?|local_shell|shell|apply_patch"
    r"|(bash|text_editor|computer|computer_use|memory)(_preview)?(_\d{8})?)$"
)
"""Tools that run at the client, or are free."""
SEARCH = "web_search"
TOOL_NAMES: Mapping[str, str] = {
    "web": SEARCH,
    "google_search": SEARCH,
    "googlesearch": SEARCH,
    "browser_search": SEARCH,
    "openrouter:web_search": SEARCH,
}
"""Providers' names for the same tool."""


class Extra(NamedTuple):
    """One feature that costs extra."""

    param: str
    """The parameter that requests it."""
    tier: str = ""
    """The service tier whose price it needs."""
    tool: str = ""
    """The server tool whose price it needs."""
    calls: int = 0
    """Maximum number of calls of the tool."""
    hour: bool = False
    """Whether it needs a price for one-hour cache writes."""

    def paid_by(self, written: Price | None, known: Price | None) -> bool:
        """Whether it has a price. `written`: the entry's own price; `known`: the price that is charged."""
        if self.hour:
            return known is not None and known.cache_write_1h is not None
        if written is None:
            return False
        return self.tier in dict(written.service_tiers) or self.tool in dict(written.server_tools)


Found = Iterator[Extra]


def extras_of(chat: InferenceRequest) -> list[Extra]:
    """All features of a request that cost extra."""
    found = _requested(priced_fields(chat))
    if _requests_an_hour(chat):
        found.append(Extra("cache_control", hour=True))
    return found


def priced_fields(chat: InferenceRequest) -> Mapping[str, Any]:
    """The parameters that can cost extra: of a relayed request, those of its own dialect."""
    if chat.native is None:
        return chat.params
    form, body = form_of(chat), chat.native.body
    fields = {name: body[name] for name in form.PRICED_FIELDS if name in body}
    tools = list(form.tools(body))
    return {**fields, "tools": tools} if tools else fields


def is_plain(chat: InferenceRequest) -> bool:
    """Whether a chat has text only and no option that changes what an answer of a given length costs at most.

    Options that only its native form has are not looked for.
    """
    if chat.endpoint != "chat/completions" or not OPTIONS.isdisjoint(chat.params):
        return False
    return not beyond_text(chat.messages)


def beyond_text(messages: Sequence[Message]) -> list[Message]:
    """The messages that are more than a text: those that can have media and cache marks."""
    if type(messages) is Texts:
        return []
    return [
        one for one in messages if type(one.get("content")) is not str or not MARKED_FIELDS.isdisjoint(one)
    ]


def _requested(params: Mapping[str, Any]) -> list[Extra]:
    if TABLE.keys().isdisjoint(params):
        return []
    return [
        extra
        for name, read in TABLE.items()
        if (value := params.get(name)) is not None
        for extra in read(name, value)
    ]


def _tier(name: str, value: Any) -> Found:
    if isinstance(value, str) and value not in PLAIN_TIERS:
        yield Extra(name, tier=value)


def _search(name: str, value: Any) -> Found:
    if value is not False:
        yield Extra(name, tool=SEARCH, calls=MAX_UNBOUNDED_CALLS)


def _search_parameters(name: str, value: Any) -> Found:
    if not (isinstance(value, Mapping) and value.get("mode") == "off"):
        yield Extra(name, tool=SEARCH, calls=_most(value, "max_search_results", 30))


def _tools(name: str, value: Any) -> Found:
    for tool in value if isinstance(value, list | tuple) else ():
        if (called := server_tool(tool)) is not None:
            yield Extra(name, tool=called, calls=_most(tool, "max_uses", MAX_UNBOUNDED_CALLS))


def _plugins(name: str, value: Any) -> Found:
    for plugin in value if isinstance(value, list | tuple) else ():
        own = plugin.get("id") if isinstance(plugin, Mapping) else plugin
        yield Extra(name, tool=_tool_name(own if isinstance(own, str) else ""), calls=MAX_UNBOUNDED_CALLS)


def _modalities(name: str, value: Any) -> Found:
    for kind in value if isinstance(value, list | tuple) else ():
        if kind != "text":
            yield Extra(name, tool=kind if isinstance(kind, str) else "?", calls=1)


def _audio(name: str, value: Any) -> Found:
    yield Extra(name, tool="audio", calls=1)


def _unpriceable(name: str, value: Any) -> Found:
    """A parameter that selects the server, and so the price, or the amount of output; it never has a price."""
    if value:
        yield Extra(name, tool=f"?{name}")


def _compaction(name: str, value: Any) -> Found:
    """A summary of the context, which is a call of its own; it never has a price.

    Anthropic has the edits in an object, OpenAI in a list.
    """
    edits = value.get("edits") if isinstance(value, Mapping) else value
    for edit in edits if isinstance(edits, list | tuple) else ():
        kind = edit.get("type") if isinstance(edit, Mapping) else None
        if isinstance(kind, str) and kind.startswith("compact"):
            yield Extra(name, tool=f"?{name}")


OTHER_LENGTHS = (
    *("max_new_tokens", "max_output_tokens", "max_length"),
    *("n_predict", "num_predict", "num_return_sequences"),
)
"""Other parameters that determine the amount of output; a budget cannot hold money for them."""

COUNTED_FIELDS = frozenset({"tools", *OTHER_LENGTHS})
"""Parameters whose use the upstream counts, as calls or as tokens."""

TABLE: Mapping[str, Callable[[str, Any], Found]] = {
    "service_tier": _tier,
    "speed": _tier,
    "inference_geo": lambda name, value: _tier(name, "" if value == "global" else value),
    "context_management": _compaction,
    "compaction": _unpriceable,
    "web_search_options": _search,
    "enable_search": _search,
    "search_parameters": _search_parameters,
    "tools": _tools,
    "plugins": _plugins,
    "modalities": _modalities,
    "audio": _audio,
    "provider": _unpriceable,
    "models": _unpriceable,
    "route": _unpriceable,
    **dict.fromkeys(OTHER_LENGTHS, _unpriceable),
}

PRICED_PARAMETERS = frozenset(TABLE)
"""Without any of them, a request costs its tokens at the default tier, and the tool calls that are reported."""

OPTIONS = PRICED_PARAMETERS | {"n", "best_of", "prediction", "disable_search", "cache_control"}
"""What else can change what a chat costs at most, besides `max_tokens` and its messages."""
MARKED_FIELDS = frozenset({"cache_control", *NESTED_FIELDS} - {"content"})
"""Fields of a message, besides its content, in which cache marks can be."""


def server_tool(tool: Any) -> str | None:
    """The name in prices of a tool that runs at the provider; `None` for any other tool."""
    kind = tool.get("type", "function") if isinstance(tool, Mapping) else "function"
    if not isinstance(kind, str) or (CLIENT_TOOLS.match(kind) and not _is_hosted(tool)):
        return None
    return _tool_name(kind)


def _is_hosted(tool: Any) -> bool:
    """Whether a shell runs in a container of the provider."""
    environment = tool.get("environment") if isinstance(tool, Mapping) else None
    return isinstance(environment, Mapping) and environment.get("type", "local") != "local"


def _tool_name(kind: str) -> str:
    plain = VERSION.sub("", kind.lower())
    return TOOL_NAMES.get(plain, plain)


def _most(value: Any, name: str, usual: int) -> int:
    most = value.get(name) if isinstance(value, Mapping) else None
    return most if type(most) is int and 0 < most <= 1000 else usual


def requested_tier(params: Mapping[str, Any]) -> str:
    """The service tier of a request, or `auto`, which leaves it to the upstream; empty for none."""
    for name in ("speed", "inference_geo", "service_tier"):
        tier = params.get(name)
        if isinstance(tier, str) and tier not in (PLAIN_TIERS - {"auto"} | {"global"}):
            return tier
    return "default" if params.get("service_tier") in PLAIN_TIERS - {"", "auto"} else ""


def with_requested_calls(usage: Usage, chat: InferenceRequest) -> Usage:
    """The usage with one call of each tool that a parameter requests and the upstream does not count."""
    reported = dict(usage.tool_calls)
    requested = {
        extra.tool: 1
        for extra in _requested(priced_fields(chat))
        if extra.tool and extra.param not in COUNTED_FIELDS
    }
    return usage._replace(tool_calls=tuple({**requested, **reported}.items())) if requested else usage


# --- an hour in the cache ------------------------------------------------------------------------------------


def _requests_an_hour(chat: InferenceRequest) -> bool:
    """Whether any cache mark in the request has a lifetime of one hour."""
    if chat.native is not None:
        return form_of(chat).has_hour_marks(chat.native.body)
    if "cache_control" in chat.params and has_hour({"cache_control": chat.params["cache_control"]}):
        return True
    if "tools" in chat.params and has_hour(chat.params["tools"]):
        return True
    marked = beyond_text(chat.messages)
    return bool(marked) and has_hour(marked)


# --- refused or dropped --------------------------------------------------------------------------------------


def paid(
    chat: InferenceRequest, deployment: Deployment, known: Price | None
) -> tuple[InferenceRequest, tuple[str, ...]]:
    """The request without features that have no price at this deployment, and the dropped parameters.

    Raises `ProxyError` unsupported_parameter if the entry does not drop parameters.
    """
    unpaid = [extra for extra in extras_of(chat) if not extra.paid_by(deployment.price, known)]
    if not unpaid:
        return chat, ()
    refused = [extra for extra in unpaid if not _may_leave_out(extra, chat)]
    if refused and not deployment.drop_params:
        raise ProxyError(
            "unsupported_parameter",
            f"'{refused[0].param}' asks for something that costs extra and has no price for the model "
            f"'{deployment.name}', so it cannot be used under a budget. Remove it, or give it a price in the "
            "configuration.",
            param=refused[0].param,
        )
    return _without(chat, unpaid), tuple(sorted({extra.param for extra in unpaid}))


def _may_leave_out(extra: Extra, chat: InferenceRequest) -> bool:
    """Whether a request of another dialect can go on without the feature.

    Coding agents offer search in every request, so a relay leaves out server tools that the answer does not need. In a
    translation a mark of an hour becomes one of the usual lifetime.
    """
    if chat.native is not None:
        return extra.param == "tools" and not chat.needed_tool
    return extra.hour and chat.dialect != "chat"


def _without(chat: InferenceRequest, unpaid: Sequence[Extra]) -> InferenceRequest:
    gone = {extra.param for extra in unpaid} - {"tools", "cache_control"}
    tools = {extra.tool for extra in unpaid if extra.param == "tools"}
    hours = any(extra.hour for extra in unpaid)
    if chat.native is not None:
        return _without_native(chat, gone, tools, hours=hours)
    params = {name: value for name, value in chat.params.items() if name not in gone}
    if tools:
        params["tools"] = [tool for tool in params["tools"] if server_tool(tool) not in tools]
        if not params["tools"]:
            params = {name: value for name, value in params.items() if name not in TOOL_FIELDS}
    chat = chat._replace(params=params)
    return _without_hours(chat) if hours else chat


def _without_native(
    chat: InferenceRequest, gone: set[str], tools: set[str], *, hours: bool
) -> InferenceRequest:
    form = form_of(chat)

    def edit(body: Mapping[str, Any]) -> Mapping[str, Any]:
        body = {name: value for name, value in body.items() if name not in gone}
        if tools:
            body = form.without_tools(body, lambda tool: server_tool(tool) in tools)
        return form.without_hour_marks(body) if hours else body

    return edited(chat, edit)


TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})


def _without_hours(chat: InferenceRequest) -> InferenceRequest:
    """The request with the default cache lifetime."""
    marks = without_hours({name: chat.params[name] for name in ("cache_control",) if name in chat.params})
    tools = {"tools": without_hours(chat.params["tools"])} if "tools" in chat.params else {}
    return chat._replace(params={**chat.params, **marks, **tools}, messages=without_hours(chat.messages))
