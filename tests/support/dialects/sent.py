"""What a dialect makes of a request: the body it sends, and what it refuses or leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import chat, deployment

FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
WEATHER = {"type": "function", "function": FUNCTION}
TIME = {"type": "function", "function": {"name": "time"}}
NO_ARGUMENTS = {"type": "object", "properties": {}}

# Values that ask for nothing, or only for bookkeeping.
IDLE: dict[str, Any] = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "user": "u-1",
    "safety_identifier": "s-1",
    "store": True,
    "service_tier": "auto",
    "prompt_cache_key": "k",
}


def request(provider: str, *, drop: bool = False, stream: bool = False, **params: Any) -> HttpRequest:
    entry = deployment(provider=provider, base_url=None, drop_params=drop)
    return ADAPTERS[provider].to_request(chat(params=params, stream=stream, metadata={"a": "b"}), entry)


def body(provider: str, **params: Any) -> dict[str, Any]:
    """The whole body without what every one has."""
    found: dict[str, Any] = orjson.loads(request(provider, **params).body)
    return {name: value for name, value in found.items() if name not in ("model", "messages", "stream")}


def messages(provider: str, *conversation: Mapping[str, Any], **params: Any) -> Any:
    entry = deployment(provider=provider)
    return orjson.loads(
        ADAPTERS[provider].to_request(chat(messages=conversation, params=params), entry).body
    )["messages"]


def assert_refused(provider: str, name: str, value: Any, **more: Any) -> None:
    """400 by its name, or left out and reported where the entry says so."""
    with pytest.raises(ProxyError) as caught:
        request(provider, **{name: value}, **more)
    error = caught.value
    assert (error.code, error.param, error.status) == ("unsupported_parameter", name, 400)
    assert provider in error.message
    lenient = request(provider, drop=True, **{name: value}, **more)
    assert lenient.dropped == (name,)
    assert name not in orjson.loads(lenient.body)


HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Only code."},
    {"role": "user", "content": "Weather?", "name": "bob"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}, "index": 0}
        ],
        "refusal": None,
        "reasoning_content": "hm",
    },
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
]
LEGACY: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
    {"role": "function", "name": "weather", "content": "rain"},
]
