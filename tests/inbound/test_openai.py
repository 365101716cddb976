"""The requests that are not chats: what is taken, and what is refused by name."""

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.openai import PARSERS
from codellama_proxy.openai_format.parameters import (
    CHAT_PARAMETERS,
    COMPLETION_PARAMETERS,
    EMBEDDING_PARAMETERS,
)
from codellama_proxy.openai_format.request import Endpoint, InferenceRequest, several
from codellama_proxy.policy.guardrail import request_for
from tests.support.builders import deployment
from tests.support.cases import each

OTHERS: list[Endpoint] = ["completions", "embeddings"]
GIVEN = {"completions": "prompt", "embeddings": "input"}
IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4)
FORMS = st.one_of(
    st.text(), st.lists(st.text(), min_size=1, max_size=4), IDS, st.lists(IDS, min_size=1, max_size=3)
)


def parse(endpoint: Endpoint, body: Any) -> InferenceRequest:
    return PARSERS[endpoint](orjson.dumps(body), "req_1", 1_700_000_000)


def refusal(endpoint: Endpoint, body: Any) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        parse(endpoint, body)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("endpoint", OTHERS)
@given(found=FORMS)
def test_text_and_token_ids_are_accepted_alone_and_in_lists(endpoint: Endpoint, found: Any) -> None:
    asked = parse(endpoint, {"model": "m", GIVEN[endpoint]: found, "top_k": 5})
    assert (asked.endpoint, asked.model, asked.messages) == (endpoint, "m", ())
    assert asked.given == found
    assert asked.params == {GIVEN[endpoint]: found, "top_k": 5}
    is_list = isinstance(found, list) and not isinstance(found[0], int)
    assert len(several(found)) == (len(found) if is_list else 1)


@each("endpoint", OTHERS)
@each(
    ("found", "code"),
    [
        (None, "missing_required_parameter"),
        ([], "invalid_value"),
        (5, "invalid_type"),
        ({"text": "x"}, "invalid_type"),
        ([[]], "invalid_type"),
        (["x", 1], "invalid_type"),
        ([1, "x"], "invalid_type"),
        ([1, -1], "invalid_type"),
        ([1, 1.5], "invalid_type"),
        ([1, True], "invalid_type"),
        ([1, 2**31], "invalid_type"),
        ([[1], "x"], "invalid_type"),
        ([[1], [None]], "invalid_type"),
    ],
)
def test_any_other_input_is_refused_by_name(endpoint: Endpoint, found: Any, code: str) -> None:
    error = refusal(endpoint, {GIVEN[endpoint]: found})
    assert (error.code, error.param) == (code, GIVEN[endpoint])


@each(
    ("body", "param"),
    [
        ({"suffix": 1}, "suffix"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"best_of": 0}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"echo": "yes"}, "echo"),
        ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"base_url": "http://x"}, "base_url"),
        ({"model": ""}, "model"),
    ],
)
def test_invalid_completion_fields_are_named(body: dict[str, Any], param: str) -> None:
    assert refusal("completions", {"prompt": "x", **body}).param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "4"}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"encoding_format": 1}, "encoding_format"),
        ({"stream": True}, "stream"),
        ({"user": 5}, "user"),
    ],
)
def test_invalid_embedding_fields_are_named(body: dict[str, Any], param: str) -> None:
    assert refusal("embeddings", {"input": "x", **body}).param == param


@pytest.mark.parametrize(
    ("endpoint", "fields"), [("completions", COMPLETION_PARAMETERS), ("embeddings", EMBEDDING_PARAMETERS)]
)
def test_null_means_absent(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    asked = parse(endpoint, {**dict.fromkeys(fields), GIVEN[endpoint]: "x"})
    assert asked.params == {GIVEN[endpoint]: "x"}
    assert not asked.stream


@pytest.mark.parametrize("endpoint", OTHERS)
@given(
    st.dictionaries(
        st.sampled_from([*COMPLETION_PARAMETERS, *EMBEDDING_PARAMETERS, "x"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**64 - 1)
            | st.floats(allow_nan=False)
            | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=5,
        ),
    )
)
def test_arbitrary_bodies_are_accepted_or_refused_with_a_400(
    endpoint: Endpoint, body: dict[str, Any]
) -> None:
    with contextlib.suppress(ProxyError):  # whose status is 400 for every code a parser has
        asked = PARSERS[endpoint](orjson.dumps(body), "", 0)
        assert asked.n >= 1
        assert asked.max_tokens is None or asked.max_tokens >= 0


def test_the_number_of_completions_is_prompts_times_n() -> None:
    ask = {"prompt": ["a", "b", "c"], "n": 2, "best_of": 4}
    assert parse("completions", ask).n == 12
    assert parse("completions", {"prompt": [1, 2, 3], "n": 2}).n == 2
    assert parse("completions", {"prompt": "x"}).n == 1


def test_embeddings_ignore_max_tokens() -> None:
    assert parse("embeddings", {"input": "x", "max_tokens": 9}).max_tokens is None


def test_completions_and_embeddings_get_no_guardrail_or_chat_params() -> None:
    own = {"tools": [{}], "response_format": {}, "logprobs": True, "temperature": 0.5, "top_k": 4}
    entry = deployment(params=own)
    asked = request_for(parse("completions", {"prompt": "x", "top_k": 9}), entry, "Only code.", "keep", 32)
    assert asked.messages == ()
    assert asked.params == {"prompt": "x", "top_k": 9, "temperature": 0.5, "max_tokens": 32}
    assert set(own) - {"temperature", "top_k"} <= CHAT_PARAMETERS.keys()
