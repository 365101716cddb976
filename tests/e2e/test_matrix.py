"""The whole matrix: OpenAI's SDK through the running proxy to every provider there is, each in its own dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from codellama_proxy.providers.registry import ADAPTERS, NATIVE_ADAPTERS
from tests.support.dialects import ai21_server, anthropic_server, cohere_server, replicate_server
from tests.support.dialects.loopback import serving
from tests.support.openai_client import openai_error, openai_of
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

if TYPE_CHECKING:
    from openai import OpenAI

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION: Any = {"name": "get_weather", "description": "The weather.", "parameters": PARAMETERS}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]

# By what is tried: what a scripted upstream is told to do, and what the user says to servers that listen.
CASES: Mapping[str, tuple[str, str]] = {
    "chat": ("say=You%20said:%20hi", "hi"),
    "tools": ("tools", "weather"),
    "error": ("status=429;retry_after=7", "limited"),
    "overflow": ("status=400;code=context_length_exceeded", "overflow"),
}
MOCKED: Mapping[str, Any] = {"chat": {"reply": "You said: hi"}, "error": {"status": 429, "retry_after": "7s"}}
"""What the built-in mock can be told: it calls tools only if forced, and no prompt is too long for it."""
WITHOUT_TOOLS = {"perplexity", "replicate"}
PROVIDERS = sorted(ADAPTERS)
REMOTE = [provider for provider in PROVIDERS if provider != "mock"]

each_provider = pytest.mark.parametrize("provider", PROVIDERS)
each_remote_provider = pytest.mark.parametrize("provider", REMOTE)
in_both_forms = pytest.mark.parametrize("streamed", [False, True])

Place = tuple[str, str, str]
"""A native server's base URL, the key it takes, a model it has."""


@pytest.fixture(scope="module")
def places() -> Iterator[Mapping[str, Place]]:
    predictions = replicate_server.Predictions()
    with ExitStack() as stack:
        anthropic = stack.enter_context(anthropic_server.serving())
        cohere = stack.enter_context(serving(cohere_server.answer))
        ai21 = stack.enter_context(serving(ai21_server.answer))
        replicate = stack.enter_context(serving(predictions.answer))
        predictions.origin = replicate.url
        yield {
            "anthropic": (anthropic.url, anthropic_server.KEY, "claude-sonnet-4-6"),
            "cohere": (f"{cohere.url}/v2", cohere_server.KEY, "command-a"),
            "ai21": (f"{ai21.url}/studio/v1", ai21_server.KEY, "jamba-large"),
            "replicate": (f"{replicate.url}/v1", replicate_server.KEY, "meta/meta-llama-3-8b-instruct"),
        }
        for one in (anthropic, cohere, ai21, replicate):
            assert not one.refused, "the proxy sent what the provider refuses"


def native(provider: str, place: Place) -> Iterator[dict[str, Any]]:
    url, key, model = place
    for case in CASES:
        name = f"{provider}-{case}"
        yield {
            "name": name,
            "provider": provider,
            "base_url": url,
            "api_key": key,
            "model": model,
            "fallbacks": [],
        }


def scripted(provider: str, upstream: Upstream) -> Iterator[dict[str, Any]]:
    url = upstream.origin if provider == "azure" else upstream.url
    for case, (script, _) in CASES.items():
        yield upstream.model(f"{provider}-{case}", script, provider=provider, base_url=url)


def mocked() -> Iterator[dict[str, Any]]:
    for case, mock in MOCKED.items():
        yield {"name": f"mock-{case}", "provider": "mock", "mock": mock, "fallbacks": []}


@pytest.fixture(scope="module")
def served(places: Mapping[str, Place], upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    entries = list(mocked())
    for provider in REMOTE:
        entries += (
            native(provider, places[provider])
            if provider in NATIVE_ADAPTERS
            else scripted(provider, upstream_process)
        )
    return module_proxy(config(*entries))


@pytest.fixture(scope="module")
def client(served: Proxy) -> Iterator[OpenAI]:
    with openai_of(served) as one:
        yield one


def ask(provider: str, case: str, **more: Any) -> dict[str, Any]:
    return {"model": f"{provider}-{case}", "messages": [{"role": "user", "content": CASES[case][1]}], **more}


def test_every_native_dialect_has_a_reference_server(places: Mapping[str, Place]) -> None:
    assert places.keys() == NATIVE_ADAPTERS.keys()


@each_provider
def test_a_chat_is_answered(client: OpenAI, provider: str) -> None:
    answer = client.chat.completions.create(**ask(provider, "chat", temperature=0.5, max_tokens=50))
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == "You said: hi"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0


@each_provider
def test_a_chat_is_streamed(client: OpenAI, provider: str) -> None:
    asked = ask(provider, "chat", stream=True, stream_options={"include_usage": True})
    *chunks, last = client.chat.completions.create(**asked)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said: hi"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in [*chunks, last]}) == 1
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens > 0


@in_both_forms
@pytest.mark.parametrize("provider", [one for one in REMOTE if one not in WITHOUT_TOOLS])
def test_tools_are_called(client: OpenAI, provider: str, streamed: bool) -> None:
    asked = ask(provider, "tools", tools=TOOLS)
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            choice: Any = stream.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert call.id
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments)["city"] == "Oslo"


@in_both_forms
@pytest.mark.parametrize("provider", sorted(WITHOUT_TOOLS))
def test_unsupported_tools_are_refused(client: OpenAI, provider: str, streamed: bool) -> None:
    with pytest.raises(openai_error("BadRequestError")) as caught:
        client.chat.completions.create(**ask(provider, "tools", tools=TOOLS), stream=streamed)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")


@in_both_forms
@each_provider
def test_a_rate_limit_error_has_openais_format(client: OpenAI, provider: str, streamed: bool) -> None:
    with pytest.raises(openai_error("RateLimitError")) as caught:
        client.chat.completions.create(**ask(provider, "error"), stream=streamed)
    assert caught.value.code == "upstream_rate_limited"
    assert int(caught.value.response.headers["retry-after"]) > 0


@in_both_forms
@each_remote_provider
def test_a_context_length_error_has_openais_format(client: OpenAI, provider: str, streamed: bool) -> None:
    with pytest.raises(openai_error("BadRequestError")) as caught:
        client.chat.completions.create(**ask(provider, "overflow"), stream=streamed)
    assert (caught.value.code, caught.value.type) == ("context_length_exceeded", "invalid_request_error")
