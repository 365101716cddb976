"""A completion replayed as a stream says the same; a stream folded is the completion it stood for."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core import sse
from codellama_proxy.core.types import Usage
from codellama_proxy.openai_format.completion import whole_event
from codellama_proxy.openai_format.folding import fold, split
from codellama_proxy.providers.registry import ADAPTERS
from tests.support import client_fold
from tests.support.builders import chat, deployment
from tests.support.dialogues import OPENAI

TEXT = st.text(min_size=1, max_size=60)
CALL = st.fixed_dictionaries(
    {
        "id": st.uuids().map(str),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": TEXT, "arguments": TEXT}),
    }
)
SPOKEN = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": TEXT},
    optional={"reasoning_content": TEXT, "refusal": st.none()},
)
CALLING = st.fixed_dictionaries(
    {
        "role": st.just("assistant"),
        "content": st.none() | TEXT,
        "tool_calls": st.lists(CALL, min_size=1, max_size=3),
    }
)
LOGPROBS = st.fixed_dictionaries({"content": st.lists(st.fixed_dictionaries({"token": TEXT}), min_size=1)})


@st.composite
def completions(draw: st.DrawFn) -> dict[str, Any]:
    messages = draw(st.lists(SPOKEN | CALLING, min_size=1, max_size=3))
    choices = []
    for index, message in enumerate(messages):
        reason = "tool_calls" if "tool_calls" in message else "stop"
        choice = {"index": index, "message": message, "finish_reason": reason}
        if draw(st.booleans()):
            choice["logprobs"] = draw(LOGPROBS)
        choices.append(choice)
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    found: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m",
        "choices": choices,
        **draw(st.fixed_dictionaries({}, optional={"system_fingerprint": TEXT})),
    }
    return {**found, "usage": usage} if draw(st.booleans()) else found


@given(completions())
def test_folding_a_replay_restores_the_completion(completion: dict[str, Any]) -> None:
    assert fold(client_fold.chunks(split(completion))) == completion


@given(completions())
def test_clients_fold_a_replay_to_the_same_completion(completion: dict[str, Any]) -> None:
    """An independent reader of streams, as strict as the strictest client."""
    read = client_fold.fold(split(completion))
    for choice, original in zip(read["choices"], completion["choices"], strict=True):
        wanted = {name: value for name, value in original["message"].items() if value}
        assert {name: value for name, value in choice["message"].items() if value} == wanted
        assert choice["finish_reason"] == original["finish_reason"]
    assert read.get("usage") == completion.get("usage")


@given(completions())
def test_splitting_a_replay_keeps_text_and_usage(completion: dict[str, Any]) -> None:
    events = split(completion)
    assert any(event.content for event in events)
    assert [event.usage_only for event in events].count(True) == ("usage" in completion)
    assert "".join(event.text for event in events) == whole_event(orjson.dumps(completion)).text


def cut_finely(completion: dict[str, Any], data: st.DataObject) -> list[dict[str, Any]]:
    """The same stream with its strings in many pieces."""
    fine: list[dict[str, Any]] = []
    for chunk in client_fold.chunks(split(completion)):
        for choice in chunk["choices"]:
            content = choice["delta"].pop("content", None)
            pieces = [content]
            if content:
                at = data.draw(st.integers(0, len(content)))
                pieces = [content[:at], content[at:]]
            first = {**choice["delta"], "content": pieces[0]} if content is not None else choice["delta"]
            fine.append({**chunk, "choices": [{**choice, "delta": first, "finish_reason": None}]})
            rest = [{"index": choice["index"], "delta": {"content": piece}} for piece in pieces[1:]]
            fine += [{**chunk, "choices": [one]} for one in rest]
            last = {**choice, "delta": {}}
            fine.append({**chunk, "choices": [{n: v for n, v in last.items() if n != "logprobs"}]})
        if not chunk["choices"]:
            fine.append(chunk)
    return fine


@given(completions(), st.data())
def test_folding_does_not_depend_on_chunk_boundaries(completion: dict[str, Any], data: st.DataObject) -> None:
    assert fold(cut_finely(completion, data)) == completion


@pytest.mark.parametrize("kind", sorted(OPENAI.answers))
def test_provider_streams_fold_to_their_plain_answers(kind: str) -> None:
    reference = OPENAI.answers[kind]
    events, complete = client_fold.read(
        ADAPTERS["openai"], [reference.stream], chat(stream=True), deployment()
    )
    assert complete
    found = fold(client_fold.chunks(events))
    whole = orjson.loads(reference.whole)
    for choice, wanted in zip(found["choices"], whole["choices"], strict=True):
        assert choice["message"].get("content") == wanted["message"].get("content")
        assert choice["message"].get("tool_calls") == wanted["message"].get("tool_calls")
        assert choice["finish_reason"] == wanted["finish_reason"]


def test_fields_beside_the_text_of_a_chunk_are_kept() -> None:
    plain = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
    scored = {"delta": {"content": "b"}, "finish_reason": None, "logprobs": {"content": [{"token": "b"}]}}
    last = {"index": 0, "delta": {"content": "c", "refusal": "d"}, "finish_reason": "stop"}
    (choice,) = fold([{"choices": [one]} for one in (plain, plain, scored, last)])["choices"]
    assert choice["message"] == {"role": "assistant", "content": "aabc", "refusal": "d"}
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", {"content": [{"token": "b"}]})


def test_folding_time_is_linear() -> None:
    delta = {"choices": [{"index": 0, "delta": {"content": "x" * 50}}]}
    assert len(fold([delta] * 50_000)["choices"][0]["message"]["content"]) == 2_500_000


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b"3", b"{", b'{"choices": []}', b'{"choices": [3]}', b'{"choices": [{"text": ""}]}'],
)
def test_an_invalid_completion_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        whole_event(body)


def test_a_stored_completion_has_its_usage() -> None:
    event = whole_event(orjson.dumps(orjson.loads(OPENAI.answers["text"].whole)))
    assert isinstance(event.usage, Usage)
    assert event.content
    assert sse.encode(event.body).startswith(b"data: {")
