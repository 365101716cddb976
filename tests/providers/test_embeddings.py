"""Embeddings: the form the client asked for, whichever form the upstream answers in."""

import base64
import math
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Usage
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.cohere import embeddings as cohere_embed
from codellama_proxy.providers.openai import embeddings
from codellama_proxy.providers.openai.embeddings import PROVIDERS, TAKE_IDS, floats, vectored
from tests.support.builders import chat, deployment
from tests.support.cases import each

VECTORS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20)
PLAIN = deployment()


def ask(given: Any = "hello", **params: Any) -> InferenceRequest:
    texts = params.pop("texts", None)
    return chat(endpoint="embeddings", messages=(), params={"input": given, **params}, texts=texts)


def encoded(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def entry(provider: str, **more: Any) -> Deployment:
    return deployment(provider=provider, **{"base_url": "https://x.example/v1", **more})


def body(provider: str, asked: InferenceRequest, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(embeddings.to_request(asked, entry(provider, **more)).body)
    return found


# --- vectors -------------------------------------------------------------------------------------------------


@given(VECTORS)
def test_both_encodings_have_the_same_numbers(vector: list[float]) -> None:
    text = vectored(vector, as_base64=True)
    assert text == encoded(vector)
    assert vectored(text, as_base64=False) == vector == floats(encoded(vector))
    assert vectored(text, as_base64=True) is text
    assert vectored(vector, as_base64=False) is vector


@each("vector", [None, [], "", 5, {}, ["x"], [None], "####", "QQ==", "é", [1e300], [[1.0]], "QUJD"])
def test_an_invalid_vector_is_a_failure_if_it_must_be_converted(vector: Any) -> None:
    with pytest.raises(AttemptError) as caught:
        vectored(vector, as_base64=isinstance(vector, list))
    assert caught.value.failure.reason == "no_embedding"


# --- requests ------------------------------------------------------------------------------------------------


@each("provider", sorted(PROVIDERS))
def test_texts_are_sent_unchanged(provider: str) -> None:
    for given_ in ("x", ["x", "y"]):
        found = body(provider, ask(given_, dimensions=8))
        assert (found["input"], found["dimensions"]) == (given_, 8)


@each("provider", sorted(PROVIDERS))
def test_token_ids_are_sent_or_decoded(provider: str) -> None:
    ids = [[1, 2], [3]]
    if provider in TAKE_IDS:
        assert body(provider, ask(ids, texts=["a", "b"]))["input"] == ids
        return
    assert body(provider, ask(ids, texts=["a", "b"]))["input"] == ["a", "b"]
    with pytest.raises(ProxyError) as caught:
        body(provider, ask(ids))
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "input")


def test_the_encoding_is_requested_where_supported() -> None:
    assert body("openai", ask(encoding_format="base64"))["encoding_format"] == "base64"
    assert "encoding_format" not in body("together", ask(encoding_format="base64"))
    assert "user" not in body("mistral", ask(user="u"))


def test_each_provider_has_its_embeddings_url() -> None:
    sent = embeddings.to_request(ask(), entry("openai", base_url=None))
    assert sent.url == "https://api.openai.com/v1/embeddings"
    assert sent.headers["authorization"] == "Bearer sk-upstream-secret"
    azure = embeddings.to_request(ask(), entry("azure", base_url="https://r.openai.azure.com"))
    assert azure.url == "https://r.openai.azure.com/openai/v1/embeddings"


# --- answers -------------------------------------------------------------------------------------------------


def answer(*vectors: Any, **more: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(vectors)]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return {"object": "list", "data": data, "model": "m-2026", "usage": usage, **more}


def shown(found: Any, asked: InferenceRequest) -> dict[str, Any]:
    event = embeddings.parse_response(orjson.dumps(found), asked, PLAIN)
    assert event.content
    made: dict[str, Any] = orjson.loads(event.body)
    return made


def test_an_answer_in_the_requested_encoding_is_relayed_byte_for_byte() -> None:
    for params, vector in (({"encoding_format": "base64"}, encoded([1.0, 2.0])), ({}, [1.0, 2.0])):
        raw = orjson.dumps(answer(vector)) + b"\n"
        event = embeddings.parse_response(raw, ask(**params), PLAIN)
        assert event.body == raw
        assert (event.usage, event.model, event.text) == (Usage(5, 0), "m-2026", "")


def test_an_answer_in_the_other_encoding_is_converted() -> None:
    both = ask(["a", "b"], encoding_format="base64")
    made = shown(answer([1.0, 2.0], encoded([3.0])), both)
    assert [one["embedding"] for one in made["data"]] == [encoded([1.0, 2.0]), encoded([3.0])]
    made = shown(answer(encoded([0.5]), [1.5]), ask(["a", "b"]))
    assert [one["embedding"] for one in made["data"]] == [[0.5], [1.5]]


def test_missing_fields_are_filled_in() -> None:
    made = shown({"data": [{"embedding": [1.0]}]}, ask())
    assert made == {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [1.0]}]}


@each(
    ("found", "reason"),
    [
        ({"error": {"message": "no"}}, "error_in_200"),
        ({"data": []}, "no_data"),
        ({"data": {}}, "no_data"),
        (answer([1.0], [2.0]), "no_data"),
        ({"data": [5]}, "no_embedding"),
        ({"data": [{"embedding": ["x"]}]}, "no_embedding"),
        ({"data": [{"embedding": [1, None]}]}, "no_embedding"),
        ({"data": [{"embedding": {"0": 1}}]}, "no_embedding"),
        ({"data": [{"embedding": "AADAfw=="}]}, "no_embedding"),  # not a number
        ({"data": [{}]}, "no_embedding"),
    ],
)
def test_an_invalid_200_is_a_failed_attempt(found: Any, reason: str) -> None:
    with pytest.raises(AttemptError) as caught:
        shown(found, ask("x"))
    assert (caught.value.failure.cls, caught.value.failure.reason) == ("disguised", reason)


def test_one_text_as_token_ids_is_one_vector() -> None:
    assert len(shown(answer([1.0]), ask([1, 2, 3]))["data"]) == 1


# --- Cohere --------------------------------------------------------------------------------------------------

COHERE = entry("cohere", base_url=None, model="embed-v4.0")


def test_cohere_requests_are_translated() -> None:
    sent = cohere_embed.to_request(ask("x", dimensions=8, encoding_format="base64", user="u"), COHERE)
    assert sent.url == "https://api.cohere.com/v2/embed"
    assert sent.headers["authorization"] == "Bearer sk-upstream-secret"
    assert orjson.loads(sent.body) == {
        "model": "embed-v4.0",
        "texts": ["x"],
        "input_type": "search_document",
        "embedding_types": ["float"],
        "output_dimension": 8,
    }
    query = cohere_embed.to_request(ask([[1]], texts=["a"], input_type="search_query"), COHERE)
    assert orjson.loads(query.body)["input_type"] == "search_query"
    assert orjson.loads(query.body)["texts"] == ["a"]


def test_cohere_answers_are_translated() -> None:
    meta = {"billed_units": {"input_tokens": 4.0}}
    raw = orjson.dumps({"id": "e", "embeddings": {"float": [[1.0], [2.0]]}, "texts": [], "meta": meta})
    event = cohere_embed.parse_response(raw, ask(["a", "b"], encoding_format="base64"), COHERE)
    found = orjson.loads(event.body)
    assert [floats(one["embedding"]) for one in found["data"]] == [[1.0], [2.0]]
    assert (found["object"], found["model"]) == ("list", "embed-v4.0")
    assert found["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert event.usage == Usage(4, 0)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"message": "no"}, "error_in_200"),
        ({"embeddings": {"float": []}}, "no_data"),
        ({"embeddings": [[1.0]]}, "no_data"),
        ({"embeddings": {"float": [5]}}, "no_embedding"),
    ],
)
def test_an_invalid_cohere_answer_is_a_failure(found: Any, reason: str) -> None:
    with pytest.raises(AttemptError) as caught:
        cohere_embed.parse_response(orjson.dumps(found), ask(), COHERE)
    assert caught.value.failure.reason == reason


def test_numbers_survive_the_round_trip_exactly() -> None:
    assert math.isclose(floats(encoded([0.1]))[0], 0.1, rel_tol=1e-7)
