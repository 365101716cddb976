"""The configuration of the request path: immutable values, built from proxy.yaml and replaced as a whole.

Durations are seconds, money is integer nano-USD, prices are nano-USD per million tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Json = Mapping[str, Any]
"""A decoded JSON object."""

ScopeKind = Literal["global", "project", "key", "user"]

CallerFault = Literal["context_length", "content_filter"]
"""A client error that another model may not return."""


class Secret:
    """A string that is only readable through `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(****)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Certificates that are trusted in addition to the system's."""

    path: str
    certificates: str = field(repr=False)
    """PEM, as read with the configuration."""


@dataclass(frozen=True, slots=True)
class Egress:
    """How connections to an upstream are made."""

    proxy: Secret | None = None
    """URL of an HTTP proxy, which may contain a user name and a password; `None`: direct connections."""
    ca_bundle: Bundle | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `answer` bounds a whole non-streamed answer; `first_token` and `idle` bound streams."""

    connect: float = 5.0
    first_token: float = 30.0
    idle: float = 60.0
    answer: float = 180.0


@dataclass(frozen=True, slots=True)
class Tariff:
    """Nano-USD per million tokens. A missing class costs as much as input, a one-hour cache write twice that."""

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None


@dataclass(frozen=True, slots=True)
class Price(Tariff):
    """The rates of short prompts in the default service tier, and the rates that differ."""

    above: tuple[tuple[int, Tariff], ...] = ()
    """Prompt tokens and the rates above them, in ascending order."""
    service_tiers: tuple[tuple[str, Tariff], ...] = ()
    server_tools: tuple[tuple[str, int], ...] = ()
    """Nano-USD per million calls of each."""


@dataclass(frozen=True, slots=True)
class Mock:
    """Answers and simulated faults of the built-in `mock` provider. `None`: no such fault."""

    reply: str | None = None
    first_token_delay: float = 0.0
    tokens_per_second: float | None = None
    status: int | None = None
    retry_after: float | None = None
    cut_after_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """One entry of `models:`."""

    id: str
    """`name#n`, n counting from 1 among the entries that share a name."""
    name: str
    """The public model name."""
    provider: str
    model: str
    """The name sent upstream."""
    base_url: str | None = None
    """`None`: the provider's own."""
    api_key: Secret | None = None
    price: Price | None = None
    context_window: int | None = None
    max_output_tokens: int = 4096
    output_limit: int | None = None
    """`max_output_tokens`, if the entry sets it."""
    weight: float = 1.0
    timeouts: Timeouts = Timeouts()
    params: Json = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    system_prompt: str | Literal[False] | None = None
    """Replaces the guardrail's text; `False`: no prompt; `None`: the guardrail's."""
    drop_params: bool = False
    mode: Literal["chat", "embedding", "completion"] = "chat"
    relays: frozenset[str] = frozenset()
    """The dialects, other than chats, whose requests it gets as the client sent them: `messages`, `responses`."""
    also: frozenset[str] = frozenset()
    """Other modes it serves: `completion` for a chat model with `completions: true`."""
    mock: Mock | None = None
    base_model: str | None = None
    """The model's well-known name, for capabilities and prices."""
    extra: Json = field(default_factory=dict)
    """Keys of single providers: azure `deployment`, `api_version`; replicate `input_map`, `prompt_format`."""
    fallback: bool = True
    """Whether it may be a fallback of other models."""
    cache_prompts: bool = True
    """Whether translated requests get cache marks, where the provider caches at marks."""
    proxy: Secret | None = None
    """URL of an HTTP proxy; `None`: direct connections."""
    ca_bundle: Bundle | None = None
    """Additional trusted certificates."""
    disabled: str | None = None
    """The reason if it is disabled, as text; `None` if it is enabled."""
    secrets: frozenset[Secret] = frozenset()
    """Values from `${...}` in the entry and in the guardrails, never shown."""
    identity: str = field(default="", repr=False, compare=False)
    """A digest of what it is, which stays when entries are added or moved; empty: its `id`. Never shown."""
    egress: Egress = field(init=False, repr=False, compare=False)
    """How connections to it are made."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "egress", Egress(self.proxy, self.ca_bundle))

    def serves(self, mode: str) -> bool:
        return mode == self.mode or mode in self.also


@dataclass(frozen=True, slots=True)
class Model:
    """A public model name: its deployments in file order, and its fallbacks."""

    name: str
    deployments: tuple[Deployment, ...]
    """Enabled ones only; never empty for a model that requests can use."""
    fallbacks: tuple[str, ...]
    """Names of enabled models, in the order they are tried."""
    modes: frozenset[str] = field(init=False, repr=False, compare=False)
    """The modes that any of its deployments serves."""

    def __post_init__(self) -> None:
        served = [mode for d in self.deployments for mode in (d.mode, *d.also)]
        object.__setattr__(self, "modes", frozenset(served))


@dataclass(frozen=True, slots=True)
class Guardrail:
    system_prompt: str | None = None
    client_system: Literal["keep", "drop", "reject"] = "keep"


@dataclass(frozen=True, slots=True)
class Cooldown:
    failures: int = 3
    time: float = 30.0
    max_time: float = 600.0
    auth_time: float = 300.0


@dataclass(frozen=True, slots=True)
class Routing:
    max_attempts: int = 4
    retries: int = 1
    deadline: float = 300.0
    backoff_initial: float = 0.25
    backoff_max: float = 8.0
    max_retry_after: float = 5.0
    fallback_on: frozenset[CallerFault] = frozenset({"context_length"})
    cooldown: Cooldown = Cooldown()
    unknown_model: Literal["error", "default"] = "error"
    sticky: bool = True
    """Whether the requests of a conversation stay on one deployment of a name."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one scope. `None`: no limit; 0: nothing is allowed."""

    rpm_limit: int | None = None
    tpm_limit: int | None = None
    max_parallel_requests: int | None = None
    max_budget: int | None = None
    """Nano-USD."""
    budget_duration: str | None = None
    """`hour|day|week|month` (UTC calendar windows), `Nh`/`Nd` (from first use), `None`: one window without end."""
    shadow: bool = False
    """Count and log, never refuse."""
    given: frozenset[str] = frozenset()
    """Names of the explicitly set fields: only these override another scope's defaults."""
    is_set: bool = field(init=False, repr=False, compare=False)
    """Whether there is any limit."""

    def __post_init__(self) -> None:
        given = (self.rpm_limit, self.tpm_limit, self.max_parallel_requests, self.max_budget)
        object.__setattr__(self, "is_set", given.count(None) < len(given))


@dataclass(frozen=True, slots=True)
class Project:
    name: str
    limits: Limits = Limits()
    """`limits.project` overlaid with the project's own."""
    own_limits: Limits = Limits()
    models: tuple[str, ...] | None = None
    """Allow-list of shell wildcards; `None`: all."""
    guardrail: str | Literal[False] | None = None
    """Its own text; `False`: no prompt; `None`: the guardrail's."""
    cache: bool = True
    endpoints: frozenset[str] | None = None
    """Endpoints its keys may use: `chat`, `completions`, `embeddings`, `messages`, `responses`; `None`: all."""


@dataclass(frozen=True, slots=True)
class Cache:
    enabled: bool = True
    ttl: float = 3600.0
    max_entries: int = 10_000
    scope: Literal["project", "key", "global"] = "project"
    semantic: Json | None = None


@dataclass(frozen=True, slots=True)
class Tracking:
    promptlayer_key: Secret | None = None
    promptlayer_content: bool = True
    promptlayer_tags: tuple[str, ...] = ("codellama-proxy",)
    requests_content: bool = False
    requests_retention: float = 30 * 86400.0

    @property
    def content(self) -> bool:
        """Whether prompts and answers are recorded anywhere."""
        return self.requests_content or (self.promptlayer_key is not None and self.promptlayer_content)


@dataclass(frozen=True, slots=True)
class Server:
    max_body: int = 32_000_000
    """Bytes."""
    max_parallel_requests: int = 1000
    drain: float = 25.0
    drain_delay: float = 0.0
    cors_origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ui:
    """The dashboard."""

    enabled: bool = True
    session: float = 12 * 3600.0
    """Seconds without use after which a session ends."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole configuration, deeply immutable. A request uses one from start to end."""

    digest: str
    """12 hex digits: a keyed digest of the file and the substituted values (`config/digest.py`)."""
    models: Mapping[str, Model]
    """Enabled models by public name, in file order."""
    disabled: tuple[Deployment, ...]
    guardrail: Guardrail
    routing: Routing
    limits: Mapping[ScopeKind, Limits]
    projects: Mapping[str, Project]
    cache: Cache
    tracking: Tracking
    server: Server
    auth_required: bool
    metrics_public: bool
    egress: Egress = Egress()
    """For requests without a deployment, such as those of the semantic cache."""
    ui: Ui = Ui()
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of models: shell wildcards to model names; the first match counts."""
    warnings: tuple[str, ...] = ()
    """Warnings for people: disabled entries, keys without effect."""
    secrets: frozenset[Secret] = field(default=frozenset(), compare=False)
    """All values from `${...}`, never shown."""
    hidden: frozenset[str] = field(default=frozenset(), compare=False)
    """The paths of these values: `models.NAME#1.base_url`, `limits.global.max_budget`."""
    fingerprint: bytes = field(default=b"", repr=False, compare=False)
    """The input of the digest; never shown, because guesses of secrets could be tested against it."""

    def project(self, name: str) -> Project:
        """The project's settings; defaults with `limits.project` if it is not in the file."""
        found = self.projects.get(name)
        return found if found is not None else Project(name, limits=self.limits["project"])
