"""The values of one request: who asks, what is sent, what comes back, what failed and what it cost.

Durations are seconds, money is integer nano-USD. The values of the configuration are in `snapshot`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from codellama_proxy.core.money import NANOS
from codellama_proxy.core.snapshot import Json, Limits

FailureClass = Literal["caller", "credential", "busy", "transient", "disguised", "client_left"]
"""Who is to blame for a failed attempt; the routing table turns on nothing else."""

Basis = Literal["exact", "estimated", "ambiguous", "crash_estimate", "cached"]
"""How the usage in the books is known: reported, counted, only sent, left by a crash, or from the cache."""


@dataclass(frozen=True, slots=True)
class Key:
    """A virtual key as the request path sees it; never its secret."""

    key_id: str
    project: str
    name: str | None = None
    prefix: str = ""
    """The first characters of the secret, for people."""
    created_at: float = 0.0
    expires_at: float | None = None
    blocked: bool = False
    models: tuple[str, ...] | None = None
    """Allow-list of shell wildcards; `None`: whatever the project may use."""
    limits: Limits = Limits()  # noqa: RUF009 - frozen
    """The key's own, set at creation; `given` tells which."""
    metadata: Json = field(default_factory=dict)


class Usage(NamedTuple):
    """Tokens, in OpenAI's sense: prompt includes cached and cache-write, completion includes reasoning."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_1h_tokens: int = 0
    """Of the cache-write tokens, those that are kept for an hour."""
    tool_calls: tuple[tuple[str, int], ...] = ()
    """Calls of the provider's own tools, by name: `web_search`, `web_fetch`."""
    service_tier: str = ""
    """As the upstream reported it; empty where it did not."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, already classified; `message` is safe to show to the caller."""

    cls: FailureClass
    status: int | None = None
    """The upstream's HTTP status, or the one inside its error event."""
    code: str = "upstream_error"
    """A code of our error table: what the caller sees if this was the last attempt."""
    message: str = "The upstream failed."
    retry_after: float | None = None
    """Seconds, as the upstream asked."""
    param: str | None = None
    reason: str = ""
    """`context_length`, `content_filter` or a word for logs: `connect`, `first_token_timeout`, `http_500` ..."""
    sent: bool = True
    """Whether the request may have reached the upstream."""
    cools: bool = True
    """Whether it may rest the deployment for others, as its class does; `False`: known by words only."""
    usage: Usage | None = None
    """What the upstream reported as used along with the error."""
    refused: bool = False
    """The upstream answered with an error of its own, so it generated nothing that it did not tell of."""
    said: str = field(default="", repr=False)
    """The upstream's own words, as they came: never to be shown (`failures.disclosed` cleans them)."""
    said_param: str | None = field(default=None, repr=False)
    unsupported: str = field(default="", repr=False)
    """The parameter that the upstream does not take: the next try on this deployment leaves it out."""


class Charge(NamedTuple):
    """What one upstream call used, and what that costs."""

    usage: Usage = Usage()
    basis: Basis = "exact"
    cost_nanos: int | None = 0
    """`None`: the price is unknown."""
    capped: bool = False
    """The upstream reported more than is possible."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One upstream call, finished. The list of attempts is the retry state, the log entry and the header."""

    deployment: str
    failure: Failure | None
    ms: float
    started: float = field(default=0.0, compare=False)
    """Monotonic; 0 where nobody noted it."""
    at: float = 0.0
    """Milliseconds from the request's start to the attempt's; `ms` counts from there to its end."""
    charge: Charge | None = None
    """`None` until it is worked out."""

    def to_json(self) -> dict[str, Any]:
        """As rows and logs show it."""
        usage, basis, cost, _ = self.charge or Charge()
        shown: dict[str, Any] = {
            "deployment": self.deployment,
            "class": self.failure.cls if self.failure else "ok",
            "status": self.failure.status if self.failure else 200,
            "at": round(self.at, 1),
            "ms": round(self.ms, 1),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cost_usd": None if cost is None else cost / NANOS,
            "basis": basis,
        }
        if self.failure and self.failure.reason:
            shown["reason"] = self.failure.reason
        return shown


class HttpRequest(NamedTuple):
    """What a dialect wants sent. Headers are lower-case; the body is JSON."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"
    dropped: tuple[str, ...] = ()
    """Parameters the client gave that this provider does not take (`drop_params`)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One request of an answer that takes several."""

    request: HttpRequest
    delay: float = 0.0
    """Seconds to wait before it is sent."""
    give_up: HttpRequest | None = None
    """What to send if the answer is left at this step or while waiting for it."""
    optional: bool = False
    """The answer may do without it."""


@dataclass(frozen=True, slots=True)
class StepResponse:
    """What came back for a `Step`; the body is empty when it was a stream, and has been handed on."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Steps = Generator[Step, StepResponse, None]
"""How a dialect tells an answer that takes several requests."""


class Event(NamedTuple):
    """One piece of an answer in OpenAI's shape: a stream's chunk, or a whole completion."""

    body: bytes
    """One line of JSON; empty when there is nothing for the client, only for the books."""
    content: bool = False
    """Carries content, a tool call or reasoning: the first such event is the commit point."""
    text: str = ""
    """What was said, for counting tokens that no one reported."""
    usage: Usage | None = None
    finish_reason: str | None = None
    model: str | None = None
    """The upstream's own name for what answered."""
    usage_only: bool = False
    """A chunk without choices that is there for its usage: shown only to clients that asked for it."""
    alive: bool = False
    """Belongs to the answer but has nothing to show yet: a block's start, thoughts that are kept hidden."""
