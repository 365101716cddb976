"""Every key of proxy.yaml: its type, its default and what it means. The JSON Schema comes from here too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from codellama_proxy.config import field_types as s
from codellama_proxy.config.egress import CA_BUNDLE, PROXY
from codellama_proxy.config.yaml.document import Substituted, plain
from codellama_proxy.core.snapshot import Bundle, Secret

PROVIDERS = Literal[
    "openai", "together", "anthropic", "azure", "cohere", "ai21", "replicate", "huggingface", "gemini",
    "bedrock", "groq", "mistral", "deepseek", "fireworks", "openrouter", "xai", "cerebras", "perplexity",
    "nvidia", "ollama", "vllm", "lmstudio", "llamacpp", "openai_compatible", "mock",
]  # fmt: skip

_word = BeforeValidator(lambda value: str(value) if isinstance(value, Substituted) else value)

_NONE_FOR_FALSE = BeforeValidator(lambda value: None if plain(value) is False else value)

_LIST_FOR_FALSE = BeforeValidator(lambda value: () if plain(value) is False else value)
_KEYS_FOR_FALSE = BeforeValidator(lambda value: {} if value is None or plain(value) is False else value)

Flag = Annotated[bool, s.FLAG]
Name = Annotated[str, s.NAME]
ProjectName = Annotated[str, s.PROJECT]
UpstreamName = Annotated[str, s.UPSTREAM_NAME]
Prompt = Annotated[str | Literal[False], s.PROMPT]
Proxy = Annotated[Secret | Literal[False] | None, PROXY]
Provider = Annotated[PROVIDERS, _word]
Mode = Annotated[Literal["chat", "embedding", "completion"], _word]
ClientSystem = Annotated[Literal["keep", "drop", "reject"], _word]
CallerFault = Annotated[Literal["context_length", "content_filter"], _word]
PromptFormat = Annotated[Literal["plain", "llama2", "chatml"], _word]
UnknownModel = Annotated[Literal["error", "default"], _word]
Origin = Annotated[str, s.text(r"\*|https?://[^/\s]+", "an origin such as https://app.example.com, or *")]
CacheScope = Annotated[Literal["project", "key", "global"], _word]
ENDPOINTS = ("chat", "completions", "embeddings", "messages", "responses")
EndpointName = Annotated[Literal["chat", "completions", "embeddings", "messages", "responses"], _word]
Backend = Annotated[Literal["embeddings", "gptcache"], _word]
Patience = Annotated[float, s.duration()]
Pause = Annotated[float, s.duration("0s", "30d")]
Dollars = Annotated[int, s.usd(10**6)]
Count = Annotated[int, s.whole(0, 10**12)]
Tokens = Annotated[int, s.whole(1, 10**8)]
Tier = Annotated[str, s.text(r"[a-z][a-z0-9_-]{0,31}", "a name of small letters, digits, _ and -")]


class Section(BaseModel):
    """A mapping of known keys; one left empty is as good as absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    off: ClassVar[Mapping[str, Any] | None] = None
    """What `false` in its place stands for; `None`: it cannot be switched off."""

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        if value is None:
            return {}
        if cls.off is not None and not isinstance(value, dict | list) and plain(value) is False:
            return dict(cls.off)
        return value


class TierPrice(Section):
    """A class left out: input and output cost the usual price, the others grow as input does."""

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
        default=None, description="USD per million tokens written to the provider's cache; default: input."
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
    connect: Patience | None = Field(default=None, description="To a connection.")
    first_token: Patience | None = Field(default=None, description="To a stream's first token.")
    idle: Patience | None = Field(default=None, description="Between two pieces of a stream.")
    answer: Patience | None = Field(default=None, description="To the end of an answer that is not streamed.")


class Timeouts(Section):
    connect: Patience = Field(default=5.0, description="To a connection.")
    first_token: Patience = Field(default=30.0, description="To a stream's first token.")
    idle: Patience = Field(default=60.0, description="Between two pieces of a stream.")
    answer: Patience = Field(default=180.0, description="To the end of an answer that is not streamed.")


class Mock(Section):
    reply: Annotated[str, s.text(r"[\s\S]*", "text", 1_000_000)] | None = Field(
        default=None, description="What it answers; default: a canned answer."
    )
    first_token_delay: Annotated[float, s.duration("0s")] = Field(
        default=0.0, description="Wait before answering."
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
        default=None, description="Break the connection after so many tokens."
    )


class Entry(Section):
    """One deployment; entries that share a name are one model."""

    name: Name = Field(description="The public name. Entries that share one are deployments of one model.")
    provider: Provider = Field(description="Who serves it.")
    model: UpstreamName | None = Field(default=None, description="The name sent upstream; default: name.")
    base_url: Annotated[str, s.URL] | None = Field(
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
        default=None, description="Tokens the model can read and write together."
    )
    max_output_tokens: Tokens = Field(
        default=4096, description="For budget holds, and for providers that require a maximum."
    )
    weight: Annotated[float, s.number(0, 10**6)] = Field(
        default=1.0, description="Share of the traffic among deployments of one name."
    )
    fallback: Flag = Field(default=True, description="May it serve as a backup for other models?")
    fallbacks: Annotated[tuple[Name, ...] | None, _LIST_FOR_FALSE] = Field(
        default=None,
        description="Tried after this one; [] for none; default: all below it with fallback: true.",
    )
    timeouts: OwnTimeouts = Field(
        default=OwnTimeouts(), description="Its own timeouts, over the general ones."
    )
    proxy: Proxy = Field(
        default=None, description="The HTTP proxy on the way to it; false for none; default: egress.proxy."
    )
    params: Annotated[dict[str, Any], s.JSON_MAP] = Field(
        default={}, description="Added where the client gave none."
    )
    headers: Annotated[dict[str, str], s.HEADERS] = Field(
        default={}, description="Extra headers sent upstream."
    )
    system_prompt: Prompt | None = Field(
        default=None, description="Replaces the guardrail's prompt for this model; false for none."
    )
    drop_params: Flag = Field(
        default=False, description="Drop unsupported parameters instead of refusing them."
    )
    mode: Mode = Field(default="chat", description="What the model does.")
    completions: Flag = Field(
        default=False,
        description="This chat model also serves /completions, where there is no guardrail.",
    )
    mock: Mock | None = Field(
        default=None, description="For provider mock: what it answers, how badly it behaves."
    )
    deployment: UpstreamName | None = Field(default=None, description="For azure: the deployment's name.")
    api_version: UpstreamName | None = Field(default=None, description="For azure: the API version.")
    input_map: Annotated[dict[str, Any], s.JSON_MAP] | None = Field(
        default=None, description="For replicate: our parameters' names in the model's input."
    )
    prompt_format: PromptFormat | None = Field(
        default=None, description="For replicate: how messages become one prompt."
    )
    base_model: UpstreamName | None = Field(
        default=None, description="The model's well-known name, for capabilities and prices."
    )


class Guardrail(Section):
    off = {"system_prompt": False}

    system_prompt: Prompt = Field(
        default="", description="The first system message of every request; false for none."
    )
    client_system: ClientSystem = Field(
        default="keep",
        description="Client system messages: keep them after it, drop them, or reject the request.",
    )


class Backoff(Section):
    initial: Pause = Field(default=0.25, description="The first pause, at most (full jitter).")
    max: Pause = Field(default=8.0, description="The longest pause.")


class Cooldown(Section):
    failures: Annotated[int, s.whole(1, 1000)] = Field(
        default=3, description="Failures in a row that cool a deployment."
    )
    time: Pause = Field(default=30.0, description="How long it rests; doubles while it keeps failing.")
    max_time: Pause = Field(default=600.0, description="The longest rest.")
    auth_time: Pause = Field(default=300.0, description="The rest after a refused provider key.")


class Routing(Section):
    max_attempts: Annotated[int, s.whole(1, 20)] = Field(
        default=4, description="Upstream calls for one request."
    )
    retries: Annotated[int, s.whole(0, 10)] = Field(
        default=1, description="Further tries on the same deployment."
    )
    deadline: Patience = Field(default=300.0, description="For the whole request.")
    backoff: Backoff = Field(default=Backoff(), description="Pauses between tries on the same deployment.")
    max_retry_after: Pause = Field(default=5.0, description="The longest Retry-After waited for in place.")
    fallback_on: tuple[CallerFault, ...] = Field(
        default=("context_length",),
        description="Faults of the caller that may still be tried on the next model.",
    )
    cooldown: Cooldown = Field(default=Cooldown(), description="When a failing deployment rests.")
    unknown_model: UnknownModel = Field(
        default="error", description="error: 404; default: start at the first model."
    )


class Limits(Section):
    """null: no limit; 0: none allowed."""

    off = dict.fromkeys(("rpm_limit", "tpm_limit", "max_parallel_requests", "max_budget"))

    rpm_limit: Count | None = Field(default=None, description="Requests a minute.")
    tpm_limit: Count | None = Field(default=None, description="Tokens a minute.")
    max_parallel_requests: Count | None = Field(default=None, description="Requests at the same time.")
    max_budget: Annotated[int, s.usd(10**9)] | None = Field(
        default=None, description="USD in each budget_duration."
    )
    budget_duration: Annotated[str, s.WINDOW] | None = Field(
        default=None, description="hour, day, week, month (UTC), or Nh, Nd from first use; default: for ever."
    )
    shadow: Flag = Field(default=False, description="Count and log, never refuse.")


class Scopes(Section):
    off = {}

    everything: Limits = Field(default=Limits(), alias="global", description="The whole installation.")
    project: Limits = Field(default=Limits(), description="Every project.")
    key: Limits = Field(default=Limits(), description="Every key.")
    user: Limits = Field(default=Limits(), description="Every user within a project.")


class Project(Section):
    limits: Limits = Field(default=Limits(), description="Replaces limits.project, field by field.")
    models: tuple[Annotated[str, s.PATTERN], ...] | None = Field(
        default=None, description="The models it may use; shell wildcards are fine; default: all."
    )
    guardrail: Prompt | None = Field(
        default=None, description="Its own prompt instead of the guardrail's; false for none."
    )
    cache: Flag = Field(default=True, description="May its answers come from the cache?")
    completions: Flag = Field(default=True, description="May its keys call /completions?")
    endpoints: tuple[EndpointName, ...] | None = Field(
        default=None, description="What its keys may call; default: everything."
    )


class Semantic(Section):
    backend: Backend = Field(description="embeddings: a model of this file; gptcache: a GPTCache server.")
    model: Name | None = Field(default=None, description="For embeddings: the model that makes them.")
    url: Annotated[str, s.URL] | None = Field(default=None, description="For gptcache: where the server is.")
    threshold: Annotated[float, s.number(0, 1)] = Field(
        default=0.95, description="How similar is similar enough."
    )


class Cache(Section):
    off = {"enabled": False}

    enabled: Flag = Field(default=True, description="Answer identical requests from memory and disk.")
    ttl: Annotated[float, s.duration("1s", "365d")] = Field(
        default=3600.0, description="How long an answer is good."
    )
    max_entries: Annotated[int, s.whole(1, 10**8)] = Field(
        default=10_000, description="How many answers are kept."
    )
    scope: CacheScope = Field(default="project", description="Who shares answers.")
    semantic: Annotated[Semantic | None, _NONE_FOR_FALSE] = Field(
        default=None, description="Also answer similar requests."
    )


class PromptLayer(Section):
    off = {}

    api_key: Annotated[Secret | None, s.SECRET] = Field(default=None, description="Its key; unset: off.")
    content: Flag = Field(default=True, description="Send prompts and answers too.")
    tags: tuple[UpstreamName, ...] = Field(default=("codellama-proxy",), description="Tags on every request.")


class Requests(Section):
    off = {}

    content: Flag = Field(default=False, description="Keep prompts and answers too.")
    retention: Annotated[float, s.duration("1h", "36500d")] = Field(
        default=30 * 86400.0, description="How long single requests are kept; daily totals stay."
    )


class Tracking(Section):
    off = {}

    promptlayer: PromptLayer = Field(default=PromptLayer(), description="Every request, sent to PromptLayer.")
    requests: Requests = Field(default=Requests(), description="The request log in the database.")


class Egress(Section):
    """How upstreams are reached. The environment's proxy variables count only where the file names them."""

    off = {}
    proxy: Proxy = Field(
        default=None,
        description="An HTTP proxy such as http://proxy.example:3128, for private addresses too; default: none.",
    )
    ca_bundle: Annotated[Bundle | None, CA_BUNDLE] = Field(
        default=None,
        description="A file of certificates (PEM) that are trusted besides the system's; read with proxy.yaml.",
    )


class Auth(Section):
    required: Flag = Field(
        default=True,
        description="false: calls without a key, or with an unknown one, belong to the project anonymous.",
    )


class Server(Section):
    max_body: Annotated[int, s.size(1024, 2**30)] = Field(
        default=32_000_000, description="The largest request."
    )
    max_parallel_requests: Annotated[int, s.whole(1, 10**6)] = Field(
        default=1000, description="Requests at once."
    )
    drain: Annotated[float, s.duration("0s", "1h")] = Field(
        default=25.0, description="Time to finish when stopping."
    )
    drain_delay: Annotated[float, s.duration("0s", "1h")] = Field(
        default=0.0,
        description="Before that, time in which readiness already says no and new requests are still served.",
    )
    cors_origins: tuple[Origin, ...] = Field(default=(), description="Web pages that may call the proxy.")


class Metrics(Section):
    off = {}

    public: Flag = Field(default=False, description="Show /metrics without the admin key.")


class File(Section):
    """All behaviour of the proxy. Saved changes take effect within two seconds."""

    models: tuple[Entry, ...] = Field(description="The models; their order is the fallback order.")
    guardrail: Guardrail = Field(
        default=Guardrail(), description="The system prompt no client can switch off."
    )
    routing: Routing = Field(default=Routing(), description="Tries, pauses and fallbacks.")
    timeouts: Timeouts = Field(default=Timeouts(), description="How long one upstream call may take.")
    egress: Egress = Field(default=Egress(), description="The way to upstreams and services.")
    limits: Scopes = Field(default=Scopes(), description="What each scope may use.")
    projects: Annotated[dict[ProjectName, Project], _KEYS_FOR_FALSE] = Field(
        default={}, description="Projects with settings of their own."
    )
    cache: Cache = Field(default=Cache(), description="Answers kept for identical requests.")
    tracking: Tracking = Field(default=Tracking(), description="What is recorded about requests.")
    auth: Auth = Field(default=Auth(), description="Who may call.")
    server: Server = Field(default=Server(), description="The HTTP server.")
    metrics: Metrics = Field(default=Metrics(), description="Numbers for Prometheus.")
