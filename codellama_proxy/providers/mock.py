"""The built-in provider `mock`: OpenAI's dialect, answered without a network, well or badly as configured.

It lets a newcomer see an answer before any key is there, and a platform engineer rehearse failures. What it
says is decided here by pure functions; `wire.py` plays the script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from codellama_proxy.sse import DONE, encode
from codellama_proxy.tokens import estimate
from codellama_proxy.types import Mock

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


@dataclass(frozen=True, slots=True)
class Script:
    """An answer as a wire plays it: pieces of the body, each after its delay in seconds."""

    status: int
    headers: Mapping[str, str]
    pieces: tuple[tuple[float, bytes], ...]
    cut: bool = False
    """The connection breaks after the last piece."""


def script(body: bytes, mock: Mock) -> Script:
    """What `mock` answers to a chat request's JSON `body`."""
    request = orjson.loads(body)
    if mock.status is not None and mock.status != 200:
        return _refusal(mock)
    tokens = _tokens(mock.reply if mock.reply is not None else _reply(request))
    cut = mock.cut_after_tokens is not None and mock.cut_after_tokens < len(tokens)
    said = tokens[: mock.cut_after_tokens] if cut else tokens
    usage = _usage(request, tokens)
    if request.get("stream"):
        pieces = tuple(_stream(request, said, usage, mock, cut=cut))
        return Script(200, {"content-type": "text/event-stream"}, pieces, cut)
    pause = mock.first_token_delay + (len(said) / mock.tokens_per_second if mock.tokens_per_second else 0.0)
    answer = orjson.dumps(_completion(request, "".join(said), usage))
    return Script(200, {"content-type": "application/json"}, ((pause, answer[: 20 if cut else None]),), cut)


def _refusal(mock: Mock) -> Script:
    status = mock.status or 500
    error = {"message": f"The mock was told to answer {status}.", "type": "mock", "param": None, "code": None}
    headers = {"content-type": "application/json"}
    if mock.retry_after is not None:
        headers["retry-after"] = f"{mock.retry_after:g}"
    return Script(status, headers, ((mock.first_token_delay, orjson.dumps({"error": error})),))


def _reply(request: Mapping[str, Any]) -> str:
    asked = " ".join(_text(message) for message in request["messages"] if message["role"] == "user").lower()
    return HELLO_WORLD + "\n" + NOT_A_MODEL if "hello" in asked and "world" in asked else NOT_A_MODEL


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""


def _tokens(text: str) -> list[str]:
    """Words with the space that follows them: near enough to tokens for a rehearsal."""
    return re.findall(r"\S+\s*|\s+", text)


def _usage(request: Mapping[str, Any], tokens: list[str]) -> dict[str, int]:
    prompt = sum(estimate(_text(message)) + 3 for message in request["messages"]) + 3
    completion = len(tokens) * int(request.get("n", 1))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _completion(request: Mapping[str, Any], text: str, usage: Mapping[str, int]) -> dict[str, Any]:
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for index in range(request.get("n", 1))
    ]
    return {"object": "chat.completion", "model": request["model"], "choices": choices, "usage": usage}


def _stream(
    request: Mapping[str, Any], tokens: list[str], usage: Mapping[str, int], mock: Mock, *, cut: bool
) -> Iterator[tuple[float, bytes]]:
    def chunk(delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        choices = [
            {"index": index, "delta": delta, "finish_reason": finish_reason}
            for index in range(request.get("n", 1))
        ]
        body = {"object": "chat.completion.chunk", "model": request["model"], "choices": choices}
        return encode(orjson.dumps(body))

    pause = 1 / mock.tokens_per_second if mock.tokens_per_second else 0.0
    yield mock.first_token_delay, chunk({"role": "assistant", "content": ""})
    for token in tokens:
        yield pause, chunk({"content": token})
    if cut:
        return
    last = {"object": "chat.completion.chunk", "model": request["model"], "choices": [], "usage": usage}
    yield 0.0, chunk({}, "stop") + encode(orjson.dumps(last)) + encode(DONE)
