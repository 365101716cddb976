"""The prompts and answers that the database stores if `tracking.requests.content` is on."""

from __future__ import annotations

import orjson

from codellama_proxy.request.context import RequestContext
from codellama_proxy.request.transcript import MAX_CONTENT_BYTES


def stored_content(context: RequestContext) -> str:
    """JSON with the prompt as last sent upstream, unless it is too large, and the answer as far as it arrived."""
    request = context.sent or context.request
    assert request is not None
    fits = request.size <= MAX_CONTENT_BYTES
    content = {
        "messages": request.messages if fits and request.endpoint == "chat/completions" else None,
        **{
            name: request.params[name]
            for name in ("prompt", "suffix", "input")
            if fits and name in request.params
        },
        "tools": request.params.get("tools") if fits else None,
        "choices": context.transcript.choices() if context.transcript else [],
        "cut": not fits or (context.transcript is not None and context.transcript.cut),
    }
    return orjson.dumps({name: value for name, value in content.items() if value is not None}).decode()
