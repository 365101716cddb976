"""The built-in provider `mock`: OpenAI's dialect without a network, with configurable answers and faults.

It gives new users an answer without an API key, and lets operators test failures. The answers are computed here by
pure functions; `upstream.mock_transport` plays them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.snapshot import Mock
from codellama_proxy.core.sse import DONE, encode
from codellama_proxy.openai_format.request import Endpoint, several
from codellama_proxy.providers.mock import logprobs
from codellama_proxy.providers.mock.reply import Call, Reply, call_id, reply_to, text_of
from codellama_proxy.tokens.tokenizers import estimate, of_given

INPUT: Mapping[Endpoint, str] = {
    "chat/completions": "messages",
    "completions": "prompt",
    "embeddings": "input",
}
"""The field that holds the input."""
DIMENSIONS, MAX_DIMENSIONS = 64, 4096
MAX_CHOICES = 2_048
"""`n` for each prompt; more are refused, as is what has more than `MAX_NUMBERS`."""
MAX_NUMBERS = 500_000
"""Numbers in the vectors of an answer."""


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
        if len(_given(request)) * _dimensions(request) > MAX_NUMBERS:
            return _error(400, "The mock refuses inputs and dimensions that make so many numbers.")
        return _whole(mock, mock.first_token_delay, _embeddings(request))
    if len(_indexes(request)) > MAX_CHOICES:
        return _error(400, f"The mock gives at most {MAX_CHOICES} choices.")
    reply = reply_to(request, mock, len(_indexes(request)))
    cut = _is_cut(reply, mock)
    sent = reply.tokens[: mock.cut_after_tokens] if cut else reply.tokens
    usage = _usage(request, reply.tokens)
    seed = b"" if reply.call is None else hashlib.sha256(body).digest()
    if request.get("stream"):
        pieces = tuple(_stream(request, reply, sent, usage, mock, seed))
        return Script(200, {"content-type": "text/event-stream"}, pieces, cut)
    pause = mock.first_token_delay + (len(sent) / mock.tokens_per_second if mock.tokens_per_second else 0.0)
    return _whole(mock, pause, _completion(request, reply, sent, usage, seed), cut=cut)


def _is_cut(reply: Reply, mock: Mock) -> bool:
    return mock.cut_after_tokens is not None and mock.cut_after_tokens < len(reply.tokens)


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
    found = _error(status, f"The mock was told to answer {status}.", mock.first_token_delay)
    if mock.retry_after is None:
        return found
    return found._replace(headers={**found.headers, "retry-after": f"{mock.retry_after:g}"})


def _error(status: int, message: str, pause: float = 0.0) -> Script:
    error = {"message": message, "type": "mock", "param": None, "code": None}
    body = orjson.dumps({"error": error})
    return Script(status, {"content-type": "application/json"}, ((pause, body),))


def _given(request: Mapping[str, Any]) -> list[Any]:
    return several(request.get("prompt", request.get("input")))


def _usage(request: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, int]:
    completion = len(tokens) * len(_indexes(request))
    if "messages" in request:
        prompt = sum(estimate(text_of(message)) + 3 for message in request["messages"]) + 3
    else:
        prompt = of_given(_given(request), estimate)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _completion(
    request: Mapping[str, Any], reply: Reply, sent: Sequence[str], usage: Mapping[str, int], seed: bytes
) -> dict[str, Any]:
    chats = "messages" in request
    text = "".join(sent)
    scores = logprobs.logprobs(request, sent) if logprobs.wanted(request) and reply.call is None else None
    choices: list[dict[str, Any]] = []
    for index in _indexes(request):
        content = (
            {"message": {"role": "assistant", **_content(reply, text, seed, index)}}
            if chats
            else {"text": text}
        )
        choice: dict[str, Any] = {"index": index, **content, "finish_reason": reply.finish}
        if logprobs.wanted(request):
            choice["logprobs"] = scores
        choices.append(choice)
    kind = "chat.completion" if chats else "text_completion"
    return {"object": kind, "model": request["model"], "choices": choices, "usage": usage}


def _content(reply: Reply, text: str, seed: bytes, index: int) -> dict[str, Any]:
    """The fields of a message with this text, or with these arguments of a call."""
    call = reply.call
    if call is None:
        return {"content": text}
    if call.kind == "legacy":
        return {"content": None, "function_call": {"name": call.name, "arguments": text}}
    field = "input" if call.kind == "custom" else "arguments"
    made = {"id": call_id(seed, index), "type": call.kind, call.kind: {"name": call.name, field: text}}
    return {"content": None, "tool_calls": [made]}


def _indexes(request: Mapping[str, Any]) -> range:
    prompts = 1 if "messages" in request else len(_given(request))
    return range(int(request.get("n") or 1) * prompts)


def _embeddings(request: Mapping[str, Any]) -> dict[str, Any]:
    """Unit vectors that are equal only for equal inputs."""
    given = _given(request)
    size = _dimensions(request)
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(orjson.dumps(one), size)}
        for index, one in enumerate(given)
    ]
    tokens = of_given(given, estimate)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request["model"], "usage": usage}


def _dimensions(request: Mapping[str, Any]) -> int:
    return min(request.get("dimensions") or DIMENSIONS, MAX_DIMENSIONS)


def _vector(seed: bytes, size: int) -> list[float]:
    raw = hashlib.shake_128(seed).digest(size)
    length = math.hypot(*(byte - 127.5 for byte in raw))
    return [(byte - 127.5) / length for byte in raw]


def _stream(
    request: Mapping[str, Any],
    reply: Reply,
    sent: Sequence[str],
    usage: Mapping[str, int],
    mock: Mock,
    seed: bytes,
) -> Iterator[tuple[float, bytes]]:
    """The chunks of a stream. Those of an answer that is cut lack the end."""
    chats = "messages" in request
    kind = "chat.completion.chunk" if chats else "text_completion"
    scored = logprobs.wanted(request) and reply.call is None

    def chunk(content: Callable[[int], Mapping[str, Any]], finish: str | None = None, **more: Any) -> bytes:
        choices = [
            {"index": index, **content(index), **more, "finish_reason": finish} for index in _indexes(request)
        ]
        return encode(orjson.dumps({"object": kind, "model": request["model"], "choices": choices}))

    def piece(text: str) -> Callable[[int], Mapping[str, Any]]:
        fixed = {"delta": _delta(reply.call, text)} if chats else {"text": text}
        return lambda _: fixed

    def first(index: int) -> Mapping[str, Any]:
        if not chats:
            return {"text": ""}
        content = _content(reply, "", seed, index)
        calls = [{"index": 0, **one} for one in content.pop("tool_calls", ())]
        return {"delta": {"role": "assistant", **content, **({"tool_calls": calls} if calls else {})}}

    pause = 1 / mock.tokens_per_second if mock.tokens_per_second else 0.0
    yield mock.first_token_delay, chunk(first)
    offset = 0
    for token in sent:
        more: dict[str, Any] = {"logprobs": logprobs.logprobs(request, [token], offset)} if scored else {}
        offset += len(token)
        yield pause, chunk(piece(token), **more)
    if _is_cut(reply, mock):
        return
    last = {"object": kind, "model": request["model"], "choices": [], "usage": usage}
    end: Mapping[str, Any] = {"delta": {}} if chats else {"text": ""}
    yield 0.0, chunk(lambda _: end, reply.finish) + encode(orjson.dumps(last)) + encode(DONE)


def _delta(call: Call | None, text: str) -> dict[str, Any]:
    if call is None:
        return {"content": text}
    if call.kind == "legacy":
        return {"function_call": {"arguments": text}}
    field = "input" if call.kind == "custom" else "arguments"
    return {"tool_calls": [{"index": 0, call.kind: {field: text}}]}
