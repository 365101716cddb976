"""Converts chat requests to predictions on Replicate."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from codellama_proxy.core.snapshot import Deployment, Json
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.openai_format.fields import invalid_value
from codellama_proxy.openai_format.parameters import IGNORABLE
from codellama_proxy.openai_format.request import (
    CACHE_MARKS,
    SYSTEM_ROLES,
    THINKING_PARTS,
    InferenceRequest,
    Message,
)
from codellama_proxy.providers.common import translated
from codellama_proxy.providers.common.identity import bearer_headers
from codellama_proxy.providers.common.parameters import Policy, Rule, UnsupportedError, translate
from codellama_proxy.providers.openai.messages import without
from codellama_proxy.providers.replicate.models import Inputs, Turn, inputs_of, prompt

BASE_URL = "https://api.replicate.com/v1"
WAIT_SECONDS = 5
"""How long, in seconds, the first request waits for the answer; short, because it cannot be cancelled earlier."""
MIN_CANCEL_SECONDS = 5
RESERVED = re.compile(
    r"prompt|system|template|messages|instruction|preamble|^max|length|^num_", re.IGNORECASE
)
"""Inputs that could bypass the guardrail or the token bound; clients may not set them."""
VERSION = re.compile(r"(?:.*:)?([0-9a-f]{64})")
CONVERSATION = ("messages", "prompt", "system", "image")
SPEECH_ROLES = {"user", "assistant"}


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """The request that creates the prediction. Raises `ProxyError` unsupported_parameter."""
    inputs = inputs_of(deployment)
    chat = translated.plain_chat(chat, deployment)
    params, dropped = translate(chat.params, _policy(inputs), deployment, chat.soft)
    path, version = _path_and_version(deployment.model)
    body = {**version, "input": {**params, **_conversation(chat.messages, inputs)}}
    headers = {**bearer_headers(deployment), "content-type": "application/json"}
    if not chat.stream:
        # Cancels the prediction if the proxy crashes.
        limit = max(math.ceil(deployment.timeouts.answer), MIN_CANCEL_SECONDS)
        headers |= {"prefer": f"wait={WAIT_SECONDS}", "cancel-after": f"{limit}s"}
    return HttpRequest(
        base_url(deployment) + path,
        headers,
        orjson.dumps(body, default=dict),
        dropped=translated.dropped(dropped, chat),
    )


def base_url(deployment: Deployment) -> str:
    return (deployment.base_url or BASE_URL).rstrip("/")


def _path_and_version(model: str) -> tuple[str, Json]:
    """The path and the version field: for a version, a deployment, or a model."""
    if version := VERSION.fullmatch(model):
        return "/predictions", {"version": version[1]}
    name = quote(model, safe="/")
    return (f"/{name}/predictions" if name.startswith("deployments/") else f"/models/{name}/predictions"), {}


# --- parameters ----------------------------------------------------------------------------------------------


def _policy(inputs: Inputs) -> Policy:
    rules: dict[str, Rule] = {**inputs.names}
    for ours in CONVERSATION:
        rules.pop(ours, None)
    if "max_tokens" in rules:
        rules["max_completion_tokens"] = rules["max_tokens"]
    if word := inputs.names.get("stop"):
        rules["stop"] = lambda value: {word: _stop(value, word)}
    if warmth := inputs.names.get("temperature"):
        rules["temperature"] = lambda value: {warmth: max(value, inputs.least_temperature)}
    own = set(inputs.names.values())
    return Policy(
        rules,
        IGNORABLE | {"user", "parallel_tool_calls"},
        extras=lambda name: name not in own and not RESERVED.search(name),
    )


def _stop(value: str | Sequence[str], word: str) -> Any:
    """`stop_sequences` as one comma-separated string."""
    stops = [value] if isinstance(value, str) else list(value)
    if word != "stop_sequences":
        return stops
    if any("," in stop for stop in stops):
        raise UnsupportedError
    return ",".join(stops)


# --- messages ------------------------------------------------------------------------------------------------


def _conversation(messages: Sequence[Message], inputs: Inputs) -> dict[str, Any]:
    for at, message in enumerate(messages):
        if message["role"] not in SYSTEM_ROLES | SPEECH_ROLES or message.get("tool_calls"):
            raise invalid_value(f"messages[{at}]", "Provider 'replicate' does not support tools.")
    names = inputs.names
    if "messages" in names:
        return {names["messages"]: [_plain(message) for message in messages]}
    texts = [
        (message["role"], _text(message.get("content"), f"messages[{at}]", pictures="image" in names))
        for at, message in enumerate(messages)
    ]
    system = "\n\n".join(text for role, text in texts if role in SYSTEM_ROLES)
    turns: list[Turn] = [(role, text) for role, text in texts if role in SPEECH_ROLES]
    found = {}
    if "system" in names and system:
        found, system = {names["system"]: system}, ""
    whole = prompt(system, turns, inputs.prompt_format)
    return {**found, names.get("prompt", "prompt"): whole, **_pictures(messages, names)}


def _plain(message: Message) -> Json:
    role = "system" if message["role"] in SYSTEM_ROLES else message["role"]
    content = message.get("content") or ""
    if isinstance(content, list):
        content = [without(part, CACHE_MARKS) for part in content if part["type"] not in THINKING_PARTS]
    return {"role": role, "content": content}


def _text(content: Any, at: str, *, pictures: bool) -> str:
    if not isinstance(content, list):
        return content or ""
    texts: list[str] = []
    for index, part in enumerate(content):
        kind = part["type"]
        if kind in ("text", "refusal"):
            texts.append(str(part.get(kind) or ""))
        elif kind not in THINKING_PARTS and (kind != "image_url" or not pictures):
            where = f"{at}.content[{index}].type"
            raise invalid_value(where, f"Provider 'replicate' does not support content of type '{kind}'.")
    return "\n".join(texts)


def _pictures(messages: Sequence[Message], names: Mapping[str, str]) -> dict[str, Any]:
    """All images of the conversation, for an input that takes one or a list."""
    urls = [
        part["image_url"]["url"]
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part["type"] == "image_url"
        and isinstance(part.get("image_url"), Mapping)
        and isinstance(part["image_url"].get("url"), str)
    ]
    if not urls:
        return {}
    word = names["image"]
    if word != "image":
        return {word: urls}
    if len(urls) > 1:
        raise invalid_value("messages", "This model takes one image.")
    return {word: urls[0]}
