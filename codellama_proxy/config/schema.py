"""Every key of proxy.yaml: its type, its default and what it means. The JSON Schema comes from here too.

The keys of `models:` are in `model_schema`. Defaults are those of the snapshot's types.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from codellama_proxy.config import field_types as s
from codellama_proxy.config.model_schema import Entry
from codellama_proxy.config.network_types import CA_BUNDLE, URL
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
from codellama_proxy.core.snapshot import Bundle, Json, Secret

ProjectName = Annotated[str, s.PROJECT]
AliasName = Annotated[str, s.PATTERN]
ClientSystem = Annotated[Literal["keep", "drop", "reject"], ONE_OF]
CallerFault = Annotated[snapshot.CallerFault, ONE_OF]
UnknownModel = Annotated[Literal["error", "default"], ONE_OF]
Origin = Annotated[str, s.text(r"\*|https?://[^/\s]+", "an origin such as https://app.example.com, or *")]
CacheScope = Annotated[Literal["project", "key", "global"], ONE_OF]
ENDPOINTS = ("chat", "completions", "embeddings", "messages", "responses")
EndpointName = Annotated[Literal["chat", "completions", "embeddings", "messages", "responses"], ONE_OF]
Backend = Annotated[Literal["embeddings", "gptcache"], ONE_OF]
Pause = Annotated[float, s.duration("0s", "30d")]

_NONE_FOR_FALSE = BeforeValidator(lambda value: None if plain(value) is False else value)
_KEYS_FOR_FALSE = BeforeValidator(lambda value: {} if value is None or plain(value) is False else value)

_TIMEOUTS = snapshot.Timeouts()
_GUARDRAIL = snapshot.Guardrail()
_COOLDOWN = snapshot.Cooldown()
_ROUTING = snapshot.Routing()
_LIMITS = snapshot.Limits()
_PROJECT = snapshot.Project("")
_CACHE = snapshot.Cache()
_TRACKING = snapshot.Tracking()
_SERVER = snapshot.Server()
_UI = snapshot.Ui()


class Timeouts(Section):
    connect: Timeout = Field(default=_TIMEOUTS.connect, description="Until the connection is open.")
    first_token: Timeout = Field(
        default=_TIMEOUTS.first_token, description="Until the first token of a stream."
    )
    idle: Timeout = Field(default=_TIMEOUTS.idle, description="Between two chunks of a stream.")
    answer: Timeout = Field(
        default=_TIMEOUTS.answer, description="Until the end of an answer that is not streamed."
    )


class Guardrail(Section):
    off: ClassVar[Json] = {"system_prompt": False}

    system_prompt: Prompt = Field(
        default="", description="The first system message of every request; false for none."
    )
    client_system: ClientSystem = Field(
        default=_GUARDRAIL.client_system,
        description="Client system messages: keep them after it, drop them, or reject the request.",
    )


class Backoff(Section):
    initial: Pause = Field(
        default=_ROUTING.backoff_initial, description="The longest first delay (full jitter)."
    )
    max: Pause = Field(default=_ROUTING.backoff_max, description="The longest delay.")


class Cooldown(Section):
    failures: Annotated[int, s.whole(1, 1000)] = Field(
        default=_COOLDOWN.failures, description="Consecutive failures that start a cooldown."
    )
    time: Pause = Field(
        default=_COOLDOWN.time, description="The first cooldown; doubles while the deployment keeps failing."
    )
    max_time: Pause = Field(default=_COOLDOWN.max_time, description="The longest cooldown.")
    auth_time: Pause = Field(
        default=_COOLDOWN.auth_time, description="The cooldown after the provider rejects its key."
    )


class Routing(Section):
    max_attempts: Annotated[int, s.whole(1, 20)] = Field(
        default=_ROUTING.max_attempts, description="Upstream calls for one request."
    )
    retries: Annotated[int, s.whole(0, 10)] = Field(
        default=_ROUTING.retries, description="Further attempts on the same deployment."
    )
    deadline: Timeout = Field(default=_ROUTING.deadline, description="For the whole request.")
    backoff: Backoff = Field(
        default_factory=Backoff, description="Delays between attempts on the same deployment."
    )
    max_retry_after: Pause = Field(
        default=_ROUTING.max_retry_after,
        description="The longest Retry-After that is waited for before a retry.",
    )
    fallback_on: tuple[CallerFault, ...] = Field(
        default=tuple(sorted(_ROUTING.fallback_on)),
        description="Client errors after which the next model is tried.",
    )
    cooldown: Cooldown = Field(
        default_factory=Cooldown, description="When a failing deployment is skipped, and for how long."
    )
    unknown_model: UnknownModel = Field(
        default=_ROUTING.unknown_model, description="error: 404; default: start at the first model."
    )
    sticky: Flag = Field(
        default=_ROUTING.sticky,
        description="Keep each conversation on one deployment of a name, for the upstream's prompt cache.",
    )


class Limits(Section):
    """null: no limit; 0: none allowed."""

    off: ClassVar[Json] = dict.fromkeys(("rpm_limit", "tpm_limit", "max_parallel_requests", "max_budget"))

    rpm_limit: Count | None = Field(default=None, description="Requests per minute.")
    tpm_limit: Count | None = Field(default=None, description="Tokens per minute.")
    max_parallel_requests: Count | None = Field(default=None, description="Requests in parallel.")
    max_budget: Annotated[int, s.usd(10**9)] | None = Field(
        default=None, description="USD in each budget_duration."
    )
    budget_duration: Annotated[str, s.WINDOW] | None = Field(
        default=None, description="hour, day, week, month (UTC), or Nh, Nd from first use; default: no reset."
    )
    shadow: Flag = Field(default=_LIMITS.shadow, description="Count and log, never refuse.")


class Scopes(Section):
    off: ClassVar[Json] = {}

    everything: Limits = Field(default_factory=Limits, alias="global", description="The whole installation.")
    project: Limits = Field(default_factory=Limits, description="Every project.")
    key: Limits = Field(default_factory=Limits, description="Every key.")
    user: Limits = Field(default_factory=Limits, description="Every user within a project.")


class Project(Section):
    limits: Limits = Field(default_factory=Limits, description="Replaces limits.project, field by field.")
    models: tuple[Annotated[str, s.PATTERN], ...] | None = Field(
        default=None, description="The models it may use, with shell wildcards; default: all."
    )
    guardrail: Prompt | None = Field(
        default=None, description="Its own prompt instead of the guardrail's; false for none."
    )
    cache: Flag = Field(default=_PROJECT.cache, description="Whether the response cache is used.")
    completions: Flag = Field(default=True, description="Whether its keys may call /completions.")
    endpoints: tuple[EndpointName, ...] | None = Field(
        default=None, description="What its keys may call; default: everything."
    )


class Semantic(Section):
    backend: Backend = Field(description="embeddings: a model of this file; gptcache: a GPTCache server.")
    model: Name | None = Field(default=None, description="For embeddings: the model that computes them.")
    url: Annotated[str, URL] | None = Field(default=None, description="For gptcache: the URL of the server.")
    threshold: Annotated[float, s.number(0, 1)] = Field(
        default=0.95, description="The lowest similarity at which an answer is reused."
    )


class Cache(Section):
    off: ClassVar[Json] = {"enabled": False}

    enabled: Flag = Field(
        default=_CACHE.enabled, description="Answer identical requests from memory and disk."
    )
    ttl: Annotated[float, s.duration("1s", "365d")] = Field(
        default=_CACHE.ttl, description="The lifetime of an answer."
    )
    max_entries: Annotated[int, s.whole(1, 10**8)] = Field(
        default=_CACHE.max_entries, description="The largest number of answers kept."
    )
    scope: CacheScope = Field(default=_CACHE.scope, description="Who shares answers.")
    semantic: Annotated[Semantic | None, _NONE_FOR_FALSE] = Field(
        default=None, description="Also answer similar requests."
    )


class PromptLayer(Section):
    off: ClassVar[Json] = {}

    api_key: Annotated[Secret | None, s.SECRET] = Field(
        default=None, description="PromptLayer's API key; unset: disabled."
    )
    content: Flag = Field(default=_TRACKING.promptlayer_content, description="Also send prompts and answers.")
    tags: tuple[UpstreamName, ...] = Field(
        default=_TRACKING.promptlayer_tags, description="Tags on every request."
    )


class Requests(Section):
    off: ClassVar[Json] = {}

    content: Flag = Field(default=_TRACKING.requests_content, description="Also store prompts and answers.")
    retention: Annotated[float, s.duration("1h", "36500d")] = Field(
        default=_TRACKING.requests_retention,
        description="How long individual requests are kept; daily totals remain.",
    )


class Tracking(Section):
    off: ClassVar[Json] = {}

    promptlayer: PromptLayer = Field(
        default_factory=PromptLayer, description="Sends every request to PromptLayer."
    )
    requests: Requests = Field(default_factory=Requests, description="The request log in the database.")


class Egress(Section):
    """How upstreams are reached. The environment's proxy variables count only where the file names them."""

    off: ClassVar[Json] = {}
    proxy: Proxy = Field(
        default=None,
        description="An HTTP proxy such as http://proxy.example:3128, for private addresses too; default: none.",
    )
    ca_bundle: Annotated[Bundle | None, CA_BUNDLE] = Field(
        default=None,
        description="A file of certificates (PEM) that are trusted in addition to the system's; read with proxy.yaml.",
    )


class Auth(Section):
    required: Flag = Field(
        default=True,
        description="false: calls without a key, or with an unknown one, belong to the project anonymous.",
    )


class Server(Section):
    max_body: Annotated[int, s.size(1024, 2**30)] = Field(
        default=_SERVER.max_body, description="The largest request body."
    )
    max_parallel_requests: Annotated[int, s.whole(1, 10**6)] = Field(
        default=_SERVER.max_parallel_requests, description="Requests in parallel."
    )
    drain: Annotated[float, s.duration("0s", "1h")] = Field(
        default=_SERVER.drain, description="Time to finish when stopping."
    )
    drain_delay: Annotated[float, s.duration("0s", "1h")] = Field(
        default=_SERVER.drain_delay,
        description="Time before that in which readiness already returns 503 and new requests are still served.",
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=_SERVER.cors_origins, description="Web origins that may call the proxy."
    )


class Metrics(Section):
    off: ClassVar[Json] = {}

    public: Flag = Field(default=False, description="Show /metrics without the admin key.")


class Ui(Section):
    off: ClassVar[Json] = {"enabled": False}

    enabled: Flag = Field(default=_UI.enabled, description="Serve the dashboard at /ui.")
    session: Annotated[float, s.duration("1s", "7d")] = Field(
        default=_UI.session,
        description="Time without use after which a sign-in ends; it ends after 7 days in any case.",
    )


class File(Section):
    """All behaviour of the proxy. Saved changes take effect within two seconds."""

    models: tuple[Entry, ...] = Field(description="The models; their order is the fallback order.")
    aliases: Annotated[dict[AliasName, Name], _KEYS_FOR_FALSE] = Field(
        default={},
        description="Other names of models, with shell wildcards; the first match counts.",
    )
    guardrail: Guardrail = Field(
        default_factory=Guardrail, description="The system prompt that clients cannot disable."
    )
    routing: Routing = Field(default_factory=Routing, description="Retries, delays and fallbacks.")
    timeouts: Timeouts = Field(default_factory=Timeouts, description="Timeouts of one upstream call.")
    egress: Egress = Field(
        default_factory=Egress, description="Outgoing connections: HTTP proxy and CA certificates."
    )
    limits: Scopes = Field(default_factory=Scopes, description="Rate limits and budgets of each scope.")
    projects: Annotated[dict[ProjectName, Project], _KEYS_FOR_FALSE] = Field(
        default={}, description="Projects with settings of their own."
    )
    cache: Cache = Field(default_factory=Cache, description="The response cache.")
    tracking: Tracking = Field(default_factory=Tracking, description="What is recorded about requests.")
    auth: Auth = Field(default_factory=Auth, description="Whether clients need a key.")
    server: Server = Field(default_factory=Server, description="The HTTP server.")
    metrics: Metrics = Field(default_factory=Metrics, description="Metrics for Prometheus.")
    ui: Ui = Field(default_factory=Ui, description="The dashboard.")
