"""The decision for one request, made by the functions of the live gateway, and reported instead of executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from codellama_proxy.cache import key as caching
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Limits, Model, Price, ScopeKind, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.diagnostics.limit_sources import with_sources
from codellama_proxy.gateway import admission_request as asking
from codellama_proxy.limits import admission
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import Admission, ScopeState
from codellama_proxy.limits.rates import UNRATED, ScopeLimits
from codellama_proxy.limits.windows import window
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.guardrail import check_client_system
from codellama_proxy.policy.permissions import allows, permission
from codellama_proxy.pricing.catalogue import price_of
from codellama_proxy.providers.registry import adapter_of
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing import selection as routing
from codellama_proxy.routing import sticky
from codellama_proxy.routing.chain import Chain
from codellama_proxy.routing.cooldown import Cooling, is_cooling
from codellama_proxy.routing.sticky import Conversation

Standings = Callable[[Sequence[ScopeLimits]], Sequence[ScopeState]]
"""Reads the state of scopes from the ledger."""
Count = Callable[[InferenceRequest, Deployment], int]
"""Counts the tokens of a prompt for a deployment."""


@dataclass(frozen=True, slots=True)
class World:
    """What the decision depends on besides the configuration and the request."""

    count: Count
    standings: Standings
    now: float
    """Unix seconds."""
    cooling: Mapping[str, Cooling] = field(default_factory=dict)
    """By deployment id, on a clock that stands at 0."""
    session: str | None = None
    """The client's session id."""


@dataclass(frozen=True, slots=True)
class CandidateState:
    """One deployment of the file, and its role for this request."""

    deployment: Deployment
    state: str
    """`ready`, `cooling`, `disabled`, `not allowed`, `another mode` or `not a fallback`."""
    why: str = ""
    guardrail: str = ""
    price: Price | None = None
    share: float = 1.0
    """Fraction of the requests to its model."""
    refuses: str = ""
    """Why its adapter cannot express this request."""
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitState:
    """One limit in force, and where it is configured."""

    scope: str
    field: str
    value: object
    source: str


@dataclass(frozen=True, slots=True)
class Cached:
    """How the cache treats the request."""

    state: str
    """`used`, or why it is not: `off`, `off for the project`, `off: only chats are kept`, `not asked by the client`."""
    scope: str = ""
    """The scope that shares the answer."""
    key: str = ""
    """The cache key, a hexadecimal digest."""


@dataclass(frozen=True, slots=True)
class Explanation:
    chain: tuple[CandidateState, ...] = ()
    """The deployments to attempt, in this order."""
    others: tuple[CandidateState, ...] = ()
    """The other deployments, with the reason."""
    limits: tuple[LimitState, ...] = ()
    admission: Admission | None = None
    most_nanos: int | None = None
    """The maximum cost; `None` if a model in the chain has no price."""
    prompt_tokens: int = 0
    error: ProxyError | None = None
    """The error the caller gets instead of an attempt."""
    models: tuple[Model, ...] = ()
    cache: Cached | None = None
    conversation: Conversation | None = None
    """The conversation whose requests stay on one deployment of a name, if there is a choice."""


def explain(snapshot: Snapshot, key: Key, chat: InferenceRequest, world: World) -> Explanation:
    """The decision from permission to admission; what follows depends on the upstreams."""
    trace = trace_of(snapshot, key, chat, world.now)
    trace.session = world.session
    explanation = Explanation(limits=tuple(limits_of(snapshot, key, chat.user)))
    try:
        check_client_system(chat.messages, snapshot.guardrail.client_system)
        permitted = permission(trace.settings, key, chat.shown_endpoint)
        asked = routing.requested_model(snapshot, chat.model, chat.mode, permitted)
        whole = Chain(routing.models_of_chain(snapshot, asked, permitted, world.cooling, 0.0, chat.mode))
    except ProxyError as error:
        return replace(explanation, error=error, others=tuple(_others(snapshot, key, chat, None, ())))
    scopes = asking.scopes_of(trace, chat, snapshot)
    trace.budgeted = scopes.budgeted
    chain = whole.payable() if trace.budgeted else whole
    estimate = world.count(chat, chain.deployments[0])
    ask = asking.admission_request(trace, chat, chain, snapshot, scopes.limited, estimate)
    explanation = replace(explanation, most_nanos=_most(ask), prompt_tokens=estimate, models=chain.models)
    try:
        explanation = replace(explanation, cache=_cached(trace, chat, chain.models[0], snapshot))
        trace.admission = admission.decide(ask, world.standings(scopes.limited)).admission
    except ProxyError as error:
        explanation = replace(explanation, error=error)
    conversation = sticky.conversation_of(chat, chain.models, snapshot.routing, world.session, key.key_id)
    order = routing.candidates(chain.models, world.cooling, 0.0, lambda: 0.5, conversation)
    places = tuple(_candidate(trace, chat, one, snapshot, world) for one in order)
    every = [d.id for d in whole.deployments]
    others = tuple(_others(snapshot, key, chat, asked, [d.id for d in order], every))
    return replace(
        explanation, admission=trace.admission, chain=places, others=others, conversation=conversation
    )


def trace_of(snapshot: Snapshot, key: Key, chat: InferenceRequest, now: float) -> RequestContext:
    """The context of a request that begins now."""
    trace = RequestContext("req_explained", 0.0, now, chat.shown_endpoint, snapshot.digest, key=key)
    trace.settings = snapshot.project(key.project)
    trace.request = chat
    return trace


def admitted(
    snapshot: Snapshot, key: Key, chat: InferenceRequest, explanation: Explanation
) -> RequestContext:
    """The context of the explained request before its first attempt, at 0."""
    trace = trace_of(snapshot, key, chat, 0.0)
    trace.admission, trace.conversation = explanation.admission, explanation.conversation
    return trace


def unused(now: float) -> Standings:
    """The state of scopes without any usage."""

    def fresh(scope: ScopeLimits) -> ScopeState:
        own = scope.limits
        opened = None if own.max_budget is None else window(own.budget_duration, now, now)
        rates = limits.refill(UNRATED, own, now)
        return ScopeState(scope, rates, resets_at=None if opened is None else opened.end)

    return lambda scopes: [fresh(scope) for scope in scopes]


def _cached(trace: RequestContext, chat: InferenceRequest, asked: Model, snapshot: Snapshot) -> Cached:
    """Raises `ProxyError` for invalid cache directives."""
    if chat.endpoint != "chat/completions":
        return Cached("off: only chats are kept")
    wish, project = caching.directives_of(chat.cache, ""), trace.settings
    if not snapshot.cache.enabled:
        return Cached("off")
    if not project.cache:
        return Cached("off for the project")
    if not wish.read and not wish.write:
        return Cached("not asked by the client")
    of = caching.scope_of(snapshot, trace.settings.name, trace.key)
    key = caching.key_of(of.kind, of.name, trace.requests_for(chat, snapshot), asked)
    return Cached("used", f"{of.kind} {of.name}".strip(), key.hex())


def _most(ask: admission.AdmissionRequest) -> int | None:
    if None in ask.prices:
        return None
    return ask.bound.nanos(ask.wanted_tokens)


# --- the deployments -----------------------------------------------------------------------------------------


def _candidate(
    trace: RequestContext, chat: InferenceRequest, one: Deployment, snapshot: Snapshot, world: World
) -> CandidateState:
    chats = chat.endpoint == "chat/completions"
    at = trace.requests_for(chat, snapshot).at(one)
    text = at.candidate.guardrail_text if chats else ""
    bound = trace.admission.max_tokens if trace.admission else None
    cooling = world.cooling.get(one.id)
    state, why = "ready", ""
    if cooling is not None and is_cooling(cooling, 0.0):
        state, why = "cooling", f"{cooling.why}, {cooling.until:.0f} s more"
    place = CandidateState(one, state, why, text, price_of(one), _share(one, snapshot))
    try:
        here, gone = at.to_send(bound, budgeted=trace.budgeted)
        sent = adapter_of(here, one).to_request(here, one)
    except ProxyError as error:
        return replace(place, refuses=error.message)
    return replace(place, dropped=(*sent.dropped, *gone))


def _share(one: Deployment, snapshot: Snapshot) -> float:
    return one.weight / sum(other.weight for other in snapshot.models[one.name].deployments)


def _others(
    snapshot: Snapshot,
    key: Key,
    chat: InferenceRequest,
    asked: Model | None,
    attempted: Sequence[str],
    chain: Sequence[str] = (),
) -> list[CandidateState]:
    """The deployments that are not attempted. `chain`: the ids of all that could be without a budget."""
    permitted = permission(snapshot.project(key.project), key, chat.shown_endpoint)
    found = []
    enabled = [one for model in snapshot.models.values() for one in model.deployments]
    for one in (*enabled, *snapshot.disabled):
        if one.id in attempted:
            continue
        if one.disabled is not None:
            found.append(CandidateState(one, "disabled", one.disabled))
        elif not permitted(one.name):
            found.append(CandidateState(one, "not allowed", _who_refuses(snapshot, key, one.name)))
        elif not one.serves(chat.mode):
            found.append(CandidateState(one, "another mode", one.mode))
        elif one.id in chain:
            found.append(CandidateState(one, "passed over", "no known price under a budget"))
        else:
            found.append(CandidateState(one, "not a fallback", _why_no_fallback(one, asked)))
    return found


def _why_no_fallback(one: Deployment, asked: Model | None) -> str:
    if asked is None:
        return "not what was asked for"
    if one.name in asked.fallbacks:
        return "beyond routing.max_attempts"
    return f"not in the fallbacks of {asked.name}" if one.fallback else "fallback: false"


def _who_refuses(snapshot: Snapshot, key: Key, name: str) -> str:
    return f"by project {key.project}" if allows(key.models, name) else "by the key"


# --- the limits ----------------------------------------------------------------------------------------------


def limits_of(snapshot: Snapshot, key: Key, user: str | None) -> list[LimitState]:
    """Every limit in force, by scope, the widest first."""
    project = snapshot.project(key.project)
    of_key = limits.overlay(snapshot.limits["key"], key.limits)
    found = [
        *_limit_states("global", snapshot.limits["global"], frozenset(), ""),
        *_limit_states("project", project.limits, project.own_limits.given, f"projects.{key.project}.limits"),
        *_limit_states("key", of_key, key.limits.given, "the key"),
    ]
    return (
        found if user is None else [*found, *_limit_states("user", snapshot.limits["user"], frozenset(), "")]
    )


def _limit_states(scope: ScopeKind, own: Limits, given: frozenset[str], source: str) -> list[LimitState]:
    if not own.is_set:
        return []
    return [
        LimitState(scope, field, value, where or "")
        for field, value, where in with_sources(own, given, source, f"limits.{scope}")
        if value is not None and value is not False
    ]
