"""Converts chat requests to OpenAI's dialect, according to the provider's profile (`profiles.OPENAI_PROFILES`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.openai_format.parameters import NEUTRAL_DEFAULTS
from codellama_proxy.openai_format.request import TRACKING_KEYS, InferenceRequest
from codellama_proxy.openai_format.texts import Texts
from codellama_proxy.providers.common import translated
from codellama_proxy.providers.common.identity import short
from codellama_proxy.providers.common.parameters import narrow_tool_choice, unsupported, with_tools_only
from codellama_proxy.providers.openai.capabilities import NEUTRAL, refused
from codellama_proxy.providers.openai.efforts import nearest_effort
from codellama_proxy.providers.openai.endpoint_urls import ChatTarget, upstream_model
from codellama_proxy.providers.openai.messages import message_for, tools_for
from codellama_proxy.providers.openai.profiles import OpenAIProfile
from codellama_proxy.providers.openai.unchanged_params import IDENTIFIERS, replaced_max_tokens

EFFORT = "reasoning_effort"
"""A parameter whose value is only a hint, in the words of the client's dialect, where it is soft."""
MIN_SAMPLING_VALUE = 0.01
"""Replaces a temperature or top_p of 0 for providers that refuse it."""


def to_request(chat: InferenceRequest, deployment: Deployment, target: ChatTarget) -> HttpRequest:
    """The HTTP request for `chat`. Raises `ProxyError` unsupported_parameter."""
    dialect = target.dialect
    chat = translated.plain_chat(
        chat, deployment, system_first=dialect.system_first, marks=dialect.cache_marks
    )
    params: Mapping[str, Any] = chat.params
    dropped: Sequence[str] = ()
    if not is_unchanged(chat, target.unchanged):
        params, dropped = translated_params(chat, deployment, dialect)
    messages = chat.messages
    if type(messages) is not Texts:
        messages = [message_for(message, dialect) for message in messages]
    body: dict[str, Any] = {
        "model": upstream_model(deployment),
        "messages": messages,
        **params,
    }
    if chat.stream:
        body["stream"] = True
        if dialect.stream_options:
            body["stream_options"] = {"include_usage": True}
    return HttpRequest(
        target.url,
        target.headers,
        orjson.dumps(body, default=dict),  # an entry's parameters are read-only mappings
        dropped=translated.dropped(dropped, chat) if chat.ignored else tuple(dropped),
    )


def is_unchanged(chat: InferenceRequest, unchanged: frozenset[str]) -> bool:
    """Whether the provider gets all parameters as they are; `unchanged`: as of `unchanged_params`."""
    if chat.metadata or not unchanged.issuperset(chat.params):
        return False
    return not chat.soft or EFFORT not in chat.params


def translated_params(
    chat: InferenceRequest, deployment: Deployment, dialect: OpenAIProfile
) -> tuple[dict[str, Any], list[str]]:
    """The provider's parameters, and the names of dropped ones that could change the answer."""
    params = with_tools_only(chat.params)
    if chat.metadata:
        shown = {name: value for name, value in chat.metadata.items() if name not in TRACKING_KEYS}
        if shown:
            params["metadata"] = shown
    hints = narrow_hints(params, chat, deployment, dialect) if chat.soft else []
    params, dropped = filter_params(params, deployment, dialect, soft=chat.soft)
    dropped += [*hints, *drop_refused(params, deployment, dialect, chat.soft)]
    _rename_max_tokens(params, deployment, dialect)
    _translate_values(params, dialect)
    return params, dropped


def filter_params(
    params: dict[str, Any],
    deployment: Deployment,
    dialect: OpenAIProfile,
    reject: frozenset[str] = frozenset(),
    soft: frozenset[str] = frozenset(),
) -> tuple[dict[str, Any], list[str]]:
    """Removes unsupported parameters from `params`; returns the names of those that could change the answer."""
    dropped: list[str] = []
    rejected = dialect.reject | reject
    for name in sorted(rejected & params.keys()) if rejected else ():
        if params[name] != NEUTRAL_DEFAULTS.get(name):
            if not deployment.drop_params and name not in soft:
                raise unsupported(deployment.provider, name)
            dropped.append(name)
        del params[name]
    for name in dialect.dropped & params.keys():
        del params[name]
    if dialect.short_ids:
        params |= {name: short(params[name]) for name in IDENTIFIERS if isinstance(params.get(name), str)}
    for name, other in dialect.rename.items():
        if name in params:
            params[other] = params.pop(name)
    return params, dropped


def narrow_hints(
    params: dict[str, Any], chat: InferenceRequest, deployment: Deployment, dialect: OpenAIProfile
) -> list[str]:
    """Removes hints of other dialects that the model is not known to accept. Returns the names of reported ones."""
    if "top_k" in chat.soft and not dialect.top_k:
        params.pop("top_k", None)
    effort = params.get(EFFORT)
    if effort is None or EFFORT not in chat.soft:
        return []
    nearest = nearest_effort(effort, deployment)
    if nearest is None:
        del params[EFFORT]
        return [EFFORT]
    params[EFFORT] = nearest
    return []


def drop_refused(
    params: dict[str, Any], deployment: Deployment, dialect: OpenAIProfile, soft: frozenset[str]
) -> list[str]:
    """Removes parameters that the model refuses: values without effect always, others with `drop_params` or if `soft`.

    Otherwise the provider returns the error. Returns the names of those that could change the answer.
    """
    if dialect.max_tokens != "by_model":
        return []
    dropped = []
    for name in sorted(refused(deployment, params) & params.keys()):
        idle = params[name] == NEUTRAL.get(name, NEUTRAL_DEFAULTS.get(name))
        if idle or deployment.drop_params or name in soft:
            del params[name]
            dropped += [] if idle else [name]
    return dropped


def _rename_max_tokens(params: dict[str, Any], deployment: Deployment, dialect: OpenAIProfile) -> None:
    old = replaced_max_tokens(deployment, dialect)
    if old in params:
        params["max_tokens" if old == "max_completion_tokens" else "max_completion_tokens"] = params.pop(old)


def _translate_values(params: dict[str, Any], dialect: OpenAIProfile) -> None:
    if params.get("tools"):
        params["tools"] = tools_for(params["tools"], dialect)
    _translate_choice(params, dialect)
    if dialect.sampling_above_zero:
        _lift_sampling(params)
    if dialect.stop_list and isinstance(params.get("stop"), str):
        params["stop"] = [params["stop"]]
    if dialect.integer_logprobs:
        wanted, top = params.pop("logprobs", False), params.pop("top_logprobs", None)
        if wanted:
            params["logprobs"] = top or 1


def _translate_choice(params: dict[str, Any], dialect: OpenAIProfile) -> None:
    choice = params.get("tool_choice")
    if isinstance(choice, str):
        params["tool_choice"] = dialect.tool_choice.get(choice, choice)
    elif choice is not None:
        is_subset = choice.get("type") == "allowed_tools"
        if params.get("tools") and (
            (is_subset and not dialect.allowed_tools) or "named" in dialect.tool_choice
        ):
            params |= narrow_tool_choice(params)
            choice = params["tool_choice"]
        word = choice if isinstance(choice, str) else "named"
        params["tool_choice"] = dialect.tool_choice.get(word, choice)


def _lift_sampling(params: dict[str, Any]) -> None:
    for name in ("temperature", "top_p"):
        if params.get(name) == 0:
            params[name] = MIN_SAMPLING_VALUE
    if params.get("top_p") == 1:
        del params["top_p"]
