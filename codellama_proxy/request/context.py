"""What is known about one request: filled as it goes, read once at its end by the ledger, the log and the headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.masking import mask_for
from codellama_proxy.core.money import usd
from codellama_proxy.core.snapshot import Deployment, Price, Project, Tracking
from codellama_proxy.core.types import Attempt, Basis, Event, Key, Usage
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import Admission, Settlement
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import Bounds
from codellama_proxy.pricing import charge as charging
from codellama_proxy.pricing.charge import LEFT, UNKNOWN_BOUNDS, Call
from codellama_proxy.request.transcript import Transcript

CLIENT_LEFT = 499
ANONYMOUS = "anonymous"
"""The project of calls without a key, where those are allowed."""
LONGEST_NAME = 256
"""Characters of a name that an upstream gives to its model."""
ANONYMOUS_PROJECT = Project(ANONYMOUS)
UNTRACKED = Tracking()
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}

PriceOf = Callable[[Deployment], Price | None]


def _none() -> bool:
    return False


class RequestCharge(NamedTuple):
    """What a request used and what that costs: the sum over its upstream calls."""

    usage: Usage
    basis: Basis
    """Of the least certain of them."""
    cost_nanos: int | None
    """`None`: the price of at least one of them is unknown."""
    saved_nanos: int | None = 0
    """What an answer from the cache would have cost; `None`: nobody knows."""
    capped: bool = False
    """The upstream reported more than can be."""


@dataclass(slots=True)
class RequestContext:
    """One request's story. Times are monotonic seconds, except `created_at` (unix seconds)."""

    id: str
    started: float
    created_at: float
    endpoint: str
    config: str
    key: Key | None = None
    settings: Project = ANONYMOUS_PROJECT
    """Its project's."""
    chat: InferenceRequest | None = None
    counts: bool = True
    """It is one more request of its key. What the proxy asks in order to answer another one is not."""
    asked_ledger: bool = False
    """The ledger may hold something for it."""
    admission: Admission | None = None
    scopes: tuple[ScopeLimits, ...] = ()
    """The limited scopes it was admitted to."""
    held_nanos: int = 0
    """What the ledger holds for it now."""
    calls: list[Call] = field(default_factory=list)
    """Its upstream calls, one after another; the last may be under way."""
    attempts: list[Attempt] = field(default_factory=list)
    """The records of those that have ended, or begun to answer."""
    others: Callable[[], bool] = _none
    """Whether other requests wait for its answer, too."""
    planned: Sequence[Deployment] = ()
    """The order in which its first attempt looks for a deployment."""
    unable: set[str] = field(default_factory=set)
    """Deployments whose dialect has no words for this request."""
    serving: Deployment | None = None
    """Whose answer goes to the client."""
    named_model: str | None = None
    """The name as the upstream gave it last: not to be shown."""
    upstream_model: str | None = None
    budgeted: bool = False
    """A budget can refuse it, so all it asks for needs a price."""
    bounds: Bounds = UNKNOWN_BOUNDS
    """What each of its calls can use at most."""
    sent: InferenceRequest | None = None
    """The request as its last attempt addressed it."""
    kept: Call | None = None
    """The call whose answer it gets for nothing: one of an earlier request, or of another that pays for it."""
    finish_reason: str | None = None
    dropped: tuple[str, ...] = ()
    cache: str = "off"
    similarity: float | None = None
    """Of a semantic hit, where it is known."""
    waited: float = 0.0
    """Seconds spent waiting for upstreams."""
    first_at: float | None = None
    """When the first content of its answer was in hand."""
    ended: float = 0.0
    complete: bool = False
    """The whole answer has been handed over."""
    gone: bool = False
    """The client left."""
    error: ProxyError | None = None
    tracking: Tracking = UNTRACKED
    """What is to be kept of it, and told to others."""
    hints: Mapping[str, str] = field(default_factory=dict)
    """The client's headers that are for tracking."""
    tried: Deployment | None = None
    """Where it was sent last."""
    transcript: Transcript | None = None
    """What was said, where anybody wants to know."""

    def note(self, events: Sequence[Event]) -> None:
        """Takes down what is handed on to the client; what it costs is in `calls`."""
        if self.transcript is not None:
            self.transcript.add(events)
        if self.kept is not None:
            self.kept.note(events)
        for event in events:
            if event.finish_reason is not None:
                self.finish_reason = event.finish_reason
            if event.model is not None:
                self._note_model(event.model)

    def _note_model(self, name: str) -> None:
        """The upstream's own word, which may be anything."""
        if name == self.named_model:
            return  # every piece of a stream repeats it
        served = self.serving or self.tried
        self.named_model = name if served is not None else None
        known = served is not None and name == served.model and not served.secrets
        self.upstream_model = name if known or served is None else mask_for(served)(name[:LONGEST_NAME])

    @property
    def project(self) -> str:
        return self.settings.name

    @property
    def cached(self) -> bool:
        """The answer costs nothing: it was kept, or another request pays for it."""
        return self.cache in ("hit", "semantic")

    @property
    def status(self) -> str:
        if self.complete:
            return "ok"
        return "cancelled" if self.gone else "error"

    @property
    def http_status(self) -> int:
        if self.complete or (self.serving is not None and not self.gone):
            return 200  # sent with the first event, whatever happened after it
        if self.gone:
            return CLIENT_LEFT
        return self.error.status if self.error is not None else 500

    def leave(self) -> None:
        """The client left; what it asked for is finished without it."""
        self.gone = True

    def close_calls(self) -> None:
        """At the request's end: a call that has not ended is one that the client left."""
        for call in self.calls[len(self.attempts) :]:
            call.leave(self.ended, LEFT)
        for call in self.calls:
            call.leave(self.ended)
        if self.calls:
            self.attempts = [call.attempt() for call in self.calls]


def uncharged(trace: RequestContext) -> list[Call]:
    """Its ended calls that have no charge yet."""
    return [call for call in trace.calls if call.ended is not None and call.charge is None]


def request_charge(trace: RequestContext, price_of: PriceOf) -> RequestCharge:
    """What to book, once every call is charged: an answer from the cache is free, and tells what it saved."""
    kept = trace.kept
    if kept is None:
        whole = charging.total([call.charge for call in trace.calls if call.charge is not None])
        return RequestCharge(whole.usage, whole.basis, whole.cost_nanos, capped=whole.capped)
    usage = kept.usage or kept.counted or Usage()
    saved = charging.priced(kept, usage, price_of(kept.deployment)) if trace.complete else 0
    return RequestCharge(usage, "cached", 0, saved)


def settlement(trace: RequestContext, done: RequestCharge) -> Settlement:
    """How the request ended, for the ledger."""
    return Settlement(
        request_id=trace.id,
        status=trace.status,
        http_status=trace.http_status,
        attempts=tuple(trace.attempts),
        model=trace.serving.name if trace.serving else None,
        deployment=trace.serving.id if trace.serving else None,
        upstream_model=trace.upstream_model,
        usage=done.usage,
        basis=done.basis,
        cost_nanos=done.cost_nanos,
        saved_nanos=done.saved_nanos,
        cache=trace.cache,
        first_ms=first_ms(trace),
        total_ms=(trace.ended - trace.started) * 1000,
    )


def record(trace: RequestContext, done: RequestCharge) -> dict[str, Any]:
    """The request as log lines show it: no content, no header, no secret."""
    served = trace.serving
    return {
        "request_id": trace.id,
        "endpoint": trace.endpoint,
        "key_id": trace.key.key_id if trace.key else None,
        "project": trace.project,
        "model_requested": trace.chat.model if trace.chat else None,
        "model": served.name if served else None,
        "deployment": served.id if served else None,
        "stream": trace.chat.stream if trace.chat else None,
        "status": trace.status,
        "http_status": trace.http_status,
        "error": trace.error.code if trace.error else None,
        "shadowed": _shadowed(trace),
        "attempts": [attempt.to_json() for attempt in trace.attempts],
        "prompt_tokens": done.usage.prompt_tokens,
        "completion_tokens": done.usage.completion_tokens,
        "cached_tokens": done.usage.cached_tokens,
        "cost_usd": usd(done.cost_nanos),
        "basis": done.basis,
        "cache": trace.cache,
        "first_ms": None if (first := first_ms(trace)) is None else round(first, 2),
        "overhead_ms": round((trace.ended - trace.started - trace.waited) * 1000, 2),
        "total_ms": round((trace.ended - trace.started) * 1000, 2),
        "config": trace.config,
    }


def first_ms(trace: RequestContext) -> float | None:
    """Milliseconds until the first content was in hand; `None` if none came."""
    return None if trace.first_at is None else (trace.first_at - trace.started) * 1000


def _shadowed(trace: RequestContext) -> list[str]:
    """What shadow limits would have refused: `key:requests`."""
    if trace.admission is None or not trace.admission.shadowed:
        return []
    return [f"{refusal.scope}:{refusal.kind}" for refusal in trace.admission.shadowed]


def headers(trace: RequestContext, now: float) -> dict[str, str]:
    """What every answer tells about itself, errors too."""
    shown = {
        "x-request-id": trace.id,
        "x-proxy-config": trace.config,
        "x-proxy-cache": trace.cache,
        "x-proxy-attempts": str(len(trace.attempts)),
        "x-proxy-overhead-ms": f"{(now - trace.started - trace.waited) * 1000:.2f}",
    }
    if trace.serving is not None:
        shown["x-proxy-model"] = _header_text(trace.serving.name)
        shown["x-proxy-deployment"] = _header_text(trace.serving.id)
    if trace.similarity is not None:
        shown["x-proxy-similarity"] = f"{trace.similarity:.4f}"
    if trace.dropped:
        shown["x-proxy-dropped-params"] = ",".join(trace.dropped)
    if trace.admission is not None:
        shown.update(limits.headers(trace.admission.requests, trace.admission.tokens))
        if trace.admission.clamped:
            shown["x-proxy-max-tokens"] = str(trace.admission.max_tokens)
    return shown


def _header_text(name: str) -> str:
    """Header values are Latin-1 without line breaks; a model may be called anything."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(char if " " <= char <= "~" else "?" for char in name)
