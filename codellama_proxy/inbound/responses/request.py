"""Parses OpenAI's Responses requests into chats.

Fields, items and tools that are not known here are left out and reported, not refused: clients add new ones every
month. (platform.openai.com/docs/api-reference/responses/create)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.dialect import Headers
from codellama_proxy.inbound.responses.items import OpenSealed, messages_of
from codellama_proxy.inbound.responses.refusals import check_fields_stateless
from codellama_proxy.inbound.responses.tools import choice_of, offered
from codellama_proxy.inbound.sealed import Seals
from codellama_proxy.openai_format.fields import check_fields, invalid_type, invalid_value, parse_json
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS, MAX_INT, Parameter, Parameters
from codellama_proxy.openai_format.request import InferenceRequest, Message, Native, request_of
from codellama_proxy.openai_format.texts import Texts

SAME_NAMES = frozenset(
    {
        *("model", "stream", "temperature", "top_p", "user", "metadata", "service_tier"),
        *("safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
        *("parallel_tool_calls", "top_logprobs"),
    }
)
"""Fields that chats have too."""
PARAMETERS = Parameters(
    {
        **{name: CHAT_PARAMETERS[name] for name in SAME_NAMES},
        "input": Parameter("string or array", max_items=20_000),
        "instructions": Parameter("string"),
        "max_output_tokens": Parameter("integer", (1, MAX_INT)),
        "reasoning": Parameter("object"),
        "text": Parameter("object"),
        "tools": CHAT_PARAMETERS["tools"],
        "tool_choice": CHAT_PARAMETERS["tool_choice"],
        "include": Parameter("array"),
        "background": Parameter("boolean"),
        "store": Parameter("boolean"),
    }
)
UNREPORTED = frozenset({"stream_options", "truncation", "previous_response_id", "conversation", "prompt"})
"""Read, or without effect on an answer, though not in `PARAMETERS`."""
SOFT = frozenset({"reasoning_effort", "verbosity", "parallel_tool_calls", "max_completion_tokens"})
"""What coding agents send to every model: dropped where a provider does not support it."""
LOGPROBS = "message.output_text.logprobs"
ENCRYPTED_REASONING = "reasoning.encrypted_content"
"""Values of `include` that have an effect."""

WANTED_HEADERS = re.compile(
    r"(session[-_]id|thread[-_]id|conversation_id|originator|user-agent|openai-(?!organization$|project$).+"
    r"|x-(codex|openai)-.+|x-session-(id|affinity)|x-client-request-id)$"
)
"""Headers for providers of this dialect, and for telling sessions apart."""
MAX_REPORTED = 32
"""Names of what is left out, in the response header."""
_UNPRINTABLE = re.compile(r"[^A-Za-z0-9_.\-]")


def parse_responses(
    body: bytes, headers: Headers, request_id: str = "", created: int = 0, seals: Seals | None = None, /
) -> InferenceRequest:
    """A chat request from the body of a Responses request. Raises `ProxyError` with status 400 and `param`."""
    given = parse_json(body)
    only_known = PARAMETERS.keys() >= given.keys()
    named = given if only_known else {name: value for name, value in given.items() if name in PARAMETERS}
    known = check_fields(named, PARAMETERS)
    check_fields_stateless(given)
    messages, ignored = _messages(known, _no_seals if seals is None else seals.open)
    tools = offered(given)
    fields = {name: value for name, value in known.items() if name in SAME_NAMES}
    fields |= _renamed(known)
    choice = choice_of(known.get("tool_choice"), tools)
    if choice.value is not None:
        fields["tool_choice"] = choice.value
    if tools.functions:
        fields["tools"] = list(tools.functions)
    else:
        fields.pop("parallel_tool_calls", None)
    request = request_of("chat/completions", messages, fields, len(body), request_id, created)
    wanted = {name: value for name, value in headers().items() if WANTED_HEADERS.match(name)}
    unknown = [] if only_known else _unknown(given)
    if known.get("store"):
        unknown.append("store")
    return request.from_dialect(
        "responses",
        Native(given, wanted),
        include_usage=request.stream,
        soft=SOFT,
        ignored=_reported([*unknown, *ignored, *tools.ignored]),
        needed_tool=choice.needed,
    )


def _unknown(given: Mapping[str, Any]) -> list[str]:
    """The fields that have no effect."""
    return [
        name
        for name, value in given.items()
        if value is not None and name not in PARAMETERS and name not in UNREPORTED
    ]


def _no_seals(_: str) -> None:
    """Opens nothing."""


def _messages(known: Mapping[str, Any], open_sealed: OpenSealed) -> tuple[Sequence[Message], list[str]]:
    instructions = known.get("instructions")
    first = [{"role": "system", "content": instructions}] if instructions else []
    given = known.get("input")
    if not given and not first:
        raise ProxyError("missing_required_parameter", "'input' is required.", param="input")
    messages, ignored = messages_of(given or [], open_sealed)
    if not messages and not first:
        raise invalid_value("input", "'input' must have at least one message.")
    if not first:
        return messages, ignored
    whole = [*first, *messages]
    return (Texts(whole) if type(messages) is Texts else whole), ignored


def _renamed(known: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that chats have under other names."""
    fields: dict[str, Any] = {}
    if (most := known.get("max_output_tokens")) is not None:
        fields["max_completion_tokens"] = most
    effort = known.get("reasoning", {}).get("effort")
    if effort is not None:
        if not isinstance(effort, str):
            raise invalid_type("reasoning.effort", "string")
        fields["reasoning_effort"] = effort
    if "top_logprobs" in known or LOGPROBS in known.get("include", ()):
        fields["logprobs"] = True
    return fields | _text_fields(known.get("text", {}))


def _text_fields(text: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    verbosity = text.get("verbosity")
    if verbosity is not None:
        if not isinstance(verbosity, str):
            raise invalid_type("text.verbosity", "string")
        fields["verbosity"] = verbosity
    form = text.get("format")
    if form is None:
        return fields
    if not isinstance(form, dict) or not isinstance(form.get("type"), str):
        raise invalid_type("text.format", "object with a 'type'")
    if form["type"] == "json_schema":
        if not isinstance(form.get("schema"), dict):
            raise invalid_type("text.format.schema", "object")
        names = ("name", "description", "schema", "strict")
        schema = {name: form[name] for name in names if form.get(name) is not None}
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "output", **schema}}
    elif form["type"] == "json_object":
        fields["response_format"] = {"type": "json_object"}
    elif form["type"] != "text":
        raise invalid_value(
            "text.format.type", "'text.format.type' must be text, json_object or json_schema."
        )
    return fields


def _reported(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a header may have them, each once."""
    if not names:
        return ()
    return tuple(dict.fromkeys(_UNPRINTABLE.sub("_", name[:64]) for name in names))[:MAX_REPORTED]
