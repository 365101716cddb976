"""Anthropic's Messages and OpenAI's Responses on loopback; the last user message says how to answer.

think        thinking before, between and after texts, and a call of `get_weather`
stale        refuses reasoning in the history, as providers refuse that of other accounts
overloaded   529 at Messages, and a plain answer elsewhere
refused      a 400
fail         an error event in the middle of a stream
wait         silence in the middle of a stream
cancel       a stream of Responses that is cancelled at the provider, and then silence
search       a search by the provider
big          a last event of 3 MB
other form   a stream where a plain answer was asked for, and the other way round
silent       hidden thinking with pings, longer than the timeouts of the tests
say X        says X
anything else is repeated
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson

from tests.support.dialects import anthropic, responses
from tests.support.dialects.loopback import SSE, Asked, CannedResponse, Server, reply_to, serving, told

REFUSED = "messages.1: something is wrong with https://internal.example/path for sk-upstream-secret-key."
LONG = " ".join(f"word{at}" for at in range(60))
"""More than one sentence of an error."""
BIG = 3_000_000
COUNTED = 4321
"""The tokens of any prompt."""
CHATS_ONLY = "/chats-only"
"""Below this path there are chats alone, as at servers that speak nothing newer."""
PING = anthropic.events({"type": "ping"})


@contextmanager
def native_server() -> Iterator[Server]:
    with serving(_answer) as server:
        yield server


def _answer(asked: Asked) -> CannedResponse:
    path = asked.path.partition("?")[0]
    for end, answer in ANSWERS.items():
        if path.endswith(end) and (end == "/chat/completions" or not path.startswith(CHATS_ONLY)):
            return answer(asked.body)
    return told(404, {"error": {"message": f"no {path}", "type": "invalid_request_error"}})


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in content if "text" in part]
    return str(texts[-1]) if texts else ""


def _streamed(*pieces: bytes | float) -> CannedResponse:
    return CannedResponse(200, pieces, SSE)


# --- Messages ------------------------------------------------------------------------------------------------------


def thoughts() -> list[list[dict[str, Any]]]:
    """The events of blocks in an order that no chat has."""
    return [
        anthropic.thinking(0, "c2lnMQ==", "First", " thought"),
        anthropic.text(1, "Some", " text."),
        anthropic.block(2, anthropic.HIDDEN),
        anthropic.thinking(3, "c2lnMg==", "Second thought"),
        anthropic.called(4, "get_weather", '{"city":', '"Oslo"}'),
    ]


THOUGHTS = [event for block in thoughts() for event in block]
THINKING_STREAM = anthropic.events(anthropic.start(), {"type": "ping"}, *THOUGHTS, *anthropic.end("tool_use"))


def _messages(body: Mapping[str, Any]) -> CannedResponse:
    said = _text(body["messages"][-1]["content"])
    history = orjson.dumps(body["messages"])
    if said == "stale" and b'"signature":' in history:
        message = "messages.1.content.0: Invalid `signature` in `thinking` block"
        return told(400, {"type": "error", "error": {"type": "invalid_request_error", "message": message}})
    if said == "overloaded":
        return told(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    if said == "refused":
        error = {"type": "invalid_request_error", "message": f"{REFUSED} {LONG}"}
        return told(400, {"type": "error", "error": error})
    if bool(body.get("stream")) is not (said == "other form"):
        return _messages_stream(said)
    content: list[dict[str, Any]] = [{"type": "text", "text": reply_to(said), "citations": None}]
    if said == "think":
        tool = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}}
        return CannedResponse(
            200, [anthropic.whole("tool_use", anthropic.THOUGHT, *content, anthropic.HIDDEN, tool)]
        )
    return CannedResponse(200, [anthropic.whole("end_turn", *content)])


def _messages_stream(said: str) -> CannedResponse:
    start = anthropic.events(anthropic.start(), {"type": "ping"})
    text = anthropic.text(0, *([reply_to(said)] if said.startswith("say ") else ["You said: ", said]))
    match said:
        case "think":
            return _streamed(THINKING_STREAM)
        case "fail":
            error = {
                "type": "error",
                "error": {"type": "overloaded_error", "message": "Overloaded at 10.0.0.7"},
            }
            return _streamed(start + anthropic.events(*text[:2]), 0.1, anthropic.events(error))
        case "wait":
            return _streamed(start + anthropic.events(*text[:2]), 30.0)
        case "silent":
            thinking = anthropic.block(0, {"type": "thinking", "thinking": "", "signature": ""})
            pings: list[bytes | float] = [0.4, PING] * 5
            rest = anthropic.events(thinking[-1], *anthropic.text(1, "done"), *anthropic.end("end_turn"))
            return _streamed(start + anthropic.events(thinking[0]), *pings, rest)
    return _streamed(start + anthropic.events(*text, *anthropic.end("end_turn")))


# --- Responses -----------------------------------------------------------------------------------------------------

ITEMS = (
    responses.reasoning("A thought", "gAAAA-one", 0),
    responses.message("Some text.", 1),
    responses.reasoning("Another", "gAAAA-two", 2),
    responses.function_call("get_weather", '{"city": "Oslo"}', 3),
)
REASONING_STREAM = responses.stream(*ITEMS)


def _responses(body: Mapping[str, Any]) -> CannedResponse:
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    said = _text(next(item["content"] for item in reversed(items) if item.get("role") == "user"))
    if said == "stale" and any(item.get("type") == "reasoning" for item in items):
        error = {
            "message": "The encrypted content gAAA... could not be verified.",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_encrypted_content",
        }
        return told(400, {"error": error})
    if said == "refused":
        return told(
            400,
            {"error": {"message": f"{REFUSED} {LONG}", "type": "invalid_request_error", "param": "input"}},
        )
    answer: tuple[Mapping[str, Any], ...] = (responses.message(reply_to(said)),)
    if said == "think":
        answer = ITEMS
    elif said == "search":
        answer = (responses.web_search(0), responses.message("Found.", 1))
    elif said == "big":
        answer = (responses.message("x" * BIG),)
    if not body.get("stream"):
        return CannedResponse(200, [responses.whole(*answer)])
    if said == "fail":
        failed = responses.ended((), "failed", error={"code": "server_error", "message": "Broke at 10.0.0.7"})
        begun = responses.events(*responses.begun(), *responses.pieces(*answer)[:3])
        return _streamed(begun, 0.1, responses.events(failed))
    if said == "cancel":
        begun = responses.events(*responses.begun(), *responses.pieces(*answer)[:3])
        return _streamed(begun, 0.1, responses.events(responses.ended((), "cancelled")), 30.0)
    if said == "wait":
        return _streamed(responses.events(*responses.begun(), *responses.pieces(*answer)[:3]), 30.0)
    return _streamed(responses.stream(*answer))


# --- chats ---------------------------------------------------------------------------------------------------------


def _chat(body: Mapping[str, Any]) -> CannedResponse:
    usage = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}
    head = {"id": "chatcmpl-1", "created": 1_790_000_000, "model": body["model"]}
    text = "From a chat."
    if not body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return told(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    chunks = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    ]
    shown = [orjson.dumps({**head, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
    return _streamed(b"".join(b"data: %s\n\n" % one for one in (*shown, b"[DONE]")))


def _count(body: Mapping[str, Any]) -> CannedResponse:
    if body.keys() & {"max_tokens", "stream", "temperature", "metadata"}:
        return told(400, {"type": "error", "error": {"type": "invalid_request_error", "message": "extra"}})
    if _text(body["messages"][-1]["content"]) == "overloaded":
        return told(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    return told(200, {"input_tokens": COUNTED})


ANSWERS: Mapping[str, Callable[[Mapping[str, Any]], CannedResponse]] = {
    "/messages": _messages,
    "/messages/count_tokens": _count,
    "/responses": _responses,
    "/chat/completions": _chat,
}
