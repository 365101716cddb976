"""Cohere's v2 embed API: pure functions on values."""

from __future__ import annotations

from typing import Any

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Event, HttpRequest
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.request import InferenceRequest, several
from codellama_proxy.openai_format.usage import usage_in
from codellama_proxy.providers.cohere.request import BASE_URL
from codellama_proxy.providers.common.identity import bearer_headers
from codellama_proxy.providers.common.json_reading import count_at, dig, failure_in_band, load_object
from codellama_proxy.providers.openai.embeddings import parse_stream, texts_of, vectored

__all__ = ["parse_response", "parse_stream", "to_request"]

OWN = ("input_type", "truncate", "priority")
"""Cohere's parameters that OpenAI does not have."""
INPUT_TYPE = "search_document"
"""Cohere requires the purpose of the vectors; this is the most common one."""


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """The HTTP request for `chat`. Raises `ProxyError` unsupported_parameter."""
    texts = texts_of(chat, deployment)
    body: dict[str, Any] = {
        "model": deployment.model,
        "texts": [texts] if isinstance(texts, str) else texts,
        "input_type": INPUT_TYPE,
        "embedding_types": ["float"],
        **{name: chat.params[name] for name in OWN if name in chat.params},
    }
    if "dimensions" in chat.params:
        body["output_dimension"] = chat.params["dimensions"]
    headers = {"content-type": "application/json", **bearer_headers(deployment)}
    url = (deployment.base_url or BASE_URL).rstrip("/") + "/embed"
    return HttpRequest(url, headers, orjson.dumps(body))


def parse_response(body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
    """All vectors as one event. Raises `AttemptError` if a 200 is not an answer."""
    found = load_object(body)
    vectors = dig(found, "embeddings", "float")
    if not isinstance(vectors, list) or len(vectors) != len(several(chat.given)):
        if "message" in found or found.get("error"):
            raise AttemptError(failure_in_band(body, found))
        raise AttemptError(failures.disguised("no_data", status=200))
    as_base64 = chat.params.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": place, "embedding": vectored(vector, as_base64=as_base64)}
        for place, vector in enumerate(vectors)
    ]
    shown: dict[str, Any] = {"object": "list", "data": data, "model": deployment.model}
    tokens = count_at(found, "meta", "billed_units", "input_tokens")
    if tokens is not None:
        shown["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Event(orjson.dumps(shown), content=True, usage=usage_in(shown), model=deployment.model)
