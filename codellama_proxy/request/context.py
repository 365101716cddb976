"""The state of one request: set by each stage, read at the end by the ledger, the log and tracking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.masking import mask_for
from codellama_proxy.core.snapshot import Deployment, Json, Project, Snapshot, Tracking
from codellama_proxy.core.types import Attempt, Event, Key
from codellama_proxy.limits.admission import Admission
from codellama_proxy.limits.rates import Rate, ScopeLimits
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import DeploymentRequests
from codellama_proxy.policy.project_rules import ProjectRules, rules_of
from codellama_proxy.pricing.charge import CANCELLED, CANCELLED_MIDWAY, UNKNOWN_BOUNDS, Call
from codellama_proxy.pricing.plausible_usage import Bounds
from codellama_proxy.request.transcript import Transcript
from codellama_proxy.routing.chain import Chain
from codellama_proxy.routing.sticky import Conversation

CLIENT_CLOSED_REQUEST = 499
"""The HTTP status of a request whose client disconnected (as in nginx); logged, never sent."""
ANONYMOUS = "anonymous"
"""The project of requests without a key, if those are allowed."""
MAX_NAME_CHARACTERS = 256
"""Maximum length of a model name reported by an upstream."""
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
    """The settings of its project."""
    request: InferenceRequest | None = None
    counts: bool = True
    """Whether it counts as a request of its key; embedding requests of the semantic cache do not."""
    needs_settlement: bool = False
    """Admission was requested, so the ledger may have a held row."""
    admission: Admission | None = None
    scopes: tuple[ScopeLimits, ...] = ()
    """The limited scopes it was admitted to."""
    held_nanos: int = 0
    """The present hold in the ledger, in nano-USD."""
    calls: list[Call] = field(default_factory=list)
    """Its upstream calls in order; the last may be in progress."""
    attempts: list[Attempt] = field(default_factory=list)
    """The records of the calls that have ended or begun to answer."""
    shown_attempts: Sequence[Json] = ()
    """The same as rows and logs show them, once the request has ended."""
    others: Callable[[], bool] = _none
    """Whether other requests wait for its answer."""
    session: str | None = None
    """The client's session id, by which conversations and spending are told apart."""
    agent: str | None = None
    """The client's id of the agent within the session."""
    conversation: Conversation | None = None
    """What its deployments are ordered by, where a name has more than one."""
    planned: Sequence[Deployment] = ()
    """The order of deployments for the first attempt."""
    planned_for: Chain | None = None
    """The chain they were planned for."""
    unable: set[str] = field(default_factory=set)
    """IDs of deployments that do not support this request."""
    serving: Deployment | None = None
    """The deployment whose answer is sent to the client."""
    named_model: str | None = None
    """The model name last reported by the upstream, unmasked: not to be shown."""
    upstream_model: str | None = None
    budgeted: bool = False
    """A budget can refuse it, so every billed feature it uses needs a price."""
    bounds: Bounds = UNKNOWN_BOUNDS
    """The maximum usage of each of its calls."""
    rules: ProjectRules | None = None
    """What the configuration decides for its project; made from `settings` where it is not set."""
    requests: DeploymentRequests | None = None
    """The request for each of its candidates, computed on demand."""
    sent: InferenceRequest | None = None
    """The request as it was sent by the last attempt."""
    kept: Call | None = None
    """The call whose answer it gets free of charge: from the cache, or from a shared call."""
    following: bool = False
    """It ended while it waited for the start of a shared call."""
    finish_reason: str | None = None
    dropped: tuple[str, ...] = ()
    cache: str = "off"
    similarity: float | None = None
    """The similarity of a semantic hit, if known."""
    waited: float = 0.0
    """Seconds spent waiting for upstreams."""
    first_at: float | None = None
    """When the first content of its answer was available."""
    ended: float = 0.0
    complete: bool = False
    """The whole answer has been sent to the client."""
    gone: bool = False
    """The client disconnected."""
    error: ProxyError | None = None
    tracking: Tracking = UNTRACKED
    """What is recorded and sent to tracking services."""
    hints: Mapping[str, str] = field(default_factory=dict)
    """The client's headers with tracking metadata."""
    tried: Deployment | None = None
    """The deployment of the last attempt."""
    transcript: Transcript | None = None
    """Collects the content of the answer; `None` if content is not recorded."""

    def note(self, events: Sequence[Event]) -> None:
        """Records events that are sent to the client. Their cost is recorded in `calls`."""
        if self.transcript is not None:
            self.transcript.add(events)
        if self.kept is not None:
            self.kept.note(events)
        for event in events:
            if event.finish_reason is not None:
                self.finish_reason = event.finish_reason
            if event.model is not None and event.model != self.named_model:  # every chunk repeats it
                self._note_model(event.model)

    def _note_model(self, name: str) -> None:
        """Stores the reported model name, masked and cut: it is untrusted input."""
        served = self.serving or self.tried
        self.named_model = name if served is not None else None
        known = served is not None and name == served.model and not served.secrets
        self.upstream_model = (
            name if known or served is None else mask_for(served)(name[:MAX_NAME_CHARACTERS])
        )

    @property
    def rates(self) -> tuple[Rate | None, Rate | None]:
        """What the tightest scope has left of requests and of tokens, where it was admitted and has limits."""
        return (None, None) if self.admission is None else (self.admission.requests, self.admission.tokens)

    @property
    def cached(self) -> bool:
        """The answer is free of charge: from the cache, or paid by the owner of a shared call."""
        return self.cache in ("hit", "semantic")

    @property
    def first_ms(self) -> float | None:
        """Milliseconds until the first content; `None` if there was none."""
        return None if self.first_at is None else (self.first_at - self.started) * 1000

    @property
    def status(self) -> str:
        if self.complete:
            return "ok"
        return "cancelled" if self.gone else "error"

    @property
    def http_status(self) -> int:
        if self.complete or (self.first_at is not None and not self.gone):
            return 200  # sent with the first event, whatever happened after it
        if self.gone:
            return CLIENT_CLOSED_REQUEST
        return self.error.status if self.error is not None else 500

    def rules_under(self, snapshot: Snapshot) -> ProjectRules:
        """The rules of its project, under the configuration it runs with."""
        if self.rules is None:
            self.rules = rules_of(snapshot, self.settings)
        return self.rules

    def requests_for(self, request: InferenceRequest, snapshot: Snapshot) -> DeploymentRequests:
        """`request` for each candidate, reused by the following stages."""
        if self.requests is None or self.requests.request is not request:
            self.requests = DeploymentRequests(request, self.rules_under(snapshot))
        return self.requests

    def leave(self) -> None:
        """Records that the client disconnected; the request continues without it."""
        self.gone = True

    def leave_calls(self) -> None:
        """At the end of the request: calls still in progress were cancelled because the client disconnected."""
        for index, call in enumerate(self.calls):
            if call.ended is None:
                call.leave(self.ended, CANCELLED if index >= len(self.attempts) else CANCELLED_MIDWAY)

    def record_calls(self) -> None:
        """Once every call has its charge: the attempts as rows and logs show them."""
        if self.calls:
            self.attempts = [call.attempt() for call in self.calls]
        self.shown_attempts = [attempt.to_json() for attempt in self.attempts]
