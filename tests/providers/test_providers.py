"""The contract of a dialect, whichever it is: what every adapter must make of requests, answers and streams."""

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import chunks, cut, fold, read
from tests.support.dialogues import DIALOGUES, sse
from tests.support.docs_examples import ADDED, SAYING

SPEAKING = {**ADAPTERS, **ADDED}
SAID = {**DIALOGUES, **SAYING}
PROVIDERS = sorted(SAID)
STREAMED = chat(stream=True, include_usage=True)
CASES = [(provider, kind) for provider in PROVIDERS for kind in SAID[provider].answers]


def entry(provider: str, **changes: Any) -> Deployment:
    return deployment("m", provider=provider, **changes)


def test_every_adapter_has_a_reference_conversation() -> None:
    assert DIALOGUES.keys() == ADAPTERS.keys()


# --- requests ------------------------------------------------------------------------------------------------


@each("streamed", [False, True])
@each("provider", PROVIDERS)
def test_the_guardrail_is_in_every_request(provider: str, streamed: bool) -> None:
    asked = chat(
        stream=streamed,
        messages=[
            {"role": "system", "content": "Only code."},
            {"role": "system", "content": "Talk like a pirate."},
            {"role": "user", "content": "hello"},
        ],
    )
    sent = SPEAKING[provider].to_request(asked, entry(provider))
    system = SAID[provider].first_system(orjson.loads(sent.body))
    assert system.startswith("Only code.")


@each("provider", PROVIDERS)
def test_a_request_carries_our_credential_and_the_upstreams_model(provider: str) -> None:
    sent = SPEAKING[provider].to_request(chat(), entry(provider, headers={"x-team": "web"}))
    assert "sk-upstream-secret" in "".join(sent.headers.values())
    assert sent.headers["x-team"] == "web"
    assert sent.headers["content-type"] == "application/json"
    assert all(name == name.lower() for name in sent.headers)
    assert sent.url.startswith("https://m-1.example/v1/")
    assert "m-upstream" in sent.url or orjson.loads(sent.body)["model"] == "m-upstream"
    assert "sk-upstream-secret" not in sent.url + sent.body.decode()


@each("provider", PROVIDERS)
def test_a_request_is_the_same_every_time(provider: str) -> None:
    adapter, asked = SPEAKING[provider], chat(params={"temperature": 0.5, "max_tokens": 5})
    assert adapter.to_request(asked, entry(provider)) == adapter.to_request(asked, entry(provider))
    assert asked == chat(params={"temperature": 0.5, "max_tokens": 5}), "the request itself is left alone"


# --- answers -------------------------------------------------------------------------------------------------


@each(("provider", "kind"), CASES)
def test_streamed_and_plain_answers_have_the_same_content(provider: str, kind: str) -> None:
    answer = SAID[provider].answers[kind]
    event = SPEAKING[provider].parse_response(answer.whole, chat(), entry(provider))
    events, complete = read(SPEAKING[provider], [answer.stream], STREAMED, entry(provider))
    assert complete
    assert fold(events) == orjson.loads(event.body) == event.completion
    assert "".join(e.text for e in events) == event.text == answer.text


@each(("provider", "kind"), CASES)
def test_usage_and_finish_reason_are_reported(provider: str, kind: str) -> None:
    answer = SAID[provider].answers[kind]
    event = SPEAKING[provider].parse_response(answer.whole, chat(), entry(provider))
    events, _ = read(SPEAKING[provider], [answer.stream], STREAMED, entry(provider))
    assert event.usage == SAID[provider].usage
    assert [e.usage for e in events if e.usage][-1] == event.usage
    assert [e.finish_reason for e in events if e.finish_reason] == [event.finish_reason]
    assert {e.model for e in events if e.model} == {event.model}
    assert event.content
    assert not events[0].content, "a role alone is no content: everything may still fall back"
    assert [e.usage_only for e in events].count(True) == 1


@given(case=st.sampled_from(CASES), at=st.lists(st.integers(0, 5000), max_size=30))
def test_any_chunking_gives_the_same_events(case: tuple[str, str], at: list[int]) -> None:
    provider, kind = case
    raw = SAID[provider].answers[kind].stream
    adapter, here = SPEAKING[provider], entry(provider)
    assert read(adapter, cut(raw, at), STREAMED, here) == read(adapter, [raw], STREAMED, here)


@each(("provider", "kind"), CASES)
def test_a_stream_may_come_byte_by_byte(provider: str, kind: str) -> None:
    raw = SAID[provider].answers[kind].stream
    adapter, here = SPEAKING[provider], entry(provider)
    single = [raw[i : i + 1] for i in range(len(raw))]
    assert read(adapter, single, STREAMED, here) == read(adapter, [raw], STREAMED, here)


# --- what is not an answer -----------------------------------------------------------------------------------


@each("provider", PROVIDERS)
@each(
    "body",
    [
        *(b"", b"null", b"[]", b"{}", b'"text"', b"<html>", b"\xff", b"NaN"),
        *(b'{"choices": []}', b'{"choices": [1]}', b'{"choices": {}}', b'{"choices": [{}]}'),
        b'{"error": {"message": "no"}}',
    ],
)
def test_a_200_without_an_answer_is_a_failed_attempt(provider: str, body: bytes) -> None:
    with pytest.raises(AttemptError) as caught:
        SPEAKING[provider].parse_response(body, chat(), entry(provider))
    assert caught.value.failure.cls == "disguised"
    assert caught.value.failure.status == 200


@given(st.sampled_from(CASES), st.integers(1, 5000))
def test_a_truncated_plain_answer_is_a_failed_attempt(case: tuple[str, str], short: int) -> None:
    raw = SAID[case[0]].answers[case[1]].whole
    with pytest.raises(AttemptError):
        SPEAKING[case[0]].parse_response(raw[: -1 - short % len(raw)], chat(), entry(case[0]))


@given(st.sampled_from(CASES), st.integers(0, 5000))
def test_a_truncated_stream_is_never_complete(case: tuple[str, str], at: int) -> None:
    adapter, raw = SPEAKING[case[0]], SAID[case[0]].answers[case[1]].stream
    events, complete = read(adapter, [raw[: at % len(raw)]], STREAMED, entry(case[0]))
    assert not complete or any(event.finish_reason for event in events)


@each("provider", PROVIDERS)
def test_an_error_event_fails_the_attempt_in_every_position(provider: str) -> None:
    for error in SAID[provider].errors:
        for answer in SAID[provider].answers.values():
            begun = answer.stream[: len(answer.stream) // 2].rpartition(b"\n\n")[0] + b"\n\n"
            for raw in (error, begun + error):
                with pytest.raises(AttemptError) as caught:
                    read(SPEAKING[provider], [raw], STREAMED, entry(provider))
                assert caught.value.failure.cls in ("busy", "disguised", "transient"), "by its own status"


BROKEN = [
    *(b"{not json", b'{"choices": [{"index": 0, "delta": {"content": "LOST"}', b"5", b"null", b'"text"'),
    *(
        b"[]",
        b"[1]",
        b"NaN",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\ud83d"}',
        b'{"a": "\\ude00"}',
        b"{}}",
    ),
    *(
        b'{"a": "\x00"}',
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}",
        b"[" * 100_000,
    ),
]


JSON_PIECES = [provider for provider in PROVIDERS if provider != "replicate"]
"""Whose streams are JSON, piece by piece; Replicate's are text."""


@each("broken", BROKEN)
@each("provider", JSON_PIECES)
def test_an_unreadable_chunk_fails_the_attempt(provider: str, broken: bytes) -> None:
    first, rest = SAID[provider].answers["text"].stream.split(b"\n\n", 1)
    with pytest.raises(AttemptError):
        read(SPEAKING[provider], [first + b"\n\n" + sse(broken) + rest], STREAMED, entry(provider))


@each("provider", PROVIDERS)
def test_empty_chunks_are_omitted(provider: str) -> None:
    raw = SAID[provider].answers["text"].stream
    first, rest = raw.split(b"\n\n", 1)
    nothing = b": note\n\ndata\n\ndata: \n\nevent: ping\ndata: now\n\n" + sse({})
    adapter, here = SPEAKING[provider], entry(provider)
    assert read(adapter, [first + b"\n\n" + nothing + rest], STREAMED, here) == read(
        adapter, [raw], STREAMED, here
    )


ERRORS = [
    sse({"error": {"message": "no"}}),
    sse({"error": "no"}),
    sse({"error": ["no"]}),
    sse({"error": True}),
    sse({"error": ""}),
    sse({"object": "error", "message": "engine died", "type": "InternalServerError", "code": 500}),
    sse({"type": "error", "message": "no"}),
    sse({"detail": "no"}),
    sse({"detail": [{"msg": "no"}]}),
    sse({"message": "no", "code": 500}),
    sse({"code": 500, "msg": "no"}),
    sse({"status": "error"}),
    sse({"status": 503}),
    sse({"success": False}),
    sse({"errors": [{"message": "no"}]}),
    sse({"error_code": 336, "error_msg": "no"}),
    sse({"base_resp": {"status_code": 1004, "status_msg": "no"}}),
    sse([{"error": {"code": 503, "message": "no"}}]),
    b"event: error\n" + sse({"message": "no"}),
    b"event: error\n" + sse(b"engine died"),
    b"event: error\n" + sse({}),
    b"event: ERROR\n" + sse(b"[" * 2000),
]


@each("error", ERRORS)
@each("provider", JSON_PIECES)
def test_an_error_of_any_shape_is_recognised_in_every_position(provider: str, error: bytes) -> None:
    first, rest = SAID[provider].answers["text"].stream.split(b"\n\n", 1)
    for begun in (b"", first + b"\n\n"):
        with pytest.raises(AttemptError):
            read(SPEAKING[provider], [begun + error + rest], STREAMED, entry(provider))
    body = (
        error.removeprefix(b"event: error\n").removeprefix(b"event: ERROR\n").removeprefix(b"data: ").strip()
    )
    with pytest.raises(AttemptError):
        SPEAKING[provider].parse_response(body, chat(), entry(provider))


strange = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.sampled_from(["", "x", "stop"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


def mutated_object(**fields: Any) -> Any:
    """An object of these fields, each of them there or not, right or wrong."""
    return strange | st.fixed_dictionaries({}, optional={name: strange | of for name, of in fields.items()})


functions = mutated_object(name=st.just("f"), arguments=st.just("{}"))
calls = mutated_object(id=st.just("c"), index=st.integers(0, 2), function=functions)
messages = mutated_object(
    role=st.just("assistant"),
    content=st.text(max_size=3),
    tool_calls=st.lists(calls, max_size=2),
    function_call=functions,
    reasoning=st.just("hm"),
)
choices = mutated_object(
    index=st.integers(0, 2),
    delta=messages,
    message=messages,
    finish_reason=st.sampled_from(["stop", "error", "eos"]),
    logprobs=mutated_object(tokens=st.just(["a"]), token_logprobs=st.just([0.5])),
)
bodies = mutated_object(
    id=st.just("x"),
    created=st.just(1),
    choices=st.lists(choices, max_size=2),
    usage=mutated_object(prompt_tokens=st.just(1)),
    error=mutated_object(code=st.just(500), message=st.just("no")),
)


@given(st.sampled_from(PROVIDERS), st.lists(bodies, max_size=4))
def test_arbitrary_json_causes_at_most_a_failed_attempt(provider: str, values: list[Any]) -> None:
    adapter, here = SPEAKING[provider], entry(provider)
    with suppress(AttemptError):
        events, _ = read(adapter, [sse(*values, b"[DONE]")], STREAMED, here)
        assert all(isinstance(one, dict) for one in chunks(events))
    for value in values:
        with suppress(AttemptError):
            assert adapter.parse_response(orjson.dumps(value), chat(), here).content
