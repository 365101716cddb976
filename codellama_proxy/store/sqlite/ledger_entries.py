"""The ledger's entries, written on the writer's thread: a request is admitted, then settled exactly once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.types import Attempt
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import (
    Admission,
    AdmissionRequest,
    Extension,
    ScopeState,
    Settlement,
    decide,
    extra,
)
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.limits.windows import DAY
from codellama_proxy.pricing.cost import input_cost
from codellama_proxy.store.sqlite import daily_totals as folding
from codellama_proxy.store.sqlite import outbox
from codellama_proxy.store.sqlite.balances import ScopeBalances
from codellama_proxy.store.sqlite.crashes import Orphan, crashed
from codellama_proxy.store.sqlite.scope_balance import SQL, standing

MAX_NAME_CHARACTERS = 256
"""Maximum stored length of a model name from a client."""


class _Held(NamedTuple):
    """What is needed to settle a held row."""

    seq: int
    scopes: tuple[str, ...]
    hold_nanos: int
    estimate_tokens: int


class LedgerEntries:
    """Admits and settles on the writer's connection; one instance per writer.

    Methods write rows first and change balances last, so that a failed one leaves the balances unchanged.
    """

    def __init__(self, balances: ScopeBalances | None = None) -> None:
        self.balances = balances or ScopeBalances()
        # A cache of held rows by request ID. It may be wrong after a failed commit, so the row is checked as well.
        self._held: dict[str, _Held] = {}
        self.dropped = 0
        """Number of tracking records removed to make room for newer ones."""

    def admit(self, db: sqlite3.Connection, ask: AdmissionRequest) -> Admission:
        """Admit a request and hold its maximum cost. A refusal (`ProxyError`) changes no scope."""
        key_id = ask.key.key_id if ask.key else None
        ids = limits.scope_ids(ask.project, key_id, ask.user)
        accounts = dict(zip(ids, self.balances.get(db, ids), strict=True))
        decision = decide(ask, [standing(db, s, accounts[s.id], ask.created_at) for s in ask.scopes])
        hold = decision.admission.hold_nanos
        seq = _insert(db, ask, key_id, hold)
        self._held[ask.request_id] = _Held(seq, ids, hold, ask.prompt_estimate)
        for scope, rates in zip(ask.scopes, decision.rates, strict=True):
            accounts[scope.id].limited(scope.limits, rates)
        for (
            account
        ) in accounts.values():  # without limits, too: a budget may have been taken away and come back
            account.admitted(hold)
        return decision.admission

    def extend(self, db: sqlite3.Connection, more: Extension, now: float) -> int:
        """Hold more for a held row if every budget that includes it has room; returns the nano-USD added."""
        held = _find(db, more.request_id)
        if held is None:
            return 0
        accounts = dict(zip(held.scopes, self.balances.get(db, held.scopes), strict=True))
        budgets = [s for s in more.scopes if s.limits.max_budget is not None]
        standings = [standing(db, scope, accounts[scope.id], now) for scope in budgets]
        # A window that began after the admission does not include the request.
        nanos = extra(more, [one for one in standings if accounts[one.scope.id].counts(held.seq)])
        self._held.pop(more.request_id, None)  # from now on the row is authoritative
        _extend(db, held, more, nanos)
        for account in accounts.values():
            account.extended(held.seq, nanos)
        return nanos

    def note(self, db: sqlite3.Connection, more: Extension) -> None:
        """Record a further attempt that needs no money held, for the settlement after a crash."""
        held = _find(db, more.request_id)
        if held is not None:
            _extend(db, held, more, 0)

    def settle(self, db: sqlite3.Connection, end: Settlement) -> bool:
        """Complete a held row and book it; `False` if there is none."""
        held = self._held.pop(end.request_id, None) or _find(db, end.request_id)
        if held is None or not _complete(db, held.seq, end):
            return False
        if end.record is not None:
            self.dropped += outbox.put(db, "request", end.request_id, end.record)
        tokens = held.estimate_tokens - _used(end, held.estimate_tokens)
        for account in self.balances.get(db, held.scopes):
            account.settled(held.seq, held.hold_nanos, end.cost_nanos or 0, tokens)
        return True

    def recover(self, db: sqlite3.Connection) -> int:
        """Settle every held row at its hold, or without one at its prompt's cost; returns the number of rows."""
        orphans = [Orphan(*row) for row in db.execute(SQL["orphans"]).fetchall()]
        for orphan in orphans:
            self.settle(db, crashed(orphan))
        return len(orphans)

    def standings(
        self, db: sqlite3.Connection, scopes: Sequence[ScopeLimits], now: float
    ) -> list[ScopeState]:
        accounts = self.balances.get(db, tuple([scope.id for scope in scopes]))
        return [standing(db, scope, account, now) for scope, account in zip(scopes, accounts, strict=True)]

    def fold(self, db: sqlite3.Connection, before: float, now: float) -> int:
        """Fold one batch of rows of whole days; how many."""
        self.balances.flush_all(db)
        self.balances.forget()  # the balances of folded rows are in the file
        return folding.fold(db, min(before, now // DAY * DAY))


def _insert(db: sqlite3.Connection, ask: AdmissionRequest, key_id: str | None, hold: int) -> int:
    price = ask.prices[0] if ask.prices else None
    row = (
        ask.request_id,
        ask.created_at,
        ask.project,
        key_id,
        None if ask.user is None else limits.user_name(ask.user),
        ask.endpoint,
        ask.model_requested and ask.model_requested[:MAX_NAME_CHARACTERS],
        ask.stream,
        ask.config,
        hold,
        None if price is None else input_cost(ask.prompt_estimate, price),
        ask.prompt_estimate,
        ask.deployment and ask.deployment.name,
        ask.deployment and ask.deployment.id,
        ask.session,
        ask.agent,
    )
    return db.execute(SQL["hold"], row).lastrowid or 0


def _find(db: sqlite3.Connection, request_id: str) -> _Held | None:
    row = db.execute(SQL["held"], (request_id,)).fetchone()
    if row is None:
        return None
    seq, project, key_id, user, hold, estimate = row
    return _Held(seq, limits.scope_ids(project, key_id, user), hold, estimate)


def _complete(db: sqlite3.Connection, seq: int, end: Settlement) -> bool:
    usage = end.usage
    row: tuple[Any, ...] = (
        end.status,
        end.http_status,
        _attempts(end.attempts),
        end.model,
        end.deployment,
        end.upstream_model,
        usage and usage.prompt_tokens,
        usage and usage.completion_tokens,
        usage and usage.cached_tokens,
        usage and usage.cache_write_tokens,
        usage and usage.reasoning_tokens,
        end.cost_nanos,
        end.saved_nanos,
        end.basis,
        end.cache,
        end.first_ms,
        end.total_ms,
        seq,
        end.request_id,
    )
    if db.execute(SQL["complete"], row).rowcount != 1:
        return False
    if end.content is not None:
        db.execute(SQL["keep_content"], (end.request_id, end.content))
    return True


def _extend(db: sqlite3.Connection, held: _Held, more: Extension, nanos: int) -> None:
    estimate = None if more.price is None else input_cost(held.estimate_tokens, more.price)
    where = more.deployment
    db.execute(SQL["extend"], (nanos, estimate, _attempts(more.attempts), where.name, where.id, held.seq))


def _attempts(attempts: Sequence[Attempt]) -> str:
    return orjson.dumps([attempt.to_json() for attempt in attempts]).decode()


def _used(end: Settlement, estimate: int) -> int:
    """Tokens that count for rate limits. A cached answer counts with the estimate of its prompt."""
    if end.basis == "cached":
        return estimate
    return end.usage.prompt_tokens + end.usage.completion_tokens if end.usage else 0
