"""Whatever an upstream sends instead of an answer, nothing comes of it but an answer in OpenAI's shape or a failure.

Good answers of every dialect are changed at random; what their parser takes must survive being folded, kept and
replayed in the other form, and must be readable by the strictest client in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codellama_proxy.core.types import Event
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.folding import as_stream, as_whole
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.openai import completions as text
from codellama_proxy.providers.registry import ADAPTERS
from codellama_proxy.request.transcript import Transcript
from tests.support.builders import chat, deployment
from tests.support.client_fold import read
from tests.support.dialogues import DIALOGUES, USAGE, sse
from tests.support.docs_examples import ADDED, SAYING
from tests.support.mutations import mutated, mutated_stream

SPEAKING = {**ADAPTERS, **ADDED}
SAID = {**DIALOGUES, **SAYING}
DIFFERENT = ["openai", "anthropic", "cohere", "ai21", "replicate", *ADDED]
"""Each dialect once: what else speaks OpenAI's is read by the same parser."""
CASES = [(provider, kind) for provider in DIFFERENT for kind in SAID[provider].answers]
REASONS = (None, "stop", "length", "tool_calls", "content_filter", "function_call")
FUNCTIONS = {"functions": [{"name": "f"}]}
ASKED = [{}, FUNCTIONS]


def asking(*, stream: bool, **params: Any) -> InferenceRequest:
    return chat(stream=stream, include_usage=stream, params=params)


def check_call(call: Any, *, whole: bool) -> None:
    assert isinstance(call, dict)
    kind = "custom" if "custom" in call else "function"
    words = call[kind]["input" if kind == "custom" else "arguments"]
    assert isinstance(words, str)
    if whole or "id" in call:
        assert isinstance(call["id"], str)
        assert call["id"]
        assert call["type"] == kind
        assert isinstance(call[kind]["name"], str)
        assert call[kind]["name"]


def check_message(message: Any, *, whole: bool) -> None:
    assert isinstance(message, dict)
    if whole or "role" in message:
        assert message["role"] == "assistant"
    for name in ("content", "reasoning_content", "refusal"):
        assert isinstance(message.get(name), str | None)
    calls = message.get("tool_calls")
    assert isinstance(calls, list | None)
    for call in calls or ():
        check_call(call, whole=whole)
        assert whole or type(call["index"]) is int
    indexes = [call["index"] for call in calls or () if not whole]
    assert len(set(indexes)) == len(indexes) or not all("id" in call for call in calls or ())


def check_choice(choice: Any, part: str) -> None:
    assert isinstance(choice, dict)
    assert type(choice["index"]) is int
    assert choice.get("finish_reason") in REASONS
    if part == "text":
        assert isinstance(choice["text"], str)
        return
    check_message(choice[part], whole=part == "message")
    logprobs = choice.get("logprobs")
    assert isinstance(logprobs, dict | None)
    for one in (logprobs or {}).get("content") or ():
        assert isinstance(one, dict)


def check_body(body: bytes, part: str) -> None:
    """What a client gets, as strictly as any of them reads it."""
    assert b"\n" not in body
    found = orjson.loads(body)
    assert isinstance(found["id"], str)
    assert type(found["created"]) is int
    assert isinstance(found.get("model", ""), str)
    kinds = {"message": "chat.completion", "delta": "chat.completion.chunk", "text": "text_completion"}
    assert found["object"] == kinds[part]
    assert isinstance(found["choices"], list)
    for choice in found["choices"]:
        check_choice(choice, part)
    if found.get("usage") is not None:
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert isinstance(found["usage"].get(name), int | None)


def check_stream(events: Sequence[Event], part: str) -> None:
    heads = set()
    for event in events:
        assert isinstance(event.text, str)
        if event.body:
            check_body(event.body, part)
            found = orjson.loads(event.body)
            heads.add((found["id"], found["created"]))
    assert len(heads) <= 1


def check_both_forms(events: Sequence[Event], part: str) -> None:
    """A stream, kept and replayed, and replayed again."""
    check_stream(events, part)
    transcript = Transcript()
    transcript.add(events)
    transcript.choices()
    if not any(event.content for event in events):
        return  # nothing was said: no answer
    whole = as_whole(events)
    assert orjson.loads(whole.body) == whole.completion
    check_body(whole.body, "text" if part == "text" else "message")
    again = as_stream(whole)
    check_stream(again, part)
    once_more = orjson.loads(as_whole(again).body)
    assert once_more["choices"] == orjson.loads(whole.body)["choices"]


@st.composite
def streams(draw: st.DrawFn) -> tuple[str, bytes]:
    provider, kind = draw(st.sampled_from(CASES))
    return provider, draw(mutated_stream(SAID[provider].answers[kind].stream))


@settings(max_examples=150)
@given(streams(), st.sampled_from(ASKED))
def test_a_mutated_stream_is_read_or_fails(case: tuple[str, bytes], params: dict[str, Any]) -> None:
    provider, raw = case
    try:
        events, _ = read(
            SPEAKING[provider], [raw], asking(stream=True, **params), deployment("m", provider=provider)
        )
    except AttemptError:
        return
    check_both_forms(events, "delta")


@st.composite
def wholes(draw: st.DrawFn) -> tuple[str, bytes]:
    provider, kind = draw(st.sampled_from(CASES))
    return provider, draw(mutated(orjson.loads(SAID[provider].answers[kind].whole)))


NO_CALLS = orjson.dumps(
    {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "tool_calls": None},
                "finish_reason": "stop",
            }
        ]
    }
)
"""The form of vLLM for a message without calls."""


@settings(max_examples=150)
@given(wholes(), st.sampled_from(ASKED))
@example(("vllm", NO_CALLS), FUNCTIONS)
def test_a_mutated_plain_answer_is_read_or_fails(case: tuple[str, bytes], params: dict[str, Any]) -> None:
    provider, body = case
    here = deployment("m", provider=provider)
    try:
        event = SPEAKING[provider].parse_response(body, asking(stream=False, **params), here)
    except AttemptError:
        return
    assert orjson.loads(event.body)["choices"]
    assert orjson.loads(event.body) == event.completion
    assert event.finish_reason in REASONS
    events = as_stream(event)
    check_stream(events, "delta")
    assert "".join(one.text for one in events) == event.text or params or not event.text


HEAD = {"id": "c", "object": "text_completion", "created": 1, "model": "x"}
TEXTS = [
    {**HEAD, "choices": [{"index": 0, "text": "a", "logprobs": None, "finish_reason": None}]},
    {**HEAD, "choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]},
    {**HEAD, "choices": [], "usage": USAGE},
]
WHOLE_TEXT = {**HEAD, "choices": [{"index": 0, "text": "ab", "finish_reason": "stop"}], "usage": USAGE}
COMPLETER = deployment("m", provider="vllm", mode="completion")


@settings(max_examples=60)
@given(mutated_stream(sse(*TEXTS, b"[DONE]")))
def test_a_mutated_completion_stream_is_read_or_fails(raw: bytes) -> None:
    try:
        events, _ = read(text, [raw], asking(stream=True), COMPLETER)  # type: ignore[arg-type]  # a module
    except AttemptError:
        return
    check_both_forms(events, "text")


@settings(max_examples=60)
@given(mutated(WHOLE_TEXT))
def test_a_mutated_plain_completion_is_read_or_fails(body: bytes) -> None:
    try:
        event = text.parse_response(body, asking(stream=False), COMPLETER)
    except AttemptError:
        return
    check_body(event.body.replace(b"\n", b""), "text")
    assert orjson.loads(event.body) == event.completion
    check_stream(as_stream(event), "text")
