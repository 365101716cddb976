"""What can be read of answers that failed: usage in every dialect's words, texts of bodies cut anywhere."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.types import Failure, Usage
from codellama_proxy.providers.common.cut_answers import is_answer, text_events, texts_in, with_usage
from tests.support.cases import each

ERROR = {"message": "overloaded", "type": "server_error"}
OPENAI = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ANTHROPIC = {"input_tokens": 7, "output_tokens": 3}
COHERE = {
    "billed_units": {"input_tokens": 5, "output_tokens": 3},
    "tokens": {"input_tokens": 7, "output_tokens": 3},
}


@each(
    "reported",
    [
        {"error": ERROR, "usage": OPENAI},
        {"error": {**ERROR, "usage": OPENAI}},
        {"error": ERROR, "x_groq": {"usage": OPENAI}},
        {"type": "error", "error": ERROR, "usage": ANTHROPIC},
        {"type": "error", "error": ERROR, "message": {"usage": ANTHROPIC}},
        {"type": "response.failed", "response": {"error": ERROR, "usage": ANTHROPIC}},
        {"type": "message-end", "delta": {"error": "gone", "finish_reason": "ERROR", "usage": COHERE}},
        {"finish_reason": "ERROR", "usage": COHERE},
        {"status": "failed", "metrics": {"input_token_count": 7, "output_token_count": 3}},
    ],
)
def test_usage_is_found_in_every_dialects_failure(reported: Any) -> None:
    usage = with_usage(Failure("transient"), orjson.dumps(reported)).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 3)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>usage", b'["usage"]', b'{"usage": null}', b'{"usage": [1]}', b'{"metrics": "usage"}'],
)
def test_a_failure_without_usage_has_none(body: bytes) -> None:
    assert with_usage(Failure("transient"), body).usage is None


def test_usage_read_before_a_failure_is_kept() -> None:
    failure = Failure("transient", usage=Usage(1, 2))
    assert with_usage(failure, orjson.dumps({"usage": OPENAI})) is failure


@given(
    st.recursive(
        st.none() | st.integers(0, 2**63) | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "usage",
                        "error",
                        "metrics",
                        "tokens",
                        "delta",
                        "billed_units",
                        "message",
                        "response",
                        "x",
                    ]
                ),
                inner,
            )
        ),
    )
)
def test_arbitrary_error_bodies_are_accepted(reported: Any) -> None:
    with_usage(Failure("transient"), orjson.dumps(reported))


BODIES = {
    "openai": {"choices": [{"message": {"content": 'one "two"', "reasoning_content": "why"}}]},
    "tools": {
        "choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}}]
    },
    "anthropic": {
        "content": [{"type": "thinking", "thinking": "why"}, {"type": "text", "text": "é \U0001f600"}]
    },
    "completion": {"choices": [{"text": "return 1"}]},
}


@pytest.mark.parametrize("name", BODIES)
def test_text_is_found_in_a_truncated_body(name: str) -> None:
    body = orjson.dumps(BODIES[name])
    whole = texts_in(body)
    assert whole
    assert is_answer(body)
    for cut in range(len(body)):
        (event,) = text_events(body[:cut])
        assert len(event.text) <= len(whole)
    assert [len(texts_in(body[:cut])) for cut in (0, len(body))] == [0, len(whole)]


@given(st.text(), st.text())
def test_the_text_of_every_choice_is_found(one: str, other: str) -> None:
    choices = [{"message": {"content": text}} for text in (one, other)]
    assert texts_in(orjson.dumps({"choices": choices})) == one + other


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_accepted(body: bytes) -> None:
    texts_in(body)
    is_answer(b'"choices"' + body)
