"""The ledger's algorithm on balances in memory, for every database system. Waits for nothing.

An engine reads the balances that a batch touches (`scope_ids`), makes them current (`scope_balance.refresh`), and then
takes the batch in order: a method `decide…` raises or returns what to do and changes nothing; the method after it
changes the balances and cannot fail. So a refusal, or a write that fails in between, leaves the balances unchanged.
Last, the engine writes the rows (`rows`) and the balances that have changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from codellama_proxy.limits import rates
from codellama_proxy.limits.admission import (
    AdmissionRequest,
    Decision,
    Extension,
    Settlement,
    decide,
    extra,
)
from codellama_proxy.limits.usual_admission import usual_decision
from codellama_proxy.store.ledger.rows import used_tokens
from codellama_proxy.store.ledger.scope_balance import ScopeBalance, state


class Held(NamedTuple):
    """What is needed to settle a held row."""

    seq: int
    scopes: tuple[str, ...]
    """IDs of all its scopes, limited or not."""
    hold_nanos: int
    estimate_tokens: int


def scope_ids(ask: AdmissionRequest) -> tuple[str, ...]:
    """The scopes whose balances the request changes: all of its scopes, limited or not."""
    return rates.scope_ids(ask.project, ask.key.key_id if ask.key else None, ask.user)


class Page:
    """The balances of one batch, by scope ID. A scope without limits and without a row needs none."""

    def __init__(self, balances: Mapping[str, ScopeBalance]) -> None:
        self._balances = balances

    def decide(self, ask: AdmissionRequest) -> Decision:
        """The admission. Raises `ProxyError`: a limit or model_not_priced."""
        balances = self._balances
        usual = usual_decision(ask, balances)
        if usual is not None:
            return usual
        return decide(ask, [state(scope, balances[scope.id], ask.created_at) for scope in ask.scopes])

    def admit(self, ask: AdmissionRequest, ids: tuple[str, ...], decision: Decision) -> None:
        """Add the request to its scopes, as decided. `ids`: from `scope_ids`."""
        balances, hold, levels = self._balances, decision.admission.hold_nanos, decision.rates
        for index, (scope_id, limits) in enumerate(ask.scopes):
            balance = balances[scope_id]
            balance.limits, balance.rates = limits, levels[index]
        for scope_id in ids:  # without limits, too: a budget may have been taken away and come back
            if (found := balances.get(scope_id)) is not None:
                found.admitted(hold)

    def decide_extension(self, more: Extension, held: Held, now: float) -> int:
        """The nano-USD to hold in addition. Raises `LimitExceededError` if a budget that counts it has no room."""
        balances = self._balances
        counting = [
            state(scope, balances[scope.id], now)
            for scope in more.scopes
            # A window that began after the admission does not include the request.
            if scope.limits.max_budget is not None and balances[scope.id].counts(held.seq)
        ]
        return extra(more, counting)

    def extend(self, held: Held, nanos: int) -> None:
        """Add to the hold of a request, as decided."""
        for scope_id in held.scopes:
            balance = self._balances.get(scope_id)
            if balance is not None:
                balance.extended(held.seq, nanos)

    def settle(self, held: Held, end: Settlement) -> None:
        """Replace the hold of a request by its cost. Call it once for a row."""
        balances, cost = self._balances, end.cost_nanos or 0
        seq, scopes, hold, estimate = held
        tokens = estimate - used_tokens(end, estimate)
        for scope_id in scopes:
            if (balance := balances.get(scope_id)) is not None:
                balance.settled(seq, hold, cost, tokens)
