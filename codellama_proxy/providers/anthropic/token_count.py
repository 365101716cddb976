"""Counts the tokens of a prompt at Anthropic, which is free. (docs.anthropic.com/en/api/messages-count-tokens)"""

from __future__ import annotations

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.anthropic import relay

FIELDS = frozenset(
    {
        *("model", "messages", "system", "tools", "tool_choice", "thinking", "output_config"),
        *("context_management", "cache_control"),
    }
)
"""What this endpoint accepts of a request."""


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """The HTTP request for the native form of `chat`."""
    sent = relay.to_request(chat, deployment)
    body = {name: value for name, value in orjson.loads(sent.body).items() if name in FIELDS}
    url, mark, query = sent.url.partition("?")
    return sent._replace(url=f"{url}/count_tokens{mark}{query}", body=orjson.dumps(body))


def parse_response(body: bytes) -> int | None:
    """The tokens; `None` if the body has none."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    tokens = found.get("input_tokens") if isinstance(found, dict) else None
    return tokens if type(tokens) is int and tokens > 0 else None
