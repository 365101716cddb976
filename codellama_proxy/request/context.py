"""What is known about one request: filled in by each stage, read at its end by the ledger, the log and tracking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.masking import mask_for
from codellama_proxy.core.snapshot import Deployment, Guardrail, Project, Tracking
from codellama_proxy.core.types import Attempt, Event, Key
from codellama_proxy.limits.admission import Admission
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import DeploymentRequests
from codellama_proxy.pricing.charge import LEFT, UNKNOWN_BOUNDS, Call
from codellama_proxy.pricing.plausible_usage import Bounds
from codellama_proxy.request.transcript import Transcript

CLIENT_LEFT = 499
ANONYMOUS = "anonymous"
"""The project of calls without a key, where those are allowed."""
LONGEST_NAME = 256
"""Characters of a name that an upstream gives to its model."""
ANONYMOUS_PROJECT = Project(ANONYMOUS)
UNTRACKED = Tracking()


def _none() -> bool:
    return False


@dataclass(slots=True)
class RequestContext:
    """The state of one request. Times are monotonic seconds, except `created_at` (unix seconds)."""

    id: str
    started: float
    created_at: float
    endpoint: str
    config: str
    key: Key | None = None
    settings: Project = ANONYMOUS_PROJECT
    """Its project's."""
    request: InferenceRequest | None = None
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
    requests: DeploymentRequests | None = None
    """The request at each of its candidates, as far as it was worked out."""
    sent: InferenceRequest | None = None
    """The request as its last attempt addressed it."""
    kept: Call | None = None
    """The call whose answer it gets for nothing: one of an earlier request, or of another that pays for it."""
    following: bool = False
    """It ended while it waited for the beginning of another request's answer."""
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
    """What is recorded of it and sent to tracking services."""
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
            if event.model is not None and event.model != self.named_model:  # every piece repeats it
                self._note_model(event.model)

    def _note_model(self, name: str) -> None:
        """The upstream's own word, which may be anything."""
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
    def first_ms(self) -> float | None:
        """Milliseconds until the first content was in hand; `None` if none came."""
        return None if self.first_at is None else (self.first_at - self.started) * 1000

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

    def requests_for(self, request: InferenceRequest, guardrail: Guardrail) -> DeploymentRequests:
        """`request` at each candidate, kept for the stages that follow."""
        if self.requests is None or self.requests.request is not request:
            self.requests = DeploymentRequests(request, guardrail, self.settings)
        return self.requests

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
