"""One transaction of the ledger: read under locks, decide in memory, write. Two round trips, then a flush.

Locks are freed by a commit that does not wait for the disk; the flush after it does, and then requests are answered.
Others may see commits that are not on disk yet: whatever a crash loses includes everything that was built on it.
Lock order: the own `workers` row, `held` rows, `scopes` rows by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from codellama_proxy.limits.admission import AdmissionRequest
from codellama_proxy.limits.rates import ScopeLimits, scope_ids
from codellama_proxy.limits.usual_admission import usual_decision
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.ledger import page
from codellama_proxy.store.ledger.page import Held, Page
from codellama_proxy.store.ledger.rows import extended_row, held_row, settled_row
from codellama_proxy.store.ledger.scope_balance import ScopeBalance, is_current, refresh
from codellama_proxy.store.postgres.operations import (
    Admit,
    Extend,
    HoldAgain,
    NoRoomError,
    Note,
    Operation,
    Settle,
    end_of,
    ids_of_row,
    operation_of,
)
from codellama_proxy.store.postgres.outbox import PUT_REQUESTS
from codellama_proxy.store.postgres.requests_in_memory import RequestsInMemory
from codellama_proxy.store.postgres.round_trip import Answer, RoundTrip
from codellama_proxy.store.postgres.scope_rows import SQL, ScopeRows, StoredBalance, rows_json
from codellama_proxy.store.postgres.session import PostgresSession, ServerError
from codellama_proxy.store.queued_write import QueuedWrite


class WorkerGoneError(StoreError):
    """Another process declared this one dead; it has to register again."""


class ScopesMissingError(StoreError):
    """Limited scopes that have no row yet."""

    def __init__(self, scopes: Iterable[str]) -> None:
        super().__init__("limited scopes have no row yet")
        self.scopes = sorted(scopes)


class Batch:
    """Operations on different requests (`operations.chunks`) in one transaction."""

    def __init__(
        self,
        db: PostgresSession,
        worker: int,
        number: int,
        memory: RequestsInMemory,
        loaded_at: float = 0.0,
    ) -> None:
        """`number`: new for every transaction of a worker; `loaded_at`: of the configuration in force, unix seconds."""
        self._db = db
        self._loaded_at = loaded_at
        self._worker = worker
        self._memory = memory
        self.number = number
        self.items: Sequence[QueuedWrite] = ()
        self.rest: list[QueuedWrite] = []
        """Items to be run in the next transaction."""
        self.committing = False
        """The commit may have been sent: an error does not say whether it took effect."""
        self.committed: bool | None = None
        """`None`: not known."""
        self._balances: dict[str, ScopeBalance] = {}
        self._page = Page(self._balances)
        self._admitted: set[str] = set()
        """Scopes with requests that are admitted in memory only."""
        self._held: list[dict[str, Any]] = []
        self._extended: list[dict[str, Any]] = []
        self._moved: dict[str, Any] = {}

    def run(self, items: Sequence[QueuedWrite]) -> tuple[list[QueuedWrite], tuple[float, int]]:
        """Set the result or error of the items; returns those to be run in the next transaction, and the beat.

        Raises `WorkerGoneError`, `ScopesMissingError` and `ServerError`; then the transaction is still open.
        """
        self.items = tuple(items)
        ends = [item for item in items if isinstance(item.fn, Settle)]
        others = [item for item in items if not isinstance(item.fn, Settle)]
        ids = sorted(self._ids(items))
        trip = self._db.round_trip()
        trip.send("begin")
        beaten = trip.send(SQL["beat"], self.number, self._worker)
        moving = self._move(trip, ends) if ends else None
        names = [one.more.request_id for one in map(operation_of, others) if isinstance(one, Extend | Note)]
        finding = trip.send(SQL["find"], names) if names else None
        locking = trip.send(SQL["lock"], ids) if ids else None
        trip.finish()
        if not beaten.rows:
            raise WorkerGoneError("this process was taken for dead by another one")
        beat, locked = beaten.rows[0], locking.rows if locking else []
        now = max((row[0] for row in locked), default=beat[0])
        self._read(ids, locked, others)
        if moving:
            self._moved = {row[0]: row for row in moving.rows}
        self._settle(ends)
        found = {row[0]: row for row in finding.rows} if finding else {}
        self.rest = self._decide(others, found, now)
        trip = self._db.round_trip()
        self._write(trip, ends)
        trip.send("commit")
        if items:
            trip.send(SQL["flush"])
        self.committing = True
        trip.finish()
        self.remember()
        return self.rest, (beat[0], beat[1])

    # --- reading -----------------------------------------------------------------------------------------------

    def _ids(self, items: Sequence[QueuedWrite]) -> set[str]:
        """The scopes whose balances the operations change."""
        ids: set[str] = set()
        elsewhere = []
        for item in items:
            operation = operation_of(item)
            ids.update(scope.id for scope in _limited(operation))
            match operation:
                case Admit():
                    ids.update(page.scope_ids(operation.ask))
                case HoldAgain():
                    ids.update(ids_of_row(operation.row))
                case Settle() | Extend() | Note():
                    name = (
                        operation.end.request_id
                        if isinstance(operation, Settle)
                        else operation.more.request_id
                    )
                    row = self._memory.running.get(name)
                    if row is None:
                        elsewhere.append(name)
                    else:
                        ids.update(ids_of_row(row))
        if elsewhere:
            for _, project, key_id, user in self._db.native(SQL["scopes_of"], (elsewhere,)).fetchall():
                ids.update(scope_ids(project, key_id, user))
        return ids

    def _move(self, trip: RoundTrip, ends: Sequence[QueuedWrite]) -> Answer:
        rows = [{"request_id": end.request_id, **settled_row(end)._asdict()} for end in map(end_of, ends)]
        return trip.send(SQL["settle"], [row["request_id"] for row in rows], rows_json(rows))

    def _read(self, ids: Sequence[str], locked: Sequence[Any], items: Sequence[QueuedWrite]) -> None:
        self._balances.update({row[1]: StoredBalance(row[2:]) for row in locked})
        limited = {scope.id for item in items for scope in _limited(operation_of(item))}
        missing = limited - self._balances.keys()
        if missing:
            raise ScopesMissingError(missing)
        for scope in ids:  # without a row nothing limits the scope, and nothing is written
            if scope not in self._balances:
                self._balances[scope] = ScopeBalance()

    # --- deciding ----------------------------------------------------------------------------------------------

    def _settle(self, ends: Sequence[QueuedWrite]) -> None:
        """Settlements first: their rows are moved already, so sums over rows contain them."""
        for item in ends:
            end = end_of(item)
            row = self._moved.get(end.request_id)
            item.result = row is not None
            if row is not None:
                self._page.settle(held_of(row), end)

    def _decide(self, items: Sequence[QueuedWrite], found: dict[str, Any], now: float) -> list[QueuedWrite]:
        for position, item in enumerate(items):
            operation = operation_of(item)
            try:
                match operation:
                    case Admit():
                        if not self._refreshed(operation.ask.scopes, now):
                            return list(items[position:])
                        item.result = self._admit(operation.ask._replace(created_at=now), operation.passing)
                    case Extend() | Note():
                        if not self._refreshed(_budgets(operation), now):
                            return list(items[position:])
                        item.result = self._extend(operation, found, now)
                    case HoldAgain():
                        self._hold_again(operation.row)
            except ServerError:
                raise
            except Exception as error:  # delivered to the caller; nothing was changed
                item.error = error
        return []

    def _refreshed(self, scopes: Iterable[ScopeLimits], now: float) -> bool:
        """Make balances current; `False` if sums would miss requests that are admitted in memory only."""
        for given in scopes:
            balance = self._balances[given.id]
            assert isinstance(balance, StoredBalance), "a limited scope has a row"
            scope = balance.in_force(given, self._loaded_at)
            if is_current(balance, scope.limits, now):
                continue
            if scope.id in self._admitted:
                return False
            refresh(balance, scope, now, ScopeRows(self._db))
            balance.duration_since = max(self._loaded_at, balance.duration_since)
        return True

    def _admit(self, ask: AdmissionRequest, passing: bool) -> object:
        decision = usual_decision(ask, self._balances) if passing else self._page.decide(ask)
        if decision is None:
            raise NoRoomError
        ids = page.scope_ids(ask)
        row = held_row(ask, decision.admission.hold_nanos)._asdict()
        self._page.admit(ask, ids, decision)
        self._hold(row, ids)
        self._note_limits(ask, ids)
        return decision.admission

    def _note_limits(self, ask: AdmissionRequest, ids: Iterable[str]) -> None:
        limited = {scope.id for scope in ask.scopes}
        for scope in ids:
            balance = self._balances[scope]
            if isinstance(balance, StoredBalance):
                balance.note_limited(scope in limited, ask.created_at)

    def _hold(self, row: dict[str, Any], ids: Iterable[str]) -> None:
        self._held.append({**row, "worker": self._worker})
        self._admitted.update(ids)

    def _hold_again(self, row: dict[str, Any]) -> None:
        ids = ids_of_row(row)
        for scope in ids:
            self._balances[scope].admitted(row["hold_nanos"])
        self._hold(row, ids)

    def _extend(self, operation: Extend | Note, found: dict[str, Any], now: float) -> int:
        more = operation.more
        if more.request_id not in found:
            return 0
        held = held_of(found[more.request_id])
        nanos = self._page.decide_extension(more, held, now) if isinstance(operation, Extend) else 0
        added, *changed = extended_row(more, nanos, held.estimate_tokens)
        columns = ("hold_nanos", "estimate_nanos", "attempts", "model", "deployment")
        self._page.extend(held, nanos)
        self._extended.append(
            {"request_id": more.request_id, **dict(zip(columns, (added, *changed), strict=True))}
        )
        self._admitted.update(held.scopes)
        return nanos

    # --- writing -----------------------------------------------------------------------------------------------

    def _write(self, trip: RoundTrip, ends: Sequence[QueuedWrite]) -> None:
        if self._held:
            trip.send(SQL["hold"], rows_json(self._held))
        if self._extended:
            trip.send(SQL["extend"], rows_json(self._extended))
        changed = [
            balance.row(scope)
            for scope, balance in self._balances.items()
            if isinstance(balance, StoredBalance) and balance.touched
        ]
        if changed:
            trip.send(SQL["keep_scopes"], rows_json(changed))
        settled = [end for end in map(end_of, ends) if end.request_id in self._moved]
        contents = [
            {"request_id": end.request_id, "content": end.content}
            for end in settled
            if end.content is not None
        ]
        if contents:
            trip.send(SQL["keep_contents"], rows_json(contents))
        records = [(end.request_id, end.record) for end in settled if end.record is not None]
        if records:
            trip.send(PUT_REQUESTS, [name for name, _ in records], [body for _, body in records])

    def remember(self) -> None:
        """Note what took effect: what this process admitted, extended and settled."""
        self.committed = True
        for row in self._held:
            self._memory.admitted(row)
        for extended in self._extended:
            columns = {
                name: value for name, value in extended.items() if name not in {"hold_nanos", "request_id"}
            }
            self._memory.extended(extended["request_id"], columns, extended["hold_nanos"])
        for item in self.items:
            if isinstance(item.fn, Settle) and item.fn.end.request_id in self._moved:
                self._memory.settled(item.fn.end)


def held_of(row: Sequence[Any]) -> Held:
    """From a row of `settle` and `find`."""
    _, seq, project, key_id, user, hold, estimate = row
    return Held(seq, scope_ids(project, key_id, user), hold, estimate)


def _limited(operation: Operation) -> Sequence[ScopeLimits]:
    """The scopes whose limits decide about the operation."""
    match operation:
        case Admit():
            return operation.ask.scopes
        case Extend():
            return operation.more.scopes
        case _:
            return ()


def _budgets(operation: Extend | Note) -> list[ScopeLimits]:
    if isinstance(operation, Note):
        return []
    return [scope for scope in operation.more.scopes if scope.limits.max_budget is not None]
