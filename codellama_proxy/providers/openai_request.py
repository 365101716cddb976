"""A chat request in OpenAI's dialect, as each provider's row of `dialects.DIALECTS` wants it."""

from __future__ import annotations

import re
from typing import Any

import orjson

from codellama_proxy.chat import TRACKING_KEYS, ChatRequest, Message
from codellama_proxy.providers.addresses import address, credential, upstream_model
from codellama_proxy.providers.dialects import DEFAULTS, Dialect
from codellama_proxy.providers.policy import narrowed, unsupported
from codellama_proxy.providers.tool_ids import shortened
from codellama_proxy.types import Deployment, HttpRequest

NEW_MAX_TOKENS = re.compile(r"(?:^|[./])(o\d|gpt-[5-9])")  # model families that refuse `max_tokens`
LEAST = 0.01
"""What stands for a temperature or top_p of 0 where it must be above."""


def to_request(chat: ChatRequest, deployment: Deployment, dialect: Dialect) -> HttpRequest:
    """What is sent for `chat`. Raises `ProxyError` unsupported_parameter."""
    params, dropped = _params(chat, deployment, dialect)
    body: dict[str, Any] = {
        "model": upstream_model(deployment),
        "messages": [_message(message, dialect) for message in chat.messages],
        **params,
    }
    if chat.stream:
        body["stream"] = True
        if dialect.stream_options:
            body["stream_options"] = {"include_usage": True}
    headers = {"content-type": "application/json", **dialect.headers, **deployment.headers}
    return HttpRequest(
        address(deployment, dialect, "/chat/completions"),
        {**headers, **credential(deployment, dialect)},
        orjson.dumps(body, default=dict),  # an entry's own parameters are read-only mappings
        dropped=tuple(dropped),
    )


def _params(chat: ChatRequest, deployment: Deployment, dialect: Dialect) -> tuple[dict[str, Any], list[str]]:
    """The parameters in this provider's words, and the names of those dropped that would have mattered."""
    params = dict(chat.params)
    shown = {name: value for name, value in chat.metadata.items() if name not in TRACKING_KEYS}
    if shown:
        params["metadata"] = shown
    params, dropped = sifted(params, deployment, dialect)
    _rename_max_tokens(params, deployment, dialect)
    _translate_values(params, dialect)
    return params, dropped


def sifted(
    params: dict[str, Any], deployment: Deployment, dialect: Dialect, reject: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], list[str]]:
    """Without what this provider does not take, and the names of what would have mattered. Changes `params`."""
    dropped: list[str] = []
    for name in sorted((dialect.reject | reject) & params.keys()):
        if params[name] != DEFAULTS.get(name):
            if not deployment.drop_params:
                raise unsupported(deployment.provider, name)
            dropped.append(name)
        del params[name]
    for name in dialect.drop & params.keys():
        del params[name]
    for name, other in dialect.rename.items():
        if name in params:
            params[other] = params.pop(name)
    return params, dropped


def _rename_max_tokens(params: dict[str, Any], deployment: Deployment, dialect: Dialect) -> None:
    old, new = "max_completion_tokens", "max_tokens"
    if dialect.max_tokens == "by_model" and NEW_MAX_TOKENS.search(deployment.base_model or deployment.model):
        old, new = new, old
    elif dialect.max_tokens != "max_tokens":
        return
    if old in params:
        params[new] = params.pop(old)


def _translate_values(params: dict[str, Any], dialect: Dialect) -> None:
    _translate_choice(params, dialect)
    if dialect.sampling_above_zero:
        _lift_sampling(params)
    if dialect.stop_list and isinstance(params.get("stop"), str):
        params["stop"] = [params["stop"]]
    if dialect.integer_logprobs:
        wanted, top = params.pop("logprobs", False), params.pop("top_logprobs", None)
        if wanted:
            params["logprobs"] = top or 1


def _translate_choice(params: dict[str, Any], dialect: Dialect) -> None:
    choice = params.get("tool_choice")
    if isinstance(choice, str):
        params["tool_choice"] = dialect.tool_choice.get(choice, choice)
    elif choice is not None:
        is_subset = choice.get("type") == "allowed_tools"
        if params.get("tools") and (
            (is_subset and not dialect.allowed_tools) or "named" in dialect.tool_choice
        ):
            params |= narrowed(params)
            choice = params["tool_choice"]
        word = choice if isinstance(choice, str) else "named"
        params["tool_choice"] = dialect.tool_choice.get(word, choice)


def _lift_sampling(params: dict[str, Any]) -> None:
    for name in ("temperature", "top_p"):
        if params.get(name) == 0:
            params[name] = LEAST
    if params.get("top_p") == 1:
        del params["top_p"]


def _message(message: Message, dialect: Dialect) -> Message:
    if dialect.short_tool_ids and ("tool_calls" in message or "tool_call_id" in message):
        message = shortened(message)
    if not dialect.developer_role and message["role"] == "developer":
        message = {**message, "role": "system"}
    if dialect.message_fields_off and dialect.message_fields_off & message.keys():
        return {name: value for name, value in message.items() if name not in dialect.message_fields_off}
    return message
