"""Conversations of only texts take shorter ways, to the same result as any other conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.messages.request import parse as parse_messages
from codellama_proxy.inbound.registry import DIALECTS
from codellama_proxy.inbound.responses.request import parse_responses
from codellama_proxy.openai_format.completion import event_of
from codellama_proxy.openai_format.request import InferenceRequest, parse_chat
from codellama_proxy.openai_format.texts import Texts, texts_of
from codellama_proxy.policy.guardrail import apply_guardrail
from codellama_proxy.pricing.extras import beyond_text
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import deployment

ROLES = st.sampled_from(["user", "assistant", "system", "user", "developer"])
HELLO = {"role": "user", "content": "Hello."}
WORDS = st.sampled_from(["Hello.", "", " ", "x-anthropic-billing-header: cc_version=1.0;", "ü\n"])
CONVERSATIONS = st.lists(
    st.builds(lambda role, content: {"role": role, "content": content}, ROLES, WORDS), max_size=4
)


def outcome(parse: Callable[..., InferenceRequest], body: Any) -> Any:
    """The messages, or the code and the parameter of the refusal."""
    try:
        return list(parse(orjson.dumps(body), dict, "req_1", 0).messages)
    except ProxyError as error:
        return error.code, error.param


def in_blocks(messages: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [{**one, "content": [{"type": kind, "text": one["content"]}]} for one in messages]


@given(CONVERSATIONS, st.none() | WORDS)
@settings(max_examples=300)
def test_texts_of_the_messages_api_are_those_of_blocks(messages: list[Any], system: str | None) -> None:
    one = {"model": "m", "max_tokens": 9, "messages": messages, "system": system}
    other = {**one, "messages": in_blocks(messages, "text")}
    if system is not None:
        other["system"] = [{"type": "text", "text": system}]
    assert outcome(parse_messages, one) == outcome(parse_messages, other)


@given(CONVERSATIONS, st.none() | WORDS)
@settings(max_examples=300)
def test_texts_of_the_responses_api_are_those_of_parts(messages: list[Any], instructions: str | None) -> None:
    one = {"model": "m", "input": messages, "instructions": instructions}
    other = {**one, "input": in_blocks(messages, "input_text")}
    assert outcome(parse_responses, one) == outcome(parse_responses, other)


@given(CONVERSATIONS, st.sampled_from(["", "Only code."]), st.sampled_from(["keep", "drop"]))
def test_the_guardrail_is_the_same_before_texts(messages: list[Any], text: str, policy: str) -> None:
    found = texts_of(messages)
    assert (found is None) == any(one["role"] == "developer" for one in messages)
    if found is not None:
        guarded = apply_guardrail(found, text, policy)
        assert guarded == apply_guardrail(messages, text, policy)
        assert guarded == texts_of(list(guarded))


@given(
    st.lists(st.tuples(ROLES, WORDS), min_size=1, max_size=4),
    st.sampled_from(sorted(ADAPTERS)),
    st.sampled_from(["chat", "messages", "responses"]),
    st.sampled_from([None, 2000]),
)
@settings(max_examples=500, deadline=None)
def test_every_provider_gets_texts_as_any_messages(
    turns: list[tuple[str, str]], provider: str, dialect: Any, window: int | None
) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    request = parse_chat(orjson.dumps({"model": "m", "messages": messages, "max_tokens": 5000}), "req_1")
    request = request._replace(dialect=dialect, soft=frozenset({"max_tokens"}))
    to = deployment(provider=provider, base_url="https://a.example/v1", context_window=window)
    assert not (type(request.messages) is Texts and beyond_text(messages))

    def sent(found: InferenceRequest) -> Any:
        try:
            made = ADAPTERS[provider].to_request(found, to)
        except ProxyError as error:
            return error.code, error.param
        return made._replace(body=b""), orjson.loads(made.body)

    assert sent(request) == sent(request._replace(messages=list(request.messages)))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.just("assistant"),
            "content": st.sampled_from(["Hello.", "", None, [{"type": "text", "text": "Hi."}]]),
            "refusal": st.sampled_from([None, "", "No."]),
            "annotations": st.just([]),
            "reasoning_content": st.sampled_from([None, "Hm."]),
        },
    ),
    st.sampled_from([parse_messages, parse_responses]),
    st.sampled_from(["stop", "length", "content_filter", "tool_calls", None]),
)
def test_an_answer_of_text_alone_is_written_as_one_with_another_field(
    message: dict[str, Any], parse: Any, reason: str | None
) -> None:
    asked = orjson.dumps({"model": "m", "max_tokens": 9, "messages": [HELLO], "input": "Hello."})
    request = parse(asked, dict, "req_1", 0)

    def written(**more: Any) -> Any:
        choice = {"index": 0, "message": {**message, **more}, "finish_reason": reason}
        body = orjson.dumps({"id": "a", "model": "m", "choices": [choice]})
        return DIALECTS[request.dialect].encoder(request, None).whole(event_of(orjson.loads(body), body))

    assert written() == written(other=1)
