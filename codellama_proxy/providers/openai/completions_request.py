"""A completion's request in OpenAI's dialect, as each provider's row of `texts.TEXTS` wants it."""

from __future__ import annotations

from typing import Any

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.openai_format.request import InferenceRequest, several
from codellama_proxy.providers.openai.completions_profiles import (
    COMPLETION_PROFILES,
    END_OF_GAP,
    CompletionProfile,
    fills_by_tokens,
    with_gap,
)
from codellama_proxy.providers.openai.endpoint_urls import address, credential, upstream_model
from codellama_proxy.providers.openai.profiles import OpenAIProfile, profile_of
from codellama_proxy.providers.openai.request import filter_params


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """What is sent for `chat`. Raises `ProxyError` unsupported_parameter."""
    dialect, row = profile_of(deployment), COMPLETION_PROFILES[deployment.provider]
    params, dropped = filter_params(dict(chat.params), deployment, dialect, row.reject)
    if "max_completion_tokens" in params:
        params["max_tokens"] = params.pop("max_completion_tokens")
    if row.one_text:
        params["prompt"] = _one_text(params["prompt"], deployment)
    if "suffix" in params and fills_by_tokens(row, deployment.base_model or deployment.model):
        _fill_by_tokens(params, deployment)
    if dialect.stop_list and isinstance(params.get("stop"), str):
        params["stop"] = [params["stop"]]
    if chat.stream:
        params["stream"] = True
        if dialect.stream_options:
            params["stream_options"] = {"include_usage": True}
    return HttpRequest(
        _address(deployment, dialect, row),
        {
            "content-type": "application/json",
            **dialect.headers,
            **deployment.headers,
            **credential(deployment, dialect),
        },
        orjson.dumps({"model": upstream_model(deployment), **params}, default=dict),
        dropped=tuple(dropped),
    )


def _address(deployment: Deployment, dialect: OpenAIProfile, row: CompletionProfile) -> str:
    place = address(deployment, dialect, row.path)
    if row.path.startswith("/beta/"):  # beside the version, not under it
        base = place.removesuffix(row.path)
        return base.removesuffix("/v1").removesuffix("/beta") + row.path
    return place


def _one_text(prompt: Any, deployment: Deployment) -> str:
    match several(prompt):
        case [str(text)]:
            return text
    message = f"Provider '{deployment.provider}' takes one prompt, as text."
    raise ProxyError("unsupported_parameter", message, param="prompt")


def _fill_by_tokens(params: dict[str, Any], deployment: Deployment) -> None:
    """The prompt says where the gap is; the answer ends where the model says that it is filled."""
    before, after = several(params["prompt"]), params.pop("suffix")
    if not all(isinstance(text, str) for text in before):
        message = f"Provider '{deployment.provider}' fills in between texts, not token ids."
        raise ProxyError("unsupported_parameter", message, param="suffix")
    filled = [with_gap(text, after) for text in before]
    params["prompt"] = filled if isinstance(params["prompt"], list) else filled[0]
    stop = params.get("stop") or []
    params["stop"] = [*([stop] if isinstance(stop, str) else stop), END_OF_GAP]
