"""The values exchanged with the ledger at admission and settlement, and the pure admission decision.

A request passes all its scopes or none: `decide` looks at every scope before anything is written. What a
`shadow` scope would have refused is only reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Json, Price, Tariff
from codellama_proxy.core.types import Attempt, Key, Usage
from codellama_proxy.limits import budgets, rate_headers
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.rates import Levels, Rate, Rates, Refusal, ScopeLimits


class AdmissionRequest(NamedTuple):
    """A request for admission. Times are Unix seconds."""

    request_id: str
    created_at: float
    project: str
    key: Key | None
    user: str | None
    endpoint: str
    model_requested: str | None
    stream: bool
    config: str
    """The digest of the configuration it runs under."""
    scopes: tuple[ScopeLimits, ...]
    """From `limits.scopes_of`."""
    prompt_estimate: int
    """Estimated tokens: charged to the tokens per minute until settlement."""
    prompt_bound: int
    """Upper bound of its tokens: its bytes."""
    max_tokens: int | None
    """The client's own."""
    default_max_tokens: int
    """Sent upstream under a budget if the client set none; 0 if nothing is generated."""
    n: int
    prices: tuple[Tariff | None, ...]
    """The highest applicable rates of each candidate, in the order of attempts; empty for none."""
    deployment: Deployment | None = None
    """The first one tried; `None` if nothing is sent upstream."""
    bounds: tuple[int, ...] = ()
    """`prompt_bound` of each candidate; empty if it is the same for all."""
    unbounded_tokens: tuple[int, ...] = ()
    """Output tokens of all answers that `max_tokens` does not bound at each candidate; empty for none."""
    calls_units: int = 0
    """Maximum cost of server-tool calls, in nano-USD per million such requests."""
    session: str | None = None
    """The client's session id, of bounded length; for reports only."""
    agent: str | None = None
    """The client's id of the agent in it."""
    counts: bool = True
    """Whether request rates count it. An auxiliary request needs room in them but consumes none."""

    @property
    def bound(self) -> budgets.Bound:
        """Its maximum cost, at the most expensive candidate."""
        prices = self.prices
        bounds = self.bounds or (self.prompt_bound,) * len(prices)
        return budgets.bound(prices, bounds, self.n, self.calls_units, self.unbounded_tokens)

    @property
    def wanted_tokens(self) -> int:
        return self.default_max_tokens if self.max_tokens is None else self.max_tokens


class Admission(NamedTuple):
    """What is held for a request, and the limits it must observe."""

    max_tokens: int | None = None
    """Sent upstream; `None`: the request is unchanged."""
    clamped: bool = False
    hold_nanos: int = 0
    requests: Rate | None = None
    tokens: Rate | None = None
    """The remainder in the tightest scopes, for the headers."""
    shadowed: tuple[Refusal, ...] = ()
    """What shadow scopes would have refused."""


class Extension(NamedTuple):
    """One more attempt of an admitted request."""

    request_id: str
    scopes: tuple[ScopeLimits, ...]
    """Those of its admission."""
    nanos: int
    """To be held in addition, because earlier attempts had a cost."""
    deployment: Deployment
    """The next one tried."""
    attempts: tuple[Attempt, ...]
    """The earlier ones, with their charges."""
    price: Price | None = None
    """Of the deployment; `None` if unknown."""


class Settlement(NamedTuple):
    """How a request ended, whatever the outcome."""

    request_id: str
    status: str
    """`ok`, `error` or `cancelled`."""
    http_status: int | None
    attempts: str = "[]"
    """JSON, from `attempts_json`."""
    model: str | None = None
    deployment: str | None = None
    upstream_model: str | None = None
    usage: Usage | None = None
    basis: str | None = None
    cost_nanos: int | None = 0
    """`None`: the price is unknown."""
    saved_nanos: int | None = 0
    """Of an answer from the cache; `None` likewise."""
    cache: str | None = None
    first_ms: float | None = None
    """Milliseconds until the first content."""
    total_ms: float | None = None
    content: str | None = None
    """JSON with the prompt and the answer, if the configuration stores them."""
    record: bytes | None = None
    """The record for a tracking service, if one is configured."""


def attempts_json(shown: Sequence[Json]) -> str:
    """Attempts as rows have them. `shown`: each from `Attempt.to_json`."""
    return orjson.dumps(shown).decode()


class LimitExceededError(ProxyError):
    """A limit refused the request; `refusal` identifies it for metrics."""

    def __init__(self, refusal: Refusal, requests: Rate | None, tokens: Rate | None) -> None:
        super().__init__(
            refusal.code,
            refusal.message,
            type=refusal.type,
            retry_after=refusal.retry_after,
            headers=rate_headers.headers(requests, tokens),
        )
        self.refusal = refusal


class ScopeState(NamedTuple):
    """The current state of a scope: levels refilled, window current, running requests counted."""

    scope: ScopeLimits
    rates: Rates
    running: int = 0
    spent_nanos: int = 0
    held_nanos: int = 0
    resets_at: float | None = None

    @property
    def headroom(self) -> int:
        """Nano-USD left in the budget."""
        return (self.scope.limits.max_budget or 0) - self.spent_nanos - self.held_nanos

    def over_budget(self, most_nanos: int) -> tuple[ScopeLimits, Refusal]:
        """`most_nanos`: the maximum cost of the request."""
        refusal = budgets.over_budget(
            self.scope, self.spent_nanos, self.held_nanos, self.resets_at, most_nanos
        )
        return self.scope, refusal


class Decision(NamedTuple):
    """An admission, and the new levels of each scope."""

    admission: Admission
    rates: Sequence[Levels]


class _Money(NamedTuple):
    hold_nanos: int = 0
    max_tokens: int | None = None
    clamped: bool = False
    refusals: tuple[tuple[ScopeLimits, Refusal], ...] = ()


def decide(ask: AdmissionRequest, standings: Sequence[ScopeState]) -> Decision:
    """Admit, or raise `LimitExceededError` (or `model_not_priced`)."""
    tokens = ask.prompt_estimate
    money = _money(ask, [s for s in standings if s.scope.limits.max_budget is not None])
    refusals = [*_rate_refusals(standings, tokens), *money.refusals]
    if refusals:
        _refuse(refusals, standings)
    rates = [limits.take(s.rates, tokens, _untouched(ask, s.scope, refusals)) for s in standings]
    left = rate_headers.rates_left([s.scope.limits for s in standings], rates)
    shadowed = tuple([refusal for _, refusal in refusals])
    return Decision(Admission(money.max_tokens, money.clamped, money.hold_nanos, *left, shadowed), rates)


def extra(extension: Extension, standings: Sequence[ScopeState]) -> int:
    """The nano-USD to be held in addition; `standings` of the budgets that count the request.

    Raises `LimitExceededError`.

    Shadow budgets refuse nothing, so their hold is at most their headroom.
    """
    real = [s for s in standings if not s.scope.limits.shadow]
    for s in real:
        if extension.nanos > s.headroom:
            raise LimitExceededError(s.over_budget(extension.nanos)[1], None, None)
    if real or not standings:
        return extension.nanos
    return max(0, min([extension.nanos, *[s.headroom for s in standings]]))


def _rate_refusals(standings: Sequence[ScopeState], tokens: int) -> list[tuple[ScopeLimits, Refusal]]:
    found: list[tuple[ScopeLimits, Refusal]] = []
    for scope, rates, running, *_ in standings:
        refusals = limits.check(scope, rates, tokens, running)
        if refusals:
            found += [(scope, refusal) for refusal in refusals]
    return found


def _untouched(
    ask: AdmissionRequest, scope: ScopeLimits, refusals: Sequence[tuple[ScopeLimits, Refusal]]
) -> Sequence[str]:
    """Rate kinds this request does not consume in this scope; `()` on the common path."""
    if not refusals:
        return () if ask.counts else ("requests",)
    refused = [refusal.kind for of, refusal in refusals if of is scope]
    return refused if ask.counts else [*refused, "requests"]


def _refuse(refusals: Iterable[tuple[ScopeLimits, Refusal]], standings: Sequence[ScopeState]) -> None:
    """Raise the worst refusal of the scopes that are not shadows."""
    refusal = limits.worst(refusal for scope, refusal in refusals if not scope.limits.shadow)
    if refusal is not None:
        left = rate_headers.rates_left([s.scope.limits for s in standings], [s.rates for s in standings])
        raise LimitExceededError(refusal, *left)


def _money(ask: AdmissionRequest, budgeted: Sequence[ScopeState]) -> _Money:
    """The hold, and how many tokens it covers."""
    if not budgeted:
        return _NOTHING
    real = [s for s in budgeted if not s.scope.limits.shadow]
    wanted = ask.wanted_tokens
    cost = ask.bound if any(ask.prices) else budgets.NO_COST
    most = cost.nanos(wanted)
    for s in real:
        if s.scope.limits.max_budget == 0:
            return _Money(refusals=(s.over_budget(most),))
    if not ask.prices:
        return _NOTHING
    if real and cost is budgets.NO_COST:
        raise _not_priced(ask)
    if not real:
        return _shadow_money(most, budgeted)
    tightest = min(real, key=_headroom) if len(real) > 1 else real[0]
    allowed = budgets.fit(cost, wanted, tightest.headroom)
    if allowed is None:
        return _Money(refusals=(tightest.over_budget(most),))
    clamped = allowed < wanted
    sent = allowed if clamped or (ask.max_tokens is None and allowed > 0) else None
    hold = cost.nanos(allowed)
    return _Money(hold, sent, clamped, _over(hold, budgeted) if len(real) < len(budgeted) else ())


_NOTHING = _Money()


def _headroom(standing: ScopeState) -> int:
    return standing.headroom


def _shadow_money(wanted: int, shadows: Sequence[ScopeState]) -> _Money:
    """A shadow does not change the request, so the hold is at most its headroom."""
    room = min(shadow.headroom for shadow in shadows)
    return _Money(hold_nanos=max(0, min(wanted, room)), refusals=_over(wanted, shadows))


def _over(hold: int, budgeted: Sequence[ScopeState]) -> tuple[tuple[ScopeLimits, Refusal], ...]:
    """Refusals of shadow budgets; the hold fits the others."""
    return tuple(s.over_budget(hold) for s in budgeted if hold > s.headroom)


def _not_priced(ask: AdmissionRequest) -> ProxyError:
    name = ask.deployment.name if ask.deployment is not None else ask.model_requested
    return ProxyError(
        "model_not_priced",
        f"The model `{name}` has no known price and cannot be used under a budget. "
        "Its price can be set in the configuration.",
        param="model",
    )
