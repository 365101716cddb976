"""The configuration as the request path reads it: immutable values, made from proxy.yaml and replaced as a whole.

Durations are seconds, money is integer nano-USD, prices are nano-USD per million tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Json = Mapping[str, Any]
"""One JSON object as it came off a wire."""

ScopeKind = Literal["global", "project", "key", "user"]

CallerFault = Literal["context_length", "content_filter"]
"""A fault of the request that another model may not have."""


class Secret:
    """A string that shows itself only when asked by `reveal`."""

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
    """Certificates that are trusted besides the system's."""

    path: str
    certificates: str = field(repr=False)
    """PEM, as they were when the configuration was read."""


@dataclass(frozen=True, slots=True)
class Egress:
    """How an upstream is reached."""

    proxy: Secret | None = None
    """An HTTP proxy's URL, which may hold a user name and a password; `None`: directly."""
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
    """Nano-USD per million tokens. A missing class costs what plain input costs, an hour in the cache twice that."""

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None


@dataclass(frozen=True, slots=True)
class Price(Tariff):
    """The rates of short prompts in the usual service tier, and what differs from them."""

    above: tuple[tuple[int, Tariff], ...] = ()
    """Tariff of prompts with more tokens than so many, the fewest first."""
    service_tiers: tuple[tuple[str, Tariff], ...] = ()
    server_tools: tuple[tuple[str, int], ...] = ()
    """Nano-USD for a million calls of each."""


@dataclass(frozen=True, slots=True)
class Mock:
    """What the built-in `mock` provider answers and how badly it behaves. `None`: does not."""

    reply: str | None = None
    first_token_delay: float = 0.0
    tokens_per_second: float | None = None
    status: int | None = None
    retry_after: float | None = None
    cut_after_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """One concrete entry of `models:` to send to."""

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
    weight: float = 1.0
    timeouts: Timeouts = Timeouts()
    params: Json = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    system_prompt: str | Literal[False] | None = None
    """Replaces the guardrail's text; `False` for none; `None` to keep the guardrail's."""
    drop_params: bool = False
    mode: Literal["chat", "embedding", "completion"] = "chat"
    also: frozenset[str] = frozenset()
    """Other modes it serves: a chat model with `completions: true` completes text too."""
    mock: Mock | None = None
    base_model: str | None = None
    """The model's well-known name, for capabilities and prices."""
    extra: Json = field(default_factory=dict)
    """Keys that only one provider has: azure `deployment`, `api_version`; replicate `input_map`, `prompt_format`."""
    fallback: bool = True
    """Whether it may serve as a backup for other models."""
    proxy: Secret | None = None
    """An HTTP proxy's URL on the way there; `None`: directly."""
    ca_bundle: Bundle | None = None
    """Certificates that are trusted there besides the system's."""
    disabled: str | None = None
    """Why nothing may be sent here, in words; `None` when it is enabled."""
    secrets: frozenset[Secret] = frozenset()
    """What `${...}` put into the entry and into the guardrails: never to be shown."""

    @property
    def egress(self) -> Egress:
        """How it is reached."""
        return Egress(self.proxy, self.ca_bundle)

    def serves(self, mode: str) -> bool:
        return mode == self.mode or mode in self.also


@dataclass(frozen=True, slots=True)
class Model:
    """A public name: its deployments in file order, and the names tried after it."""

    name: str
    deployments: tuple[Deployment, ...]
    """Enabled ones only; never empty for a model a request can reach."""
    fallbacks: tuple[str, ...]
    """Names of enabled models, in the order they are tried."""


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


@dataclass(frozen=True, slots=True)
class Limits:
    """What one scope may use. `None` means no limit, 0 means none allowed."""

    rpm_limit: int | None = None
    tpm_limit: int | None = None
    max_parallel_requests: int | None = None
    max_budget: int | None = None
    """Nano-USD."""
    budget_duration: str | None = None
    """`hour|day|week|month` (UTC calendar windows), `Nh`/`Nd` (from first use), `None`: for ever."""
    shadow: bool = False
    """Count and log, never refuse."""
    given: frozenset[str] = frozenset()
    """Names of the fields somebody wrote down: only these replace another scope's defaults."""


@dataclass(frozen=True, slots=True)
class Project:
    name: str
    limits: Limits = Limits()
    """`limits.project` overlaid with the project's own."""
    own_limits: Limits = Limits()
    models: tuple[str, ...] | None = None
    """Allow-list of shell wildcards; `None`: all."""
    guardrail: str | Literal[False] | None = None
    """Own text, `False` for none, `None` to keep the guardrail's."""
    cache: bool = True
    endpoints: frozenset[str] | None = None
    """What its keys may call: `chat`, `completions`, `embeddings`, `messages`, `responses`; `None`: all."""


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
        """Whether anybody wants to know what was said."""
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
class Snapshot:
    """Everything proxy.yaml says, deeply immutable. A request reads one from start to end."""

    digest: str
    """12 hex digits that change with the file and what was substituted into it, keyed (`config/digest.py`)."""
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
    """For requests that belong to no deployment, such as the semantic cache's."""
    warnings: tuple[str, ...] = ()
    """What a person should know but need not mend: disabled entries, keys without effect yet."""
    secrets: frozenset[Secret] = field(default=frozenset(), compare=False)
    """What `${...}` put in anywhere: never to be shown."""
    hidden: frozenset[str] = field(default=frozenset(), compare=False)
    """Where it was put in: `models.NAME#1.base_url`, `limits.global.max_budget`."""
    fingerprint: bytes = field(default=b"", repr=False, compare=False)
    """What the digest is made of: never shown, as secrets could be tried against it."""

    def project(self, name: str) -> Project:
        """The project's settings; one that the file does not name has the defaults of `limits.project`."""
        found = self.projects.get(name)
        return found if found is not None else Project(name, limits=self.limits["project"])
