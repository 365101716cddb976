"""Converts a chat request to Anthropic's Messages API, for the capabilities of the model.

The API version depends on the body: the last one with sampling parameters if there are any, else the newest. An
`anthropic-version` header in the entry takes precedence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.openai_format.fields import invalid_value
from codellama_proxy.openai_format.parameters import IGNORABLE
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.anthropic import cache_marks
from codellama_proxy.providers.anthropic.capabilities import (
    NEW_VERSION,
    OLD_VERSION,
    Capabilities,
    capabilities,
)
from codellama_proxy.providers.anthropic.json_schema import closed
from codellama_proxy.providers.anthropic.messages import (
    Block,
    Conversation,
    conversation,
    prefilled,
    without_trailing_space,
)
from codellama_proxy.providers.anthropic.thinking import Thinking, thinking_of
from codellama_proxy.providers.anthropic.tools import tool_choice_of, tools_of
from codellama_proxy.providers.common import legacy_functions as legacy
from codellama_proxy.providers.common import translated
from codellama_proxy.providers.common.identity import impersonal
from codellama_proxy.providers.common.output_limits import known_output_limit, narrowed
from codellama_proxy.providers.common.parameters import ParameterSet, parameter_set

BASE_URL = "https://api.anthropic.com"
BEARER_HOSTS = re.compile(r"https://[^/]*\.api\.aws(?:/|$)")  # Claude on Bedrock expects a bearer token
SAMPLING = ("temperature", "top_p", "top_k")
TAKEN = frozenset(
    {
        *("max_tokens", "max_completion_tokens", *SAMPLING, "stop", "user", "safety_identifier"),
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
        *("thinking", "cache_control", "betas"),
    }
)
DROPPED = IGNORABLE - TAKEN | {"verbosity"}
"""Dropped silently: they cannot change an answer."""
REPORTED = frozenset({"seed"})
"""Dropped and reported: only hints."""
JSON_ONLY = "Respond with one valid JSON object only, without code fences."


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """The HTTP request for `chat`. Raises `ProxyError`: unsupported_parameter, invalid_value."""
    able = capabilities(deployment)
    translated.available(chat)
    chat = narrowed(legacy.modern(chat), deployment)
    asked = parameter_set(chat, deployment, TAKEN, DROPPED, REPORTED)
    asked = _sampling(asked, able)
    talk = _conversation(chat, able)
    asked, choice = tool_choice_of(asked, able)
    max_tokens = _max_tokens(asked, deployment)
    asked, thought = thinking_of(asked, able, chat.messages, max_tokens, choice)
    body = {
        "model": deployment.model,
        "max_tokens": max_tokens,
        **_system(talk, asked),
        "messages": talk.turns,
        **_plain(asked),
        **tools_of(asked, chat.messages),
        **({"tool_choice": choice} if choice else {}),
        **_output(asked, thought),
        **_user(chat, asked),
        **asked.extras,
        **({"stream": True} if chat.stream else {}),
    }
    return HttpRequest(
        messages_url(deployment),
        _headers(deployment, body, asked.params.get("betas")),
        _encoded(body, cached=deployment.cache_prompts and able.cache_marks),
        dropped=translated.dropped(asked.dropped, chat),
    )


def _encoded(body: Mapping[str, Any], *, cached: bool) -> bytes:
    """The body as JSON; `cached`: with cache marks, if it has none of its own and is large enough for a cache."""
    if cache_marks.has_marks(body):
        return _json(cache_marks.limited(body))
    encoded = _json(body)
    if not cached or len(encoded) < cache_marks.MIN_PROMPT_BYTES:
        return encoded
    return _json(cache_marks.with_marks(body))


def _json(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps(body, default=dict)  # an entry's parameters are read-only mappings


# --- where and as whom ---------------------------------------------------------------------------------------


def messages_url(deployment: Deployment) -> str:
    """The endpoint's URL; the entry's address may include the version and the endpoint."""
    base = (deployment.base_url or BASE_URL).rstrip("/")
    return base.removesuffix("/messages").removesuffix("/v1") + "/v1/messages"


def _headers(deployment: Deployment, body: Mapping[str, Any], betas: object) -> dict[str, str]:
    sampled = any(name in body for name in SAMPLING)
    headers = {
        "content-type": "application/json",
        "anthropic-version": OLD_VERSION if sampled else NEW_VERSION,
        **_betas(betas),
        **deployment.headers,
    }
    return {**headers, **credential(deployment)}


def credential(deployment: Deployment) -> dict[str, str]:
    """The header with the entry's key; empty without one."""
    if deployment.api_key is None:
        return {}
    key = deployment.api_key.reveal()
    is_bearer = BEARER_HOSTS.match(deployment.base_url or "")
    return {"authorization": f"Bearer {key}"} if is_bearer else {"x-api-key": key}


def _betas(betas: object) -> dict[str, str]:
    if betas is None:
        return {}
    names: Sequence[Any] = betas if isinstance(betas, list | tuple) else [betas]
    if not names or not all(
        isinstance(name, str) and re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII) for name in names
    ):
        raise invalid_value("betas", "'betas' must be an array of names.")
    return {"anthropic-beta": ",".join(names)}


# --- parameters ----------------------------------------------------------------------------------------------


def _sampling(asked: ParameterSet, able: Capabilities) -> ParameterSet:
    """The sampling parameters that the model supports; temperature is limited to 1.

    Many clients always send both temperature and top_p; if only one is supported, temperature is kept.
    """
    params = asked.params
    if not able.sampling:
        for name in SAMPLING:
            asked = asked.refuse(name, unless=1)
        return asked
    if params.get("temperature", 0) > 1:
        asked = asked.refuse("temperature").given(temperature=1.0)
    if params.get("top_p") == 1:
        asked = asked.without("top_p")
    if able.one_of_two and {"temperature", "top_p"} <= asked.params.keys():
        return asked.without("temperature") if params["temperature"] == 1 else asked.drop("top_p")
    return asked


def _max_tokens(asked: ParameterSet, deployment: Deployment) -> int:
    """`max_tokens`, which is required; values above the model's limit are reduced to it."""
    params = asked.params
    found = params.get("max_completion_tokens", params.get("max_tokens", deployment.max_output_tokens))
    return int(min(found, known_output_limit(deployment) or found))


def _plain(asked: ParameterSet) -> dict[str, Any]:
    """Parameters that are only renamed."""
    found = {name: asked.params[name] for name in (*SAMPLING, "cache_control") if name in asked.params}
    stop = asked.params.get("stop")
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    return {**found, **({"stop_sequences": stops} if stops else {})}


def _user(chat: InferenceRequest, asked: ParameterSet) -> dict[str, Any]:
    params = asked.params
    found = params.get("user") or params.get("safety_identifier") or chat.metadata.get("user_id")
    return {"metadata": {"user_id": impersonal(found)}} if isinstance(found, str) else {}


# --- messages ------------------------------------------------------------------------------------------------


def _conversation(chat: InferenceRequest, able: Capabilities) -> Conversation:
    talk = conversation(chat.messages, late_system=able.late_system)
    if not prefilled(talk):
        return talk
    if not able.prefill:
        at = f"messages[{len(chat.messages) - 1}]"
        raise invalid_value(at, "This model does not continue an assistant message: end with a user message.")
    return without_trailing_space(talk)


def _system(talk: Conversation, asked: ParameterSet) -> dict[str, Any]:
    """The system prompt as one text, or as blocks if a part has a cache mark."""
    blocks: Sequence[Block] = talk.system
    if _format(asked).get("type") == "json_object":
        blocks = [*blocks, {"type": "text", "text": JSON_ONLY}]
    if not blocks:
        return {}
    if any(block.keys() != {"type", "text"} for block in blocks):
        return {"system": blocks}
    return {"system": "\n\n".join(block["text"] for block in blocks)}


# --- the form of the answer ----------------------------------------------------------------------------------


def _format(asked: ParameterSet) -> Mapping[str, Any]:
    found: Mapping[str, Any] = asked.params.get("response_format", {})
    return found


def _output(asked: ParameterSet, thought: Thinking) -> dict[str, Any]:
    """`output_config` and `thinking`."""
    output = {"effort": thought.effort} if thought.effort else {}
    match _format(asked).get("type", "text"):
        case "text" | "json_object":
            form: dict[str, Any] = {}
        case "json_schema":
            form = {"format": {"type": "json_schema", "schema": _schema(_format(asked))}}
        case other:
            message = f"Provider 'anthropic' does not support the response format '{other}'."
            raise ProxyError("unsupported_parameter", message, param="response_format")
    config = {**output, **form}
    found = {"output_config": config} if config else {}
    return {**found, **({"thinking": thought.thinking} if thought.thinking else {})}


def _schema(found: Mapping[str, Any]) -> Any:
    wanted = found.get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, Mapping) else None
    if not isinstance(schema, Mapping):
        at = "response_format.json_schema.schema"
        raise ProxyError("missing_required_parameter", f"'{at}' is required.", param=at)
    return closed(schema)
