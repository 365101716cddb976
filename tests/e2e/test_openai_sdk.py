"""The real OpenAI SDK against the real server: what its users call, and the exceptions they catch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.support.openai_client import openai_error, sdk
from tests.support.processes import LOOPBACK
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

if TYPE_CHECKING:
    from openai import OpenAI

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
SAY_HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            model("plain"),
            model("meta/llama"),
            model("reasoning", "reasoning"),
            model("refusing", "refuse"),
            model("tooling", "tools"),
            model("legacy", "function"),
            model("jsonic", "json"),
            model("rejecting", "status=400;message=Temperature is too hot."),
            model("too-long", "status=400;code=context_length_exceeded"),
            model("unpaid", "status=401"),
            model("absent", "status=404"),
            model("busy", "status=429;retry_after=7"),
            model("down", "status=503"),
            model("cut", "cut=3"),
            model("embedding", mode="embedding"),
            model("fim", "say=middle", mode="completion"),
            {"name": "keyless", "provider": "openai", "api_key": "${NOBODY_SETS_THIS}"},
        )
    )


@pytest.fixture
def calls() -> list[httpx2.Request]:
    """Every HTTP request the SDK makes: it must not repeat what we said not to repeat."""
    return []


@pytest.fixture
def client(served: Proxy, calls: list[httpx2.Request]) -> Iterator[OpenAI]:
    http = httpx2.Client(**LOOPBACK, event_hooks={"request": [calls.append]})
    with sdk().OpenAI(base_url=served.url + "/v1", api_key=served.key, http_client=http, timeout=20) as one:
        yield one


def test_a_completion_has_its_usage(client: OpenAI, upstream: Upstream) -> None:
    answer = client.chat.completions.create(model="plain", messages=SAY_HI)
    assert answer.choices[0].message.content == " ".join(f"plain-{i}" for i in range(8))
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == "plain/ok"
    assert answer.usage is not None
    assert [answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens] == [
        upstream.journal.usages()[0][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    ]
    assert answer._request_id


def test_the_base_url_works_without_v1(served: Proxy) -> None:
    http = httpx2.Client(**LOOPBACK)
    with sdk().OpenAI(base_url=served.url, api_key=served.key, http_client=http) as client:
        assert client.chat.completions.create(model="plain", messages=SAY_HI).choices


def test_a_stream_has_several_chunks(client: OpenAI) -> None:
    pieces = []
    with client.chat.completions.create(model="plain", messages=SAY_HI, stream=True) as stream:
        for chunk in stream:
            assert chunk.choices, "a usage chunk nobody asked for"
            pieces.append(chunk.choices[0].delta.content or "")
            last = chunk
    assert "".join(pieces) == " ".join(f"plain-{i}" for i in range(8))
    assert last.choices[0].finish_reason == "stop"
    assert len([piece for piece in pieces if piece]) == 8


def test_a_stream_has_usage_on_request(client: OpenAI, upstream: Upstream) -> None:
    stream = client.chat.completions.create(
        model="plain", messages=SAY_HI, stream=True, stream_options={"include_usage": True}
    )
    *_, last = list(stream)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.to_dict() == upstream.journal.usages()[0]


def test_the_stream_helper_builds_the_whole_answer(client: OpenAI) -> None:
    with client.chat.completions.stream(model="plain", messages=SAY_HI) as stream:
        whole = stream.get_final_completion()
    assert whole.choices[0].message.content == " ".join(f"plain-{i}" for i in range(8))


def test_the_async_client_works_for_both_forms(served: Proxy) -> None:
    async def talk() -> tuple[str | None, str]:
        http = httpx2.AsyncClient(**LOOPBACK)
        async with sdk().AsyncOpenAI(
            base_url=served.url + "/v1", api_key=served.key, http_client=http
        ) as client:
            whole, stream = await asyncio.gather(
                client.chat.completions.create(model="plain", messages=SAY_HI),
                client.chat.completions.create(model="plain", messages=SAY_HI, stream=True),
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = asyncio.run(talk())
    assert whole == streamed == " ".join(f"plain-{i}" for i in range(8))


def test_tools_are_sent_and_calls_returned(client: OpenAI, upstream: Upstream) -> None:
    answer = client.chat.completions.create(
        model="tooling", messages=SAY_HI, tools=[WEATHER, TIME], tool_choice="auto", parallel_tool_calls=True
    )
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls is not None
    assert [call.function.name for call in message.tool_calls] == ["get_weather", "get_time"]
    assert [json.loads(call.function.arguments)["call"] for call in message.tool_calls] == [0, 1]
    assert upstream.journal.bodies()[0]["tools"] == [WEATHER, TIME]


def test_a_tool_conversation_is_sent_unchanged(client: OpenAI, upstream: Upstream) -> None:
    first = client.chat.completions.create(model="tooling", messages=SAY_HI, tools=[WEATHER])
    call = first.choices[0].message
    assert call.tool_calls is not None
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "rain"}
    history = [*SAY_HI, call.to_dict(), result]
    client.chat.completions.create(model="plain", messages=history)
    assert upstream.journal.bodies("plain")[0]["messages"][1:] == history


def test_streamed_tool_calls_are_assembled(client: OpenAI) -> None:
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    stream = client.chat.completions.create(
        model="tooling", messages=SAY_HI, tools=[WEATHER, TIME], stream=True
    )
    for chunk in stream:
        for part in chunk.choices[0].delta.tool_calls or []:
            if part.function.name:
                names[part.index] = part.function.name
            arguments[part.index] = arguments.get(part.index, "") + (part.function.arguments or "")
        finish = chunk.choices[0].finish_reason
    assert names == {0: "get_weather", 1: "get_time"}
    assert {i: json.loads(text) for i, text in arguments.items()} == {
        i: {"city": "Oslo", "call": i} for i in (0, 1)
    }
    assert finish == "tool_calls"


@pytest.mark.parametrize("streamed", [False, True])
def test_legacy_functions_work(client: OpenAI, streamed: bool) -> None:
    made = client.chat.completions.create(
        model="legacy",
        messages=SAY_HI,
        functions=[WEATHER["function"]],
        function_call="auto",
        stream=streamed,
    )
    if streamed:
        calls = [chunk.choices[0].delta.function_call for chunk in made]
        name = "".join(call.name or "" for call in calls if call)
        arguments = "".join(call.arguments or "" for call in calls if call)
    else:
        call = made.choices[0].message.function_call
        name, arguments = call.name, call.arguments
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Oslo"})


def test_several_choices_are_kept_apart(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="plain", messages=SAY_HI, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(model="plain", messages=SAY_HI, n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]


def test_a_response_format_is_passed_on(client: OpenAI, upstream: Upstream) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    answer = client.chat.completions.create(model="jsonic", messages=SAY_HI, response_format=wanted)
    assert json.loads(answer.choices[0].message.content or "")["answer"] == 42
    assert upstream.journal.bodies()[0]["response_format"] == wanted


def test_every_parameter_reaches_the_upstream_unchanged(client: OpenAI, upstream: Upstream) -> None:
    given = {
        "temperature": 0.25,
        "top_p": 0.5,
        "max_completion_tokens": 50,
        "stop": ["a", "b"],
        "presence_penalty": -1.5,
        "frequency_penalty": 1.5,
        "logit_bias": {"50256": -100},
        "logprobs": True,
        "top_logprobs": 2,
        "seed": 7,
        "user": "someone",
    }
    client.chat.completions.create(model="plain", messages=SAY_HI, **given, extra_body={"top_k": 40})
    sent = upstream.journal.bodies()[0]
    assert {name: sent.get(name) for name in given} == given
    assert sent["top_k"] == 40


@pytest.mark.parametrize("streamed", [False, True])
def test_reasoning_and_refusals_are_returned(client: OpenAI, streamed: bool) -> None:
    def answer_text(model: str, field: str) -> str:
        made = client.chat.completions.create(model=model, messages=SAY_HI, stream=streamed)
        if not streamed:
            return getattr(made.choices[0].message, field)
        return "".join(getattr(chunk.choices[0].delta, field, None) or "" for chunk in made)

    assert answer_text("reasoning", "reasoning_content") == "reasoning-thinks hard"
    assert answer_text("reasoning", "content").startswith("reasoning-0 ")
    assert answer_text("refusing", "refusal") == "I cannot help with that."


def test_the_raw_response_has_the_proxys_headers(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="plain", messages=SAY_HI)
    headers = raw.headers
    assert headers["x-proxy-model"] == "plain"
    assert headers["x-proxy-deployment"] == "plain#1"
    assert headers["x-proxy-attempts"] == "1"
    assert headers["x-proxy-cache"] in ("off", "bypass", "miss")
    assert float(headers["x-proxy-cost-usd"]) > 0
    assert 0 <= float(headers["x-proxy-overhead-ms"]) < 1000
    assert headers["x-proxy-config"]
    assert headers["x-request-id"] == raw.parse()._request_id
    assert not [name for name in headers if name.startswith(("set-cookie", "server"))]


def test_models_are_listed_in_file_order_without_disabled_ones(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[:3] == ["plain", "meta/llama", "reasoning"]
    assert "keyless" not in names
    assert client.models.retrieve("meta/llama").object == "model"
    with pytest.raises(openai_error("NotFoundError")) as caught:
        client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


def test_embeddings_are_returned_in_both_encodings(client: OpenAI) -> None:
    as_base64 = client.embeddings.create(model="embedding", input=["one", "three"])
    as_floats = client.embeddings.create(model="embedding", input=["one", "three"], encoding_format="float")
    assert [one.embedding for one in as_base64.data] == [one.embedding for one in as_floats.data]
    assert as_base64.data[1].embedding[:2] == [1.0, 5.0]
    tokens = client.embeddings.create(model="embedding", input=[[1, 2, 3], [4]], dimensions=8)
    assert [len(one.embedding) for one in tokens.data] == [8, 8]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_completion_fills_in_the_middle(client: OpenAI, upstream: Upstream, streamed: bool) -> None:
    made = client.completions.create(
        model="fim", prompt="def f(", suffix="return x", max_tokens=9, stream=streamed
    )
    text = "".join(chunk.choices[0].text for chunk in made) if streamed else made.choices[0].text
    assert text == "middle"
    sent = upstream.journal.bodies()[0]
    assert (sent["prompt"], sent["suffix"], sent["max_tokens"]) == ("def f(", "return x", 9)


def test_a_chat_only_model_is_not_a_candidate_for_completions(client: OpenAI, upstream: Upstream) -> None:
    with pytest.raises(openai_error("APIStatusError")) as caught:
        client.completions.create(model="plain", prompt="x", suffix="y")
    assert caught.value.status_code in (400, 404)
    assert upstream.journal.requests() == []


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("model", "kind", "code"),
    [
        ("rejecting", "BadRequestError", "upstream_rejected"),
        ("too-long", "BadRequestError", "context_length_exceeded"),
        ("nobody", "NotFoundError", "model_not_found"),
        ("keyless", "NotFoundError", "model_not_found"),
        ("unpaid", "InternalServerError", "upstream_auth_failed"),
        ("absent", "InternalServerError", "upstream_auth_failed"),
        ("down", "InternalServerError", "upstream_error"),
    ],
)
def test_errors_raise_the_sdks_classes_and_are_not_retried(
    client: OpenAI, calls: list[httpx2.Request], model: str, kind: str, code: str, streamed: bool
) -> None:
    with pytest.raises(openai_error(kind)) as caught:
        client.chat.completions.create(model=model, messages=SAY_HI, stream=streamed)
    assert caught.value.code == code
    assert caught.value.request_id
    assert len(calls) == 1


def test_an_upstreams_reason_for_a_rejection_is_shown(client: OpenAI) -> None:
    with pytest.raises(openai_error("BadRequestError"), match="Temperature is too hot"):
        client.chat.completions.create(model="rejecting", messages=SAY_HI)


def test_an_invalid_key_is_an_authentication_error(client: OpenAI, calls: list[httpx2.Request]) -> None:
    with pytest.raises(openai_error("AuthenticationError")) as caught:
        client.with_options(api_key="sk-wrong").chat.completions.create(model="plain", messages=SAY_HI)
    assert caught.value.code == "invalid_api_key"
    assert len(calls) == 1


def test_an_upstream_rate_limit_has_a_retry_after(client: OpenAI) -> None:
    with pytest.raises(openai_error("RateLimitError")) as caught:
        client.with_options(max_retries=0).chat.completions.create(model="busy", messages=SAY_HI)
    assert caught.value.code == "upstream_rate_limited"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 7


def test_a_cut_stream_raises_after_the_received_text(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="cut", messages=SAY_HI, stream=True)
    pieces: list[str] = []
    with pytest.raises(openai_error("APIError")) as caught:
        pieces.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(pieces) == "cut-0 cut-1 cut-2 "
    assert caught.value.code
