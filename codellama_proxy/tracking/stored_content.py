"""What the database keeps of a request's words, where the configuration says so."""

from __future__ import annotations

import orjson

from codellama_proxy.request.context import RequestContext
from codellama_proxy.request.transcript import MOST_BYTES


def kept(trace: RequestContext) -> str:
    """JSON with the prompt as it was sent last and the answer as far as it came; what is too large is left out."""
    chat = trace.sent or trace.chat
    assert chat is not None
    fits = chat.size <= MOST_BYTES
    content = {
        "messages": chat.messages if fits and chat.endpoint == "chat/completions" else None,
        **{name: chat.params[name] for name in ("prompt", "suffix", "input") if fits and name in chat.params},
        "tools": chat.params.get("tools") if fits else None,
        "choices": trace.transcript.choices() if trace.transcript else [],
        "cut": not fits or (trace.transcript is not None and trace.transcript.cut),
    }
    return orjson.dumps({name: value for name, value in content.items() if value is not None}).decode()
