"""OpenAI's SDK talks through the proxy to servers that speak only Cohere's, AI21's and Replicate's dialects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.dialects import ai21_server, cohere_server, replicate_server
from tests.support.dialects.loopback import Server, serving
from tests.support.openai_client import openai_error, openai_of
from tests.support.processes import until
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config
from tests.support.raw_http import Wire, request

if TYPE_CHECKING:
    from openai import OpenAI

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "get_weather", "description": "The weather of a city.", "parameters": PARAMETERS}
TOOL: Any = {"type": "function", "function": FUNCTION}

MODELS = ["command", "jamba", "llama"]
WITH_TOOLS = ["command", "jamba"]


@pytest.fixture(scope="module")
def predictions() -> replicate_server.Predictions:
    return replicate_server.Predictions()


@pytest.fixture(scope="module")
def servers(predictions: replicate_server.Predictions) -> Iterator[dict[str, Server]]:
    with (
        serving(cohere_server.answer) as cohere,
        serving(ai21_server.answer) as ai21,
        serving(predictions.answer) as replicate,
    ):
        predictions.origin = replicate.url
        yield {"command": cohere, "jamba": ai21, "llama": replicate}
        for one in (cohere, ai21, replicate):
            assert not one.refused, "the proxy sent what the provider refuses"


@pytest.fixture(scope="module")
def served(servers: dict[str, Server], module_proxy: ProxyFactory) -> Proxy:
    def entry(name: str, provider: str, server: str, path: str, key: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "provider": provider,
            "base_url": servers[server].url + path,
            "api_key": key,
            "price": {"input": 3, "output": 15},
            "fallbacks": [],
            **more,
        }

    def replicate(name: str, model: str, **more: Any) -> dict[str, Any]:
        return entry(name, "replicate", "llama", "/v1", replicate_server.KEY, model=model, **more)

    return module_proxy(
        config(
            entry("command", "cohere", "command", "/v2", cohere_server.KEY, model="command-a"),
            entry("jamba", "ai21", "jamba", "/studio/v1", ai21_server.KEY, model="jamba-large"),
            replicate("llama", "meta/meta-llama-3-8b-instruct"),
            replicate("gpt", "openai/gpt-5"),
            replicate("version", f"owner/name:{replicate_server.VERSION}"),
            replicate("hasty", "meta/meta-llama-3-8b-instruct", timeouts={"answer": "3s", "idle": "10s"}),
            replicate("gone", "nobody/nothing"),
            entry("lenient", "cohere", "command", "/v2", cohere_server.KEY, drop_params=True),
            entry("command-locked", "cohere", "command", "/v2", "wrong"),
            entry("jamba-locked", "ai21", "jamba", "/studio/v1", "wrong"),
            entry(
                "llama-locked", "replicate", "llama", "/v1", "wrong", model="meta/meta-llama-3-8b-instruct"
            ),
        )
    )


@pytest.fixture
def client(served: Proxy) -> Iterator[OpenAI]:
    with openai_of(served) as one:
        yield one


def ask(text: str, model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def streamed(client: OpenAI, asked: dict[str, Any]) -> Any:
    with client.chat.completions.stream(**asked) as stream:
        return stream.get_final_completion()


def system_of(body: dict[str, Any]) -> str:
    """Wherever the dialect has it."""
    given = body.get("input", body)
    return str(given.get("system_prompt") or given.get("prompt") or given["messages"][0]["content"])


@pytest.mark.parametrize("model", [*MODELS, "gpt", "version"])
def test_a_completion_has_its_usage(
    client: OpenAI, served: Proxy, servers: dict[str, Server], model: str
) -> None:
    raw = client.chat.completions.with_raw_response.create(**ask("hi", model, temperature=0.2, max_tokens=50))
    answer = raw.parse()
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == "You said: hi"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (20, 7)
    assert system_of(servers.get(model, servers["llama"]).body).startswith(GUARDRAIL)
    row = served.row(raw.headers["x-request-id"])
    assert (row["prompt_tokens"], row["completion_tokens"], row["basis"]) == (20, 7, "exact")
    assert (row["model"], row["upstream_model"]) == (model, answer.model)


@pytest.mark.parametrize("model", [*MODELS, "gpt", "version"])
def test_a_stream_has_several_chunks_and_usage_on_request(client: OpenAI, served: Proxy, model: str) -> None:
    asked = ask("hi", model, stream=True, stream_options={"include_usage": True})
    *chunks, last = list(client.chat.completions.create(**asked))
    assert [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content] == [
        "You said: ",
        "hi",
    ]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in [*chunks, last]}) == 1
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 27
    plain = client.chat.completions.create(**ask("hi", model, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in plain)
    row = served.row(plain.response.headers["x-request-id"])
    assert (row["model"], row["basis"], row["status"]) == (model, "exact", "ok")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", WITH_TOOLS)
def test_a_tool_conversation_round_trips(
    client: OpenAI, servers: dict[str, Server], model: str, streaming: bool
) -> None:
    asked = ask("weather", model, tools=[TOOL])
    answer = streamed(client, asked) if streaming else client.chat.completions.create(**asked)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None or message.content == ""
    [call] = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    assistant_message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call.to_dict(exclude_unset=True)],
    }
    assistant_message["tool_calls"] = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.function.name, "arguments": call.function.arguments},
        }
    ]
    talk = [
        *asked["messages"],
        assistant_message,
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    again = client.chat.completions.create(**{**asked, "messages": talk})
    assert again.choices[0].message.content == "You said: rain"
    assert [one["role"] for one in servers[model].body["messages"]] == ["system", "user", "assistant", "tool"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", WITH_TOOLS)
def test_legacy_functions_are_answered_with_a_function_call(
    client: OpenAI, model: str, streaming: bool
) -> None:
    asked = ask("weather", model, functions=[FUNCTION])
    if streaming:
        choices = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
        calls = [one.delta.function_call for one in choices if one.delta.function_call]
        reason, arguments = choices[-1].finish_reason, "".join(call.arguments or "" for call in calls)
    else:
        choice = client.chat.completions.create(**asked).choices[0]
        assert choice.message.function_call is not None
        reason, arguments = choice.finish_reason, choice.message.function_call.arguments
    assert (reason, json.loads(arguments)) == ("function_call", {"city": "Oslo"})


def test_cohere_reasoning_is_returned(client: OpenAI, servers: dict[str, Server]) -> None:
    asked = ask("think", "command", reasoning_effort="low")
    whole = client.chat.completions.create(**asked).choices[0].message
    assert whole.to_dict()["reasoning_content"] == "Well, hm."
    assert servers["command"].body["thinking"] == {"type": "enabled", "token_budget": 1024}
    deltas = [
        chunk.choices[0].delta.to_dict() for chunk in client.chat.completions.create(**asked, stream=True)
    ]
    assert "".join(str(one.get("reasoning_content", "")) for one in deltas) == "Well, hm."
    assert "".join(str(one.get("content", "")) for one in deltas) == "You said: think"


def test_cohere_supports_schemas_and_tool_choice(client: OpenAI, servers: dict[str, Server]) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}
    client.chat.completions.create(**ask("hi", "command", response_format=form))
    assert servers["command"].body["response_format"] == {"type": "json_object", "json_schema": PARAMETERS}
    other: Any = {"type": "function", "function": {"name": "other"}}
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    client.chat.completions.create(**ask("weather", "command", tools=[TOOL, other], tool_choice=choice))
    assert servers["command"].body["tools"] == [TOOL]
    assert servers["command"].body["tool_choice"] == "REQUIRED"


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        ("command", {"n": 2}),
        ("command", {"logit_bias": {"1": 5}}),
        ("jamba", {"seed": 7}),
        ("jamba", {"tools": [TOOL], "tool_choice": "required"}),
        ("llama", {"tools": [TOOL]}),
        ("llama", {"response_format": {"type": "json_object"}}),
    ],
)
def test_unsupported_parameters_are_refused_by_name(
    client: OpenAI, servers: dict[str, Server], model: str, wrong: dict[str, Any]
) -> None:
    before = len(servers[model].asked)
    with pytest.raises(openai_error("BadRequestError")) as caught:
        client.chat.completions.create(**ask("hi", model, **wrong))
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", list(wrong)[-1])
    assert len(servers[model].asked) == before


def test_unsupported_parameters_are_dropped_and_reported_with_drop_params(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        **ask("hi", "lenient", n=2, logit_bias={"1": 5}, frequency_penalty=0, user="u-1")
    )
    assert raw.headers["x-proxy-dropped-params"].split(",") == ["logit_bias", "n"]


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        ("overflow", "BadRequestError", "context_length_exceeded"),
        ("limited", "RateLimitError", "upstream_rate_limited"),
        ("unwell", "InternalServerError", "upstream_error"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_errors_have_openais_format(
    client: OpenAI,
    model: str,
    text: str,
    error: str,
    code: str,
    streaming: bool,
) -> None:
    with pytest.raises(openai_error(error)) as caught:
        client.chat.completions.create(**ask(text, model), stream=streaming)
    assert caught.value.code == code


def test_a_429_with_quota_wording_is_an_ordinary_429(client: OpenAI) -> None:
    with pytest.raises(openai_error("RateLimitError")) as caught:
        client.chat.completions.create(**ask("spent", "lenient"))
    assert caught.value.code == "upstream_rate_limited"


@pytest.mark.parametrize("model", ["command-locked", "jamba-locked", "llama-locked"])
def test_an_invalid_provider_key_is_not_a_client_error(client: OpenAI, model: str) -> None:
    with pytest.raises(openai_error("InternalServerError")) as caught:
        client.chat.completions.create(**ask("hi", model))
    assert caught.value.code == "upstream_auth_failed"


@pytest.mark.parametrize(
    ("model", "text"), [(m, "break") for m in MODELS] + [(m, "hang up") for m in WITH_TOOLS]
)
def test_a_cut_stream_ends_with_an_error(client: OpenAI, served: Proxy, model: str, text: str) -> None:
    stream = client.chat.completions.create(**ask(text, model), stream=True)
    heard: list[str] = []
    with pytest.raises(openai_error("APIError")) as caught:
        heard.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(heard).startswith("You said: ")
    assert caught.value.code == "upstream_invalid_response"
    assert served.row(stream.response.headers["x-request-id"])["status"] == "error"


# --- Replicate's predictions ---------------------------------------------------------------------------------


def test_a_slow_prediction_is_polled(client: OpenAI, servers: dict[str, Server]) -> None:
    before = len(servers["llama"].asked)
    answer = client.chat.completions.create(**ask("slow", "llama"))
    assert answer.choices[0].message.content == "You said: slow"
    methods = [path.split()[0] for path in servers["llama"].paths[before:]]
    assert methods == ["POST", "GET", "GET"]


def test_a_broken_stream_is_completed_from_the_prediction(client: OpenAI) -> None:
    answer = streamed(client, ask("hang up", "llama"))
    assert answer.choices[0].message.content == "You said: hang up"
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        ("fail", "InternalServerError", "upstream_invalid_response"),
        ("flag", "BadRequestError", "content_filter"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_failed_prediction_is_an_error(
    client: OpenAI, text: str, error: str, code: str, streaming: bool
) -> None:
    with pytest.raises(openai_error(error)) as caught:
        client.chat.completions.create(**ask(text, "llama"), stream=streaming)
    assert caught.value.code == code


def test_a_missing_upstream_model_is_not_a_client_error(client: OpenAI) -> None:
    with pytest.raises(openai_error("InternalServerError")) as caught:
        client.chat.completions.create(**ask("hi", "gone"))
    assert caught.value.code == "upstream_auth_failed"


def test_a_timed_out_prediction_is_cancelled(
    client: OpenAI, predictions: replicate_server.Predictions
) -> None:
    with pytest.raises(openai_error("InternalServerError")) as caught:
        client.chat.completions.create(**ask("endless", "hasty"))
    assert caught.value.code == "upstream_timeout"
    until(lambda: f"p{len(predictions.texts)}" in predictions.cancelled, "the cancellation")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_disconnect_cancels_the_prediction(
    served: Proxy, predictions: replicate_server.Predictions, streaming: bool
) -> None:
    """A stream at once; a plain call when the time for its answer is over."""
    before = len(predictions.texts)
    body = ask("endless", "llama" if streaming else "hasty", stream=streaming)
    wire = Wire(served.port).send(request("/v1/chat/completions", body, authorization=f"Bearer {served.key}"))
    until(lambda: len(predictions.texts) > before, "the prediction")
    name = f"p{before + 1}"
    if streaming:
        until(lambda: b"You said: " in wire.socket.recv(65536), "the first words")
    else:
        until(lambda: predictions.questions.get(name), "the first question")
    wire.socket.close()
    until(lambda: name in predictions.cancelled, "the cancellation")
