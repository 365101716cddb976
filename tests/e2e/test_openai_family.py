"""OpenAI's SDK through the proxy to upstreams of OpenAI's dialect under other names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.openai_client import openai_error, openai_of
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

if TYPE_CHECKING:
    from openai import OpenAI

PROVIDERS = ("azure", "huggingface", "gemini", "bedrock", "mistral")
FUNCTION: Any = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
SCRIPTS = {
    "plain": "ok",
    "tooling": "tools",
    "overflowing": "status=400;code=context_length_exceeded",
    "busy": "status=429;retry_after=7",
    "cut": "cut=3",
}


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    def entries(provider: str) -> Iterator[dict[str, Any]]:
        origin = upstream_process.origin
        for name, script in SCRIPTS.items():
            words = "function" if (provider, name) == ("azure", "tooling") else script
            yield upstream_process.model(
                f"{provider}-{name}",
                words,
                provider=provider,
                base_url=origin if provider == "azure" else f"{origin}/v1",
            )

    return module_proxy(config(*(entry for provider in PROVIDERS for entry in entries(provider))))


@pytest.fixture
def client(served: Proxy) -> Iterator[OpenAI]:
    with openai_of(served) as one:
        yield one


def ask(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_plain_and_streamed_answers_agree_and_the_guardrail_is_first(
    client: OpenAI, upstream: Upstream, provider: str
) -> None:
    asked = ask(f"{provider}-plain")
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(**asked, stream=True)
    assert whole.choices[0].message.content == "".join(
        chunk.choices[0].delta.content or "" for chunk in stream
    )
    assert whole.usage is not None
    for request in upstream.journal.requests():
        assert request["body"]["messages"][0] == {"role": "system", "content": GUARDRAIL}
        azure = provider == "azure"
        assert request["path"] == ("/openai/v1" if azure else "/v1") + "/chat/completions"
        assert ("api-key" in str(request["headers"])) is azure


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("provider", [one for one in PROVIDERS if one != "azure"])
def test_tools_are_called(client: OpenAI, provider: str, streamed: bool) -> None:
    asked = ask(f"{provider}-tooling", tools=TOOLS)
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            choice: Any = stream.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments), dict)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_legacy_functions_work_with_every_provider(
    client: OpenAI, upstream: Upstream, provider: str, streamed: bool
) -> None:
    asked = ask(f"{provider}-tooling", functions=[FUNCTION])
    if streamed:
        choices = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
        name = "".join(c.delta.function_call.name or "" for c in choices if c.delta.function_call)
        reason = choices[-1].finish_reason
    else:
        choice = client.chat.completions.create(**asked).choices[0]
        assert choice.message.function_call is not None
        name, reason = choice.message.function_call.name, choice.finish_reason
    assert (name, reason) == ("get_weather", "function_call")
    (sent,) = upstream.journal.bodies()
    assert ("functions" in sent) is (provider == "azure")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_errors_have_openais_format(client: OpenAI, provider: str, streamed: bool) -> None:
    with pytest.raises(openai_error("BadRequestError")) as caught:
        client.chat.completions.create(**ask(f"{provider}-overflowing"), stream=streamed)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai_error("RateLimitError")) as busy:
        client.chat.completions.create(**ask(f"{provider}-busy"), stream=streamed)
    assert busy.value.code == "upstream_rate_limited"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_cut_stream_ends_with_an_error(client: OpenAI, provider: str) -> None:
    stream = client.chat.completions.create(**ask(f"{provider}-cut"), stream=True)
    with pytest.raises(openai_error("APIError")):
        list(stream)
