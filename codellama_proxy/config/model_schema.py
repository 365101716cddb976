"""The keys of `models:` in proxy.yaml: their types, their defaults and what they mean."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from codellama_proxy.config import field_types as s
from codellama_proxy.config.network_types import HEADERS, URL
from codellama_proxy.config.section import (
    ONE_OF,
    Count,
    Flag,
    Name,
    Prompt,
    Proxy,
    Section,
    Timeout,
    UpstreamName,
)
from codellama_proxy.config.yaml.scalars import plain
from codellama_proxy.core import snapshot
from codellama_proxy.core.snapshot import Secret

PROVIDERS = Literal[
    "openai", "together", "anthropic", "azure", "cohere", "ai21", "replicate", "huggingface", "gemini",
    "bedrock", "groq", "mistral", "deepseek", "fireworks", "openrouter", "xai", "cerebras", "perplexity",
    "nvidia", "ollama", "vllm", "lmstudio", "llamacpp", "openai_compatible", "mock",
]  # fmt: skip

Provider = Annotated[PROVIDERS, ONE_OF]
Mode = Annotated[Literal["chat", "embedding", "completion"], ONE_OF]
PromptFormat = Annotated[Literal["plain", "llama2", "chatml"], ONE_OF]
Dollars = Annotated[int, s.usd(10**6)]
Tokens = Annotated[int, s.whole(1, 10**8)]
Tier = Annotated[str, s.text(r"[a-z][a-z0-9_-]{0,31}", "a name of small letters, digits, _ and -")]

_LIST_FOR_FALSE = BeforeValidator(lambda value: () if plain(value) is False else value)

_DEPLOYMENT = snapshot.Deployment(id="", name="", provider="", model="")
_MOCK = snapshot.Mock()


class TierPrice(Section):
    """Missing keys: input and output have the usual price; the others change in proportion to input."""

    input: Dollars | None = Field(default=None, description="USD per million input tokens.")
    output: Dollars | None = Field(default=None, description="USD per million output tokens.")
    cached_input: Dollars | None = Field(default=None, description="USD per million cached input tokens.")
    cache_write: Dollars | None = Field(
        default=None, description="USD per million tokens written to the provider's cache."
    )
    cache_write_1h: Dollars | None = Field(
        default=None, description="USD per million tokens written to the provider's cache for an hour."
    )


class LongPrice(TierPrice):
    tokens: Tokens = Field(description="For prompts with more tokens than this.")


class Price(Section):
    input: Dollars = Field(description="USD per million input tokens.")
    output: Dollars | None = Field(
        default=None, description="USD per million output tokens; embeddings have none."
    )
    cached_input: Dollars | None = Field(
        default=None, description="USD per million cached input tokens; default: input."
    )
    cache_write: Dollars | None = Field(
        default=None,
        description="USD per million tokens written to the provider's cache; default: input, "
        "for anthropic 1.25 times input.",
    )
    cache_write_1h: Dollars | None = Field(
        default=None, description="USD per million tokens written to the provider's cache for an hour."
    )
    above: LongPrice | None = Field(default=None, description="Other prices for long prompts.")
    service_tiers: dict[Tier, TierPrice] = Field(
        default={},
        description="Other prices by service tier; a tier without one cannot be used under a budget.",
    )
    server_tools: dict[Tier, Dollars] = Field(
        default={},
        description="USD per 1000 calls of the provider's own tools; those without cannot be used under a budget.",
    )


class OwnTimeouts(Section):
    connect: Timeout | None = Field(default=None, description="Until the connection is open.")
    first_token: Timeout | None = Field(default=None, description="Until the first token of a stream.")
    idle: Timeout | None = Field(default=None, description="Between two chunks of a stream.")
    answer: Timeout | None = Field(
        default=None, description="Until the end of an answer that is not streamed."
    )


class Mock(Section):
    reply: Annotated[str, s.text(r"[\s\S]*", "text", 1_000_000)] | None = Field(
        default=None, description="The answer; default: a canned one."
    )
    first_token_delay: Annotated[float, s.duration("0s")] = Field(
        default=_MOCK.first_token_delay, description="Delay before the answer."
    )
    tokens_per_second: Annotated[float, s.number(0, 10**6)] | None = Field(
        default=None, description="Speed of a stream."
    )
    status: Annotated[int, s.whole(400, 599)] | None = Field(
        default=None, description="Fail with this HTTP status."
    )
    retry_after: Annotated[float, s.duration("0s", "30d")] | None = Field(
        default=None, description="Retry-After sent with the failure."
    )
    cut_after_tokens: Count | None = Field(
        default=None, description="Break the connection after this many tokens."
    )


class Entry(Section):
    """One deployment; entries that share a name are one model."""

    name: Name = Field(description="The public name. Entries that share one are deployments of one model.")
    provider: Provider = Field(description="The provider that serves it.")
    model: UpstreamName | None = Field(default=None, description="The name sent upstream; default: name.")
    base_url: Annotated[str, URL] | None = Field(
        default=None,
        description="Default: the provider's own; required for azure, vllm, openai_compatible.",
    )
    allow_insecure: Flag = Field(default=False, description="Allow http:// to a host on the internet.")
    api_key: Annotated[Secret | None, s.SECRET] = Field(
        default=None,
        description="The provider's key. Left out: the provider's customary variable. Unset or empty: disabled.",
    )
    price: Price | None = Field(
        default=None, description="USD per million tokens; default: the price catalogue."
    )
    context_window: Tokens | None = Field(
        default=None, description="Tokens of the prompt and the answer together."
    )
    max_output_tokens: Tokens = Field(
        default=_DEPLOYMENT.max_output_tokens,
        description="For budget holds, for providers that require a maximum, and as the highest `max_tokens` that is "
        "sent for requests of the Messages and Responses APIs.",
    )
    weight: Annotated[float, s.number(0, 10**6)] = Field(
        default=_DEPLOYMENT.weight, description="Share of the traffic among deployments of one name."
    )
    fallback: Flag = Field(
        default=_DEPLOYMENT.fallback, description="Whether other models may fall back to it."
    )
    fallbacks: Annotated[tuple[Name, ...] | None, _LIST_FOR_FALSE] = Field(
        default=None,
        description="Tried after this one; [] for none; default: all below it with fallback: true.",
    )
    timeouts: OwnTimeouts = Field(default_factory=OwnTimeouts, description="Overrides the general timeouts.")
    proxy: Proxy = Field(
        default=None, description="The HTTP proxy for this model; false for none; default: egress.proxy."
    )
    params: Annotated[dict[str, Any], s.JSON_MAP] = Field(
        default={}, description="Request parameters that are added if the client sends none."
    )
    headers: Annotated[dict[str, str], HEADERS] = Field(
        default={}, description="Extra headers sent upstream."
    )
    system_prompt: Prompt | None = Field(
        default=None, description="Replaces the guardrail's prompt for this model; false for none."
    )
    drop_params: Flag = Field(
        default=_DEPLOYMENT.drop_params, description="Drop unsupported parameters instead of refusing them."
    )
    cache_prompts: Flag = Field(
        default=_DEPLOYMENT.cache_prompts,
        description="Anthropic only: set cache marks in translated requests that have none of their own.",
    )
    mode: Mode = Field(default=_DEPLOYMENT.mode, description="The kind of model.")
    completions: Flag = Field(
        default=False,
        description="This chat model also serves /completions, where there is no guardrail.",
    )
    mock: Mock | None = Field(
        default=None, description="For provider mock: its answer, and failures to simulate."
    )
    deployment: UpstreamName | None = Field(default=None, description="For azure: the deployment's name.")
    api_version: UpstreamName | None = Field(default=None, description="For azure: the API version.")
    input_map: Annotated[dict[str, Any], s.JSON_MAP] | None = Field(
        default=None, description="For replicate: names of the parameters in the model's input."
    )
    prompt_format: PromptFormat | None = Field(
        default=None, description="For replicate: the format in which messages are joined into one prompt."
    )
    base_model: UpstreamName | None = Field(
        default=None, description="The model's well-known name, for capabilities and prices."
    )
