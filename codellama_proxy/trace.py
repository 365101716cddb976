"""What is known about one request: filled as it goes, read once at its end by the ledger, the log and the headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from codellama_proxy import limits, pricing
from codellama_proxy.admission import Admission, Settlement
from codellama_proxy.chat import ChatRequest
from codellama_proxy.errors import ProxyError
from codellama_proxy.extras import asked_tier
from codellama_proxy.masking import mask_for
from codellama_proxy.transcript import Transcript
from codellama_proxy.types import NANOS, Attempt, Deployment, Event, Key, Price, Project, Tracking, Usage
from codellama_proxy.usage import Bounds, Window, believed, merged

CLIENT_LEFT = 499
ANONYMOUS = "anonymous"
"""The project of calls without a key, where those are allowed."""
LONGEST_NAME = 256
"""Characters of a name that an upstream gives to its model."""
NOBODYS = Project(ANONYMOUS)
UNTRACKED = Tracking()
UNKNOWN_BOUNDS = Bounds()
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}

PriceOf = Callable[[Deployment], Price | None]


class Books(NamedTuple):
    """What a request used and what that costs."""

    usage: Usage
    basis: str
    cost_nanos: int | None
    """`None`: nobody knows the price."""
    saved_nanos: int | None = 0
    """What an answer from the cache would have cost; `None`: nobody knows."""
    capped: bool = False
    """The upstream reported more than can be."""


@dataclass(slots=True)
class Trace:
    """One request's story. Times are monotonic seconds, except `created_at` (unix seconds)."""

    id: str
    started: float
    created_at: float
    endpoint: str
    config: str
    key: Key | None = None
    settings: Project = NOBODYS
    """Its project's."""
    chat: ChatRequest | None = None
    counts: bool = True
    """It is one more request of its key. What the proxy asks in order to answer another one is not."""
    asked_ledger: bool = False
    """The ledger may hold something for it."""
    admission: Admission | None = None
    attempts: list[Attempt] = field(default_factory=list)
    unable: set[str] = field(default_factory=set)
    """Deployments whose dialect has no words for this request."""
    silent: Deployment | None = None
    """Where the request was sent, or is being sent, without an answer: it may have been processed."""
    serving: Deployment | None = None
    """Whose answer goes to the client."""
    upstream_model: str | None = None
    usage: Usage | None = None
    """The upstream's reports, the latest first."""
    told_at: int = 0
    """How many pieces of `said` had come by the latest report."""
    bounds: Bounds = UNKNOWN_BOUNDS
    """What it can use at most."""
    sent: ChatRequest | None = None
    """The request as its last attempt addressed it: what a count of the prompt counts."""
    counted: Usage | None = None
    """Our own count, where the upstream gave none."""
    booked: Books | None = None
    """Of an answer that is in hand whole."""
    said: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    dropped: tuple[str, ...] = ()
    cache: str = "off"
    similarity: float | None = None
    """Of a semantic hit, where it is known."""
    waited: float = 0.0
    """Seconds spent waiting for upstreams."""
    first_token_at: float | None = None
    ended: float = 0.0
    complete: bool = False
    """The whole answer has been handed over."""
    answered: bool = False
    """The whole answer came, although the client that asked for it had left: others were waiting for it, too."""
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
        """Takes down what the events say about usage and content."""
        if self.transcript is not None:
            self.transcript.add(events)
        for event in events:
            if event.text:
                self.said.append(event.text)
            self.note_usage(event.usage)
            if event.finish_reason is not None:
                self.finish_reason = event.finish_reason
            if event.model is not None:
                self._note_model(event.model)

    def _note_model(self, name: str) -> None:
        """The upstream's own word, which may be anything."""
        served = self.serving
        known = served is not None and name == served.model and not served.secrets
        self.upstream_model = name if known or served is None else mask_for(served)(name[:LONGEST_NAME])

    def note_usage(self, told: Usage | None) -> None:
        """Takes down what the upstream reports as used, for all that was said until now."""
        if told is not None:
            self.usage = merged(self.usage, told)
            self.told_at = len(self.said)

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

    @property
    def answer(self) -> str:
        return "".join(self.said)


def must_count(trace: Trace) -> bool:
    """Whether the books need a count that has not been made."""
    if trace.cached or trace.counted is not None:
        return False
    if trace.serving is None:
        return trace.silent is not None
    if trace.usage is None or not (trace.complete or trace.answered):
        return True
    return lacking(trace)


def lacking(trace: Trace) -> bool:
    """Whether a class of the usage is to be counted: the upstream did not report it, or said more after its report."""
    usage = trace.usage
    if usage is None:
        return True
    if trace.cached:
        return False
    return usage.prompt_tokens == 0 or (not usage.completion_tokens and bool(trace.said)) or said_more(trace)


def said_more(trace: Trace) -> bool:
    """Whether something was said after the latest report on usage."""
    return len(trace.said) > trace.told_at


def books(trace: Trace, price_of: PriceOf, *, whole: bool) -> Books:
    """The usage to book: what the upstream reported of a `whole` answer, else what we counted of what was said.

    A running total that the upstream gave before its answer broke off never lowers the count. A request that
    was sent and not answered costs its prompt; one that was refused or never sent costs nothing.
    """
    served = trace.serving
    counted = trace.counted or Usage()
    tier = asked_tier(trace.sent.params) if trace.sent is not None else ""

    def priced(usage: Usage, basis: str, deployment: Deployment) -> Books:
        price = price_of(deployment)
        return Books(usage, basis, None if price is None else pricing.cost(usage, price, tier))

    if trace.cached and served is not None:
        usage = trace.usage or counted
        return Books(usage, "cached", 0, priced(usage, "cached", served).cost_nanos if whole else 0)
    if served is None:
        if trace.silent is None:
            return Books(Usage(), "exact", 0)
        return priced(Usage(counted.prompt_tokens), "ambiguous", trace.silent)
    if trace.usage is None:
        return priced(counted, "estimated", served)
    more = said_more(trace) or not whole
    found = believed(trace.usage, counted, trace.bounds, _window(served, price_of), said_more=more)
    basis = "exact" if whole and not found.counted else "estimated"
    return priced(found.usage, basis, served)._replace(capped=found.capped)


def _window(deployment: Deployment, price_of: PriceOf) -> Window:
    price = price_of(deployment)
    longest = price.above[-1][0] if price is not None and price.above else 0
    return Window(deployment.context_window, longest)


def settlement(trace: Trace, done: Books) -> Settlement:
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
        total_ms=(trace.ended - trace.started) * 1000,
    )


def record(trace: Trace, done: Books) -> dict[str, Any]:
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
        "overhead_ms": round((trace.ended - trace.started - trace.waited) * 1000, 2),
        "total_ms": round((trace.ended - trace.started) * 1000, 2),
        "config": trace.config,
    }


def _shadowed(trace: Trace) -> list[str]:
    """What shadow limits would have refused: `key:requests`."""
    if trace.admission is None or not trace.admission.shadowed:
        return []
    return [f"{refusal.scope}:{refusal.kind}" for refusal in trace.admission.shadowed]


def usd(nanos: int | None) -> float | None:
    return None if nanos is None else nanos / NANOS


def usd_text(nanos: int | None) -> str | None:
    """Plain decimal, never an exponent: `0.00123`."""
    if nanos is None:
        return None
    whole, part = divmod(nanos, NANOS)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".")


def headers(trace: Trace, now: float) -> dict[str, str]:
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
