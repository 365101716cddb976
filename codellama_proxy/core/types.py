"""The values of one request: its key, upstream calls, events, failures and cost.

Durations are seconds, money is integer nano-USD. The values of the configuration are in `snapshot`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from codellama_proxy.core.clock import nearest
from codellama_proxy.core.money import NANOS
from codellama_proxy.core.snapshot import Json, Limits

FailureClass = Literal["caller", "credential", "busy", "transient", "disguised", "client_left"]
"""The class of a failed attempt, which alone determines routing."""

Basis = Literal["exact", "estimated", "ambiguous", "crash_estimate", "cached"]
"""The source of booked usage: reported, counted, sent but unanswered, left by a crash, or cached."""


@dataclass(frozen=True, slots=True)
class Key:
    """A virtual key as the request path sees it; never its secret."""

    key_id: str
    project: str
    name: str | None = None
    prefix: str = ""
    """The visible first characters of the secret."""
    created_at: float = 0.0
    expires_at: float | None = None
    blocked: bool = False
    models: tuple[str, ...] | None = None
    """Allow-list of shell wildcards; `None`: all models of the project."""
    limits: Limits = Limits()  # noqa: RUF009 - frozen
    """The key's own; `given` names the fields that are set."""
    metadata: Json = field(default_factory=dict)


class Usage(NamedTuple):
    """Tokens, in OpenAI's sense: prompt includes cached and cache-write, completion includes reasoning."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_1h_tokens: int = 0
    """The part of the cache-write tokens with a lifetime of one hour."""
    tool_calls: tuple[tuple[str, int], ...] = ()
    """Calls of the provider's own tools, by name: `web_search`, `web_fetch`."""
    service_tier: str = ""
    """As reported by the upstream; empty if it was not."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, already classified; `message` is safe to show to the caller."""

    cls: FailureClass
    status: int | None = None
    """The upstream's HTTP status, or the one inside its error event."""
    code: str = "upstream_error"
    """A code of `core.errors`, returned to the caller if this was the last attempt."""
    message: str = "The upstream failed."
    retry_after: float | None = None
    """Seconds, from the upstream."""
    param: str | None = None
    reason: str = ""
    """`context_length`, `content_filter` or a word for logs: `connect`, `first_token_timeout`, `http_500` ..."""
    sent: bool = True
    """Whether the request may have reached the upstream."""
    cools: bool = True
    """Whether it may cause a cooldown, as its class does; `False` if only the wording identifies it."""
    usage: Usage | None = None
    """Usage that the upstream reported with the error."""
    refused: bool = False
    """The upstream returned an error itself, so it generated nothing beyond the reported usage."""
    upstream_message: str = field(default="", repr=False)
    """The upstream's raw message, never shown (`failures.disclosed` masks it)."""
    upstream_param: str | None = field(default=None, repr=False)
    unsupported: str = field(default="", repr=False)
    """A parameter that the upstream does not support: the next attempt on this deployment omits it."""


class Charge(NamedTuple):
    """Usage and cost of one upstream call."""

    usage: Usage = Usage()
    basis: Basis = "exact"
    cost_nanos: int | None = 0
    """`None`: the price is unknown."""
    capped: bool = False
    """The upstream reported more than is possible; the bound is booked."""


class Attempt(NamedTuple):
    """One upstream call, finished. The list of attempts is the retry state, the log entry and the header."""

    deployment: str
    failure: Failure | None
    ms: float
    started: float = 0.0
    """Monotonic seconds; 0 if not recorded."""
    at: float = 0.0
    """Milliseconds from the start of the request to that of the attempt; `ms` is the attempt's duration."""
    charge: Charge | None = None
    """`None` until it is computed."""

    def to_json(self) -> dict[str, Any]:
        """The format of rows and logs."""
        deployment, failure, ms, _, at, charge = self
        usage, basis, cost, _ = charge or Charge()
        shown: dict[str, Any] = {
            "deployment": deployment,
            "class": failure.cls if failure else "ok",
            "status": failure.status if failure else 200,
            "at": nearest(at, 10),
            "ms": nearest(ms, 10),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cost_usd": None if cost is None else cost / NANOS,
            "basis": basis,
        }
        if failure and failure.reason:
            shown["reason"] = failure.reason
        return shown


class HttpRequest(NamedTuple):
    """A request to an upstream. Header names are lower-case; the body is JSON."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"
    dropped: tuple[str, ...] = ()
    """Parameters of the client that this provider does not support (`drop_params`)."""


class Step(NamedTuple):
    """One request of an answer that needs several."""

    request: HttpRequest
    delay: float = 0.0
    """Seconds to wait before it is sent."""
    give_up: HttpRequest | None = None
    """Sent if the answer is abandoned at this step or while waiting for it."""
    optional: bool = False
    """Its failure does not fail the answer."""


class StepResponse(NamedTuple):
    """The response to a `Step`; the body is empty if it was streamed and already passed on."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Steps = Generator[Step, StepResponse, None]
"""An answer that needs several requests, as a generator of a dialect."""


class Event(NamedTuple):
    """One piece of an answer in OpenAI's format: a chunk of a stream, or a whole completion."""

    body: bytes
    """One line of JSON; empty if the event is for accounting only. Of a run, its chunks joined by `sse.BETWEEN`: they
    differ in their text only, and `text` is all of it."""
    content: bool = False
    """Whether it has content, a tool call or reasoning; the first such event is the commit point."""
    text: str = ""
    """The generated text, for counting tokens that were not reported."""
    usage: Usage | None = None
    finish_reason: str | None = None
    model: str | None = None
    """The upstream's name of the model that answered."""
    usage_only: bool = False
    """A chunk with usage and no choices, sent only to clients that requested it."""
    alive: bool = False
    """Part of the answer without visible content: the start of a block, hidden reasoning."""
    completion: Json | None = None
    """The whole completion in `body`, where it has been parsed and is small. Read-only."""
    raw: bytes = b""
    """The same in the client's dialect, as the upstream sent it: a frame of a stream, or a whole answer."""


Take = Callable[[Sequence[Event]], bool]
"""Gets the batches of an answer as they arrive, outside any task; `False` if it does not take this one."""


Note = Callable[[Sequence[Event]], Any]
"""Records events, in their order."""

WriteChunk = Callable[[bytes, float], bool]
"""Writes chunks of an HTTP body, framing included, at the event loop's time; `False` if that is impossible now."""


class ChunkOutlet:
    """Sends chunks to a client as they arrive, and notes many of them at once, later."""

    __slots__ = ("catch_up", "note", "raw", "write")

    def __init__(self, write: WriteChunk, note: Note, *, raw: bool = False) -> None:
        """`note` gets the events of the chunks written, before any later event.

        `raw`: the client is sent an event's `raw` instead of its body.
        """
        self.write = write
        self.note = note
        self.raw = raw
        self.catch_up: Callable[[], None] = nothing
        """Notes all chunks written so far. The next one is an event, offered to a `Take`."""


def nothing() -> None:
    """Has no effect."""


def decline(_: Sequence[Event]) -> bool:
    """A `Take` that takes nothing."""
    return False
