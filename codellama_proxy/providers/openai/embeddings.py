"""Embeddings in OpenAI's dialect: pure functions on values.

The client gets the requested encoding, floats or base64 (little-endian float32), whichever the upstream returns.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Any, NoReturn

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event, HttpRequest
from codellama_proxy.failures.classify import AttemptError, disguised
from codellama_proxy.openai_format.request import InferenceRequest, several
from codellama_proxy.openai_format.usage import usage_in
from codellama_proxy.providers.common import json_documents as parsing
from codellama_proxy.providers.common.json_reading import (
    failure_in_band,
    is_error,
    load_document,
    model_of,
    wrong,
)
from codellama_proxy.providers.openai.endpoint_urls import address, credential, upstream_model
from codellama_proxy.providers.openai.profiles import OPENAI_PROFILES, profile_of
from codellama_proxy.providers.openai.request import filter_params
from codellama_proxy.providers.openai.response import fix_indexes, fix_usage

PROVIDERS = OPENAI_PROFILES.keys() - {"groq", "deepseek", "perplexity", "cerebras", "bedrock"}
"""Providers of this dialect with embeddings."""
TAKE_IDS = frozenset({"openai", "azure", "vllm", "llamacpp", "fireworks", "openai_compatible", "mock"})
"""Providers that accept token ids."""
ONLY_FLOATS = frozenset({"together", "gemini", "huggingface"})
"""Providers without `encoding_format`."""


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """The HTTP request for `chat`. Raises `ProxyError` unsupported_parameter."""
    dialect = profile_of(deployment)
    params, dropped = filter_params(dict(chat.params), deployment, dialect)
    if deployment.provider not in TAKE_IDS:
        params["input"] = texts_of(chat, deployment)
    if deployment.provider in ONLY_FLOATS:
        params.pop("encoding_format", None)
    return HttpRequest(
        address(deployment, dialect, "/embeddings"),
        {
            "content-type": "application/json",
            **dialect.headers,
            **deployment.headers,
            **credential(deployment, dialect),
        },
        orjson.dumps({"model": upstream_model(deployment), **params}, default=dict),
        dropped=tuple(dropped),
    )


def has_ids(chat: InferenceRequest) -> bool:
    """Whether there are token ids in the input."""
    return not all(isinstance(one, str) for one in several(chat.given))


def texts_of(chat: InferenceRequest, deployment: Deployment) -> str | Sequence[str]:
    """The input as text. Raises `ProxyError` for token ids that could not be decoded."""
    if not has_ids(chat):
        found: str | Sequence[str] = chat.given
        return found
    if chat.texts is None:
        message = f"Provider '{deployment.provider}' takes text, not token ids."
        raise ProxyError("unsupported_parameter", message, param="input")
    return chat.texts


def parse_response(body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
    """All vectors as one event. Raises `AttemptError` if a 200 is not an answer."""
    body, found = load_document(body, parsing.loads)  # embeddings are large
    data = found.get("data")
    if not isinstance(data, list) and is_error(found):
        raise AttemptError(failure_in_band(body, found))
    if not isinstance(data, list) or len(data) != len(several(chat.given)):
        wrong("no_data")
    if not all(isinstance(one, dict) for one in data):
        wrong("no_embedding")
    usage = usage_in(found)
    changed = fix_indexes(data) | fix_usage(found) | (found.get("object") != "list")
    found["object"] = "list"
    for one in data:
        changed |= _fix(one, chat)
    return Event(
        body=orjson.dumps(found) if changed else body, content=True, usage=usage, model=model_of(found)
    )


def _fix(one: dict[str, Any], chat: InferenceRequest) -> bool:
    """Converts one vector to the requested encoding; returns whether it was changed."""
    vector = one.get("embedding")
    encoded = vectored(vector, as_base64=chat.params.get("encoding_format") == "base64")
    if one.get("object") == "embedding" and encoded is vector:
        return False
    one |= {"object": "embedding", "embedding": encoded}
    return True


def vectored(vector: Any, *, as_base64: bool) -> list[float] | str:
    """The vector in the requested encoding. Raises `AttemptError` if it is invalid."""
    try:
        match vector:
            case [_, *_] if _NUMBERS.issuperset(map(type, vector)):
                packed = struct.pack(f"<{len(vector)}f", *vector) if as_base64 else b""
                return base64.b64encode(packed).decode() if as_base64 else vector
            case str() if vector:
                found = floats(vector)
                return vector if as_base64 else found
    except (struct.error, OverflowError, binascii.Error, ValueError):
        pass
    raise AttemptError(disguised("no_embedding", status=200))


_NUMBERS = frozenset({int, float})


def floats(encoded: str) -> list[float]:
    """Raises `ValueError` or `struct.error`."""
    raw = base64.b64decode(encoded, validate=True)
    found = list(struct.unpack(f"<{len(raw) // 4}f", raw))
    if not all(map(math.isfinite, found)):
        raise ValueError("not finite")
    return found


def parse_stream(state: Any, frame: Frame, chat: InferenceRequest, deployment: Deployment) -> NoReturn:
    """Embeddings are never streamed."""
    raise AttemptError(disguised("a_stream", status=200))
