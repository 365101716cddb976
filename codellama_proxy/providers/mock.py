"""The built-in provider `mock`: OpenAI's dialect without a network, with configurable answers and faults.

It gives new users an answer without an API key, and lets operators test failures. The answers are computed here by
pure functions; `upstream.mock_transport` plays them.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.snapshot import Mock
from codellama_proxy.core.sse import DONE, encode
from codellama_proxy.openai_format.request import Endpoint, several
from codellama_proxy.tokens.tokenizers import estimate, of_given

HELLO_WORLD = """Here is a function that prints "Hello, world!":

```python
def hello_world() -> None:
    print("Hello, world!")
```
"""
NOT_A_MODEL = (
    "I am codellama-proxy's built-in mock model: everything works, but nobody is thinking. "
    "Set a provider's key (for example TOGETHER_API_KEY) and a real model answers here.\n"
)
INPUT: Mapping[Endpoint, str] = {
    "chat/completions": "messages",
    "completions": "prompt",
    "embeddings": "input",
}
"""The field that holds the input."""
DIMENSIONS, MAX_DIMENSIONS = 64, 4096


class Script(NamedTuple):
    """An answer for the mock transport: pieces of the body, each after a delay in seconds."""

    status: int
    headers: Mapping[str, str]
    pieces: tuple[tuple[float, bytes], ...]
    cut: bool = False
    """Whether the connection breaks after the last piece."""


def script(body: bytes, mock: Mock, endpoint: Endpoint = "chat/completions") -> Script:
    """The answer of `mock` to a request's JSON `body` at this endpoint."""
    request = _only_own_input(orjson.loads(body), endpoint)
    if mock.status is not None and mock.status != 200:
        return _refusal(mock)
    if "input" in request:
        return _whole(mock, mock.first_token_delay, _embeddings(request))
    tokens = _tokens(mock.reply if mock.reply is not None else _reply(request))
    cut = mock.cut_after_tokens is not None and mock.cut_after_tokens < len(tokens)
    sent = tokens[: mock.cut_after_tokens] if cut else tokens
    usage = _usage(request, tokens)
    if request.get("stream"):
        pieces = tuple(_stream(request, sent, usage, mock, cut=cut))
        return Script(200, {"content-type": "text/event-stream"}, pieces, cut)
    pause = mock.first_token_delay + (len(sent) / mock.tokens_per_second if mock.tokens_per_second else 0.0)
    return _whole(mock, pause, _completion(request, "".join(sent), usage), cut=cut)


def endpoint_of(path: str) -> Endpoint:
    """The endpoint of a request's URL path."""
    return next((one for one in INPUT if path.endswith(f"/{one}")), "chat/completions")


def _only_own_input(request: dict[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """The request without the input fields of other endpoints, which are not validated."""
    own = INPUT[endpoint]
    return {name: value for name, value in request.items() if name == own or name not in INPUT.values()}


def _whole(mock: Mock, pause: float, answer: Mapping[str, Any], *, cut: bool | None = None) -> Script:
    """A plain answer; embeddings, which have no tokens, are cut if `cut_after_tokens` is set."""
    cut = mock.cut_after_tokens is not None if cut is None else cut
    body = orjson.dumps(answer)
    return Script(200, {"content-type": "application/json"}, ((pause, body[: 20 if cut else None]),), cut)


def _refusal(mock: Mock) -> Script:
    status = mock.status or 500
    error = {"message": f"The mock was told to answer {status}.", "type": "mock", "param": None, "code": None}
    headers = {"content-type": "application/json"}
    if mock.retry_after is not None:
        headers["retry-after"] = f"{mock.retry_after:g}"
    return Script(status, headers, ((mock.first_token_delay, orjson.dumps({"error": error})),))


def _reply(request: Mapping[str, Any]) -> str:
    prompt = " ".join(_texts(request)).lower()
    return HELLO_WORLD + "\n" + NOT_A_MODEL if "hello" in prompt and "world" in prompt else NOT_A_MODEL


def _texts(request: Mapping[str, Any]) -> list[str]:
    """The user's texts in any form; token ids are ignored."""
    if "messages" in request:
        return [_text(message) for message in request["messages"] if message["role"] == "user"]
    return [one if isinstance(one, str) else "" for one in _given(request)]


def _given(request: Mapping[str, Any]) -> list[Any]:
    return several(request.get("prompt", request.get("input")))


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""


def _tokens(text: str) -> list[str]:
    """Words with the space after them, as an approximation of tokens."""
    return re.findall(r"\S+\s*|\s+", text)


def _usage(request: Mapping[str, Any], tokens: list[str]) -> dict[str, int]:
    completion = len(tokens) * len(_indexes(request))
    if "messages" in request:
        prompt = sum(estimate(_text(message)) + 3 for message in request["messages"]) + 3
    else:
        prompt = of_given(_given(request), estimate)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _completion(request: Mapping[str, Any], text: str, usage: Mapping[str, int]) -> dict[str, Any]:
    chats = "messages" in request
    content = {"message": {"role": "assistant", "content": text}} if chats else {"text": text}
    choices = [{"index": index, **content, "finish_reason": "stop"} for index in _indexes(request)]
    kind = "chat.completion" if chats else "text_completion"
    return {"object": kind, "model": request["model"], "choices": choices, "usage": usage}


def _indexes(request: Mapping[str, Any]) -> range:
    prompts = 1 if "messages" in request else len(_given(request))
    return range(int(request.get("n", 1)) * prompts)


def _embeddings(request: Mapping[str, Any]) -> dict[str, Any]:
    """Unit vectors that are equal only for equal inputs."""
    given = _given(request)
    size = min(request.get("dimensions", DIMENSIONS), MAX_DIMENSIONS)
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(orjson.dumps(one), size)}
        for index, one in enumerate(given)
    ]
    tokens = of_given(given, estimate)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request["model"], "usage": usage}


def _vector(seed: bytes, size: int) -> list[float]:
    raw = hashlib.shake_128(seed).digest(size)
    length = math.hypot(*(byte - 127.5 for byte in raw))
    return [(byte - 127.5) / length for byte in raw]


def _stream(
    request: Mapping[str, Any], tokens: list[str], usage: Mapping[str, int], mock: Mock, *, cut: bool
) -> Iterator[tuple[float, bytes]]:
    chats = "messages" in request
    kind = "chat.completion.chunk" if chats else "text_completion"

    def chunk(delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        content = {"delta": delta} if chats else {"text": delta.get("content", "")}
        choices = [{"index": index, **content, "finish_reason": finish_reason} for index in _indexes(request)]
        return encode(orjson.dumps({"object": kind, "model": request["model"], "choices": choices}))

    pause = 1 / mock.tokens_per_second if mock.tokens_per_second else 0.0
    yield mock.first_token_delay, chunk({"role": "assistant", "content": ""})
    for token in tokens:
        yield pause, chunk({"content": token})
    if cut:
        return
    last = {"object": kind, "model": request["model"], "choices": [], "usage": usage}
    yield 0.0, chunk({}, "stop") + encode(orjson.dumps(last)) + encode(DONE)
