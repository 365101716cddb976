"""The ledger's entries, written on the writer's thread: a request is admitted, then settled exactly once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import Admission, AdmissionRequest, Extension, ScopeState, Settlement
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.ledger.crashes import Orphan, crashed
from codellama_proxy.store.ledger.page import Held, Page, scope_ids
from codellama_proxy.store.ledger.rows import extended_row, held_row, settled_row
from codellama_proxy.store.ledger.scope_balance import state
from codellama_proxy.store.sqlite import daily_totals as folding
from codellama_proxy.store.sqlite import outbox
from codellama_proxy.store.sqlite.balances import ScopeBalances
from codellama_proxy.store.sqlite.scope_rows import SQL


class LedgerEntries:
    """Admits and settles on the writer's connection; one instance per writer.

    Methods write rows first and change balances last, so that a failed one leaves the balances unchanged.
    """

    def __init__(self, balances: ScopeBalances | None = None) -> None:
        self.balances = balances or ScopeBalances()
        self._page = Page(self.balances.opened)
        # A cache of held rows by request ID. It may be wrong after a failed commit, so the row is checked as well.
        self._held: dict[str, Held] = {}
        self.dropped = 0
        """Number of tracking records removed to make room for newer ones."""

    def admit(self, db: sqlite3.Connection, ask: AdmissionRequest) -> Admission:
        """Admit a request and hold its maximum cost. A refusal (`ProxyError`) changes no scope."""
        ids = scope_ids(ask)
        self.balances.get(db, ids)
        self.balances.refresh(db, ask.scopes, ask.created_at)
        decision = self._page.decide(ask)
        hold = decision.admission.hold_nanos
        seq = db.execute(SQL["hold"], held_row(ask, hold)).lastrowid or 0
        self._held[ask.request_id] = Held(seq, ids, hold, ask.prompt_estimate)
        self._page.admit(ask, ids, decision)
        return decision.admission

    def extend(self, db: sqlite3.Connection, more: Extension, now: float) -> int:
        """Hold more for a held row if every budget that includes it has room; returns the nano-USD added."""
        held = _find(db, more.request_id)
        if held is None:
            return 0
        budgets = [scope for scope in more.scopes if scope.limits.max_budget is not None]
        self.balances.get(db, held.scopes)
        self.balances.refresh(db, budgets, now)
        nanos = self._page.decide_extension(more, held, now)
        self._held.pop(more.request_id, None)  # from now on the row is authoritative
        _extend(db, held, more, nanos)
        self._page.extend(held, nanos)
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
        self.balances.get(db, held.scopes)
        self._page.settle(held, end)
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
        balances = self.balances.get(db, tuple([scope.id for scope in scopes]))
        self.balances.refresh(db, scopes, now)
        return [state(scope, balance, now) for scope, balance in zip(scopes, balances, strict=True)]

    def fold(self, db: sqlite3.Connection, before: float, now: float) -> int:
        """Fold one batch of rows of whole days; how many."""
        self.balances.flush_all(db)
        self.balances.forget()  # the balances of folded rows are in the file
        return folding.fold(db, min(before, now // DAY * DAY))


def _find(db: sqlite3.Connection, request_id: str) -> Held | None:
    row = db.execute(SQL["held"], (request_id,)).fetchone()
    if row is None:
        return None
    seq, project, key_id, user, hold, estimate = row
    return Held(seq, limits.scope_ids(project, key_id, user), hold, estimate)


def _complete(db: sqlite3.Connection, seq: int, end: Settlement) -> bool:
    if db.execute(SQL["complete"], (*settled_row(end), seq, end.request_id)).rowcount != 1:
        return False
    if end.content is not None:
        db.execute(SQL["keep_content"], (end.request_id, end.content))
    return True


def _extend(db: sqlite3.Connection, held: Held, more: Extension, nanos: int) -> None:
    db.execute(SQL["extend"], (*extended_row(more, nanos, held.estimate_tokens), held.seq))
