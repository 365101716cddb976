"""What the gateway asks of the ledger and what it hears, and the pure decision between the two.

A request passes all its scopes or none: `decide` looks at every scope before anything is written. What a
`shadow` scope would have refused is only reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from codellama_proxy import budgets, limits
from codellama_proxy.budgets import Balance
from codellama_proxy.errors import ProxyError
from codellama_proxy.limits import Rate, Rates, Refusal, ScopeLimits
from codellama_proxy.types import Attempt, Key, Price, Usage


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that wants to be admitted. Times are unix seconds."""

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
    """Tokens, as near as we know: what the tokens a minute are charged until it is settled."""
    prompt_bound: int
    """Tokens it cannot exceed: its bytes."""
    max_tokens: int | None
    """The client's own."""
    default_max_tokens: int
    """What a budget has sent upstream if the client named none; 0 where nothing is generated."""
    n: int
    prices: tuple[Price | None, ...]
    """Of every candidate, in the order of the chain; empty when nothing goes upstream."""
    candidate_names: tuple[str, ...]

    @property
    def wanted_tokens(self) -> int:
        return self.default_max_tokens if self.max_tokens is None else self.max_tokens


@dataclass(frozen=True, slots=True)
class Admission:
    """What was held for a request, and what it has to obey."""

    max_tokens: int | None = None
    """To be sent upstream; `None`: leave the request as it is."""
    clamped: bool = False
    hold_nanos: int = 0
    requests: Rate | None = None
    tokens: Rate | None = None
    """What is left in the tightest scopes, for the headers."""
    shadowed: tuple[Refusal, ...] = ()
    """What shadow scopes would have refused."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a request ended, whatever happened to it."""

    request_id: str
    status: str
    """`ok`, `error` or `cancelled`."""
    http_status: int | None
    attempts: tuple[Attempt, ...] = ()
    model: str | None = None
    deployment: str | None = None
    upstream_model: str | None = None
    usage: Usage | None = None
    basis: str | None = None
    cost_nanos: int | None = 0
    """`None`: nobody knows the price."""
    saved_nanos: int = 0
    cache: str | None = None
    total_ms: float | None = None
    content: str | None = None
    """JSON with the prompt and the answer, only where the configuration keeps them."""


class Refused(ProxyError):  # noqa: N818 - it reads as what happened
    """A limit said no; `refusal` tells metrics which."""

    def __init__(self, refusal: Refusal, requests: Rate | None, tokens: Rate | None) -> None:
        super().__init__(
            refusal.code,
            refusal.message,
            type=refusal.type,
            retry_after=refusal.retry_after,
            headers=limits.headers(requests, tokens),
        )
        self.refusal = refusal


class Standing(NamedTuple):
    """A scope as it is when a request asks: levels refilled, window turned, running requests counted."""

    scope: ScopeLimits
    rates: Rates
    running: int = 0
    spent_nanos: int = 0
    held_nanos: int = 0
    resets_at: float | None = None

    @property
    def balance(self) -> Balance:
        return Balance(self.scope, self.spent_nanos, self.held_nanos, self.resets_at)


class Decision(NamedTuple):
    """An admission, and the levels each scope is left with."""

    admission: Admission
    rates: tuple[Rates, ...]


class _Money(NamedTuple):
    hold_nanos: int = 0
    max_tokens: int | None = None
    clamped: bool = False
    refusals: tuple[tuple[ScopeLimits, Refusal], ...] = ()


def decide(ask: Ask, standings: Sequence[Standing]) -> Decision:
    """Admit, or raise `Refused` (or `model_not_priced`)."""
    refusals = [
        (s.scope, refusal)
        for s in standings
        for refusal in limits.check(s.scope, s.rates, ask.prompt_estimate, s.running)
    ]
    money = _money(ask, [s.balance for s in standings if s.scope.limits.max_budget is not None])
    refusals.extend(money.refusals)
    if refusals:
        _refuse(refusals, standings)
    rates = tuple(
        limits.take(s.rates, ask.prompt_estimate, [r.kind for scope, r in refusals if scope is s.scope])
        for s in standings
    )
    requests, tokens = limits.rates_left([(s.scope, left) for s, left in zip(standings, rates, strict=True)])
    shadowed = tuple([refusal for _, refusal in refusals])
    return Decision(
        Admission(money.max_tokens, money.clamped, money.hold_nanos, requests, tokens, shadowed), rates
    )


def _refuse(refusals: Iterable[tuple[ScopeLimits, Refusal]], standings: Sequence[Standing]) -> None:
    """Raise the worst of them that is not a shadow's."""
    refusal = limits.worst(refusal for scope, refusal in refusals if not scope.limits.shadow)
    if refusal is not None:
        raise Refused(refusal, *limits.rates_left((s.scope, s.rates) for s in standings))


def _money(ask: Ask, balances: Sequence[Balance]) -> _Money:
    """The hold, and how many tokens it pays for."""
    real = [balance for balance in balances if not balance.scope.limits.shadow]
    for balance in real:
        if balance.scope.limits.max_budget == 0:
            return _Money(refusals=((balance.scope, budgets.over_budget(balance)),))
    if not balances or not ask.prices:
        return _NOTHING
    if real:
        _must_be_priced(ask)
    cost = budgets.bound([price for price in ask.prices if price is not None], ask.prompt_bound, ask.n)
    if not real:
        return _shadow_money(cost.nanos(ask.wanted_tokens), balances)
    tightest = min(real, key=_headroom)
    wanted = ask.wanted_tokens
    allowed = budgets.fit(cost, wanted, tightest.headroom)
    if allowed is None:
        return _Money(refusals=((tightest.scope, budgets.over_budget(tightest)),))
    clamped = allowed < wanted
    sent = allowed if clamped or (ask.max_tokens is None and allowed > 0) else None
    hold = cost.nanos(allowed)
    return _Money(hold, sent, clamped, _over(hold, balances) if len(real) < len(balances) else ())


_NOTHING = _Money()


def _headroom(balance: Balance) -> int:
    return balance.headroom


def _shadow_money(wanted: int, shadows: Sequence[Balance]) -> _Money:
    """A shadow changes nothing of the request, so it holds at most what there is."""
    room = min(balance.headroom for balance in shadows)
    return _Money(hold_nanos=max(0, min(wanted, room)), refusals=_over(wanted, shadows))


def _over(hold: int, balances: Sequence[Balance]) -> tuple[tuple[ScopeLimits, Refusal], ...]:
    """What a shadow says to the hold."""
    return tuple((b.scope, budgets.over_budget(b)) for b in balances if hold > b.headroom)


def _must_be_priced(ask: Ask) -> None:
    if None not in ask.prices:
        return
    for name, price in zip(ask.candidate_names, ask.prices, strict=True):
        if price is None:
            raise ProxyError(
                "model_not_priced",
                f"The model `{name}` has no known price and cannot be used under a budget. "
                "Its price can be set in the configuration.",
                param="model",
            )
