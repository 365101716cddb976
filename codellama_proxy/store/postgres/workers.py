"""This process among the workers of an installation: its row, and the settlement of what dead ones hold.

Dead workers are found by watching, never by comparing clocks: a beat that does not change for `DEAD_SECONDS` of this
process's clock while this process could reach the database. An outage or a failover therefore makes no process dead.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from codellama_proxy import __version__
from codellama_proxy.store.ledger.crashes import Orphan, crashed
from codellama_proxy.store.ledger.page import Page
from codellama_proxy.store.ledger.rows import settled_row
from codellama_proxy.store.ledger.scope_balance import ScopeBalance
from codellama_proxy.store.postgres.batch import held_of
from codellama_proxy.store.postgres.scope_rows import SQL, ScopeRows, StoredBalance, rows_json
from codellama_proxy.store.postgres.session import PostgresSession

BEAT_SECONDS = 0.3
"""Between beats of an idle worker; keys that changed are noticed with a beat."""
WATCH_SECONDS = 1.0
LATE_SECONDS = 3.0
"""A watch later than this says nothing about others: this process was away itself."""
DEAD_SECONDS = 10.0
LEFT_BEHIND_SECONDS = 10.0
"""Between searches for held rows of workers that have no row."""
VERIFY_SECONDS = 15.0
"""After which no transaction runs that began before a scope's row was made."""
REAP_ROWS = 200

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Identity:
    """What other processes see of this one."""

    digest: str = ""
    loaded_at: float = 0.0
    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")


def register(db: PostgresSession, identity: Identity) -> int:
    """Insert a row for this process; returns its number."""
    worker = secrets.randbits(62)
    db.native(
        SQL["register"],
        {
            "worker": worker,
            "name": identity.name,
            "version": __version__,
            "digest": identity.digest,
            "loaded_at": identity.loaded_at,
        },
    )
    return worker


class Watch:
    """Looks at the other workers. Used on the writer's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, tuple[float, float]] = {}
        """The last beat of each worker, and since when it is unchanged."""
        self.configurations: Counter[str] = Counter()
        """How many other workers have a configuration in force, by its digest."""
        self._last_look = -LATE_SECONDS
        self._last_search = clock()

    def forget(self) -> None:
        """The database was away: what was seen before says nothing."""
        self._seen.clear()

    @property
    def due_in(self) -> float:
        return self._last_look + WATCH_SECONDS - self._clock()

    def look(self, db: PostgresSession, me: int) -> int:
        """Settle what dead workers hold, and verify new scopes; returns the number of requests settled."""
        now = self._clock()
        if now - self._last_look > LATE_SECONDS:
            self._seen.clear()
        self._last_look = now
        dead = self._dead(db, me, now)
        settled = sum(self._reap(db, worker, beat) for worker, beat in dead)
        if now - self._last_search >= LEFT_BEHIND_SECONDS:
            self._last_search = now
            settled += sum(settle_all(db, worker) for (worker,) in db.native(SQL["left_behind"]).fetchall())
        verify_new_scopes(db)
        return settled

    def _dead(self, db: PostgresSession, me: int, now: float) -> list[tuple[int, float]]:
        before, self._seen = self._seen, {}
        dead = []
        configurations: Counter[str] = Counter()
        for worker, beat, digest in db.native(SQL["workers"], (me,)).fetchall():
            last, since = before.get(worker, (beat, now))
            if last != beat:
                since = now
            self._seen[worker] = (beat, since)
            if now - since >= DEAD_SECONDS:
                dead.append((worker, beat))
            elif digest:  # it has one in force
                configurations[digest] += 1
        self.configurations = configurations  # replaced, never changed: other threads read it
        return dead

    def _reap(self, db: PostgresSession, worker: int, beat: float) -> int:
        settled = 0
        while True:
            with db.transaction():
                mine = db.native(SQL["take_over"], {"worker": worker, "beat_at": beat}).fetchone()
                if mine is None:  # it is alive after all, or another process is at it
                    return settled
                count = settle_orphans(db, worker)
                settled += count
                if count < REAP_ROWS:
                    db.native(SQL["sign_off"], {"worker": worker})
                    self._seen.pop(worker, None)
                    log.warning(
                        "a worker stopped without signing off; %d of its requests were settled", settled
                    )
                    return settled


def settle_all(db: PostgresSession, worker: int) -> int:
    """Settle everything that a dead worker holds; returns the number of requests."""
    settled = 0
    while True:
        with db.transaction():
            count = settle_orphans(db, worker)
        settled += count
        if count < REAP_ROWS:
            return settled


def settle_orphans(db: PostgresSession, worker: int) -> int:
    """Settle up to `REAP_ROWS` rows that a dead worker holds, at their maximum cost; returns their number."""
    orphans = [Orphan(*row) for row in db.native(SQL["orphans"], (worker, REAP_ROWS)).fetchall()]
    if not orphans:
        return 0
    ends = {orphan.request_id: crashed(orphan) for orphan in orphans}
    rows = [{"request_id": name, **settled_row(end)._asdict()} for name, end in ends.items()]
    moved = db.native(SQL["settle"], (list(ends), rows_json(rows).decode())).fetchall()
    held = {row[0]: held_of(row) for row in moved}
    ids = sorted({scope for one in held.values() for scope in one.scopes})
    balances: dict[str, ScopeBalance] = {scope: ScopeBalance() for scope in ids}
    balances |= {row[1]: StoredBalance(row[2:]) for row in db.native(SQL["lock"], (ids,)).fetchall()}
    page = Page(balances)
    for name, one in held.items():
        page.settle(one, ends[name])
    changed = [
        balance.row(scope) for scope, balance in balances.items() if isinstance(balance, StoredBalance)
    ]
    db.native(SQL["keep_scopes"], (rows_json(changed).decode(),))
    return len(orphans)


def open_scopes(db: PostgresSession, scopes: list[str]) -> None:
    """Make the rows of scopes that are limited from now on, with the number of their running requests."""
    with db.transaction():
        made = [row[0] for row in db.native(SQL["open_scopes"], (scopes,)).fetchall()]
        rows = ScopeRows(db)
        for scope in made:
            db.native(SQL["opened"], {"scope": scope, "running": rows.running(scope)})


def verify_new_scopes(db: PostgresSession) -> None:
    """Sum up new rows once more: transactions that did not know of them may have changed requests meanwhile."""
    for (scope,) in db.native(SQL["unverified"], (VERIFY_SECONDS,)).fetchall():
        with db.transaction():
            locked = db.native(SQL["lock"], ([scope],)).fetchone()
            if locked is None:
                continue
            balance, rows = StoredBalance(locked[2:]), ScopeRows(db)
            spent, held = balance.spent, balance.held
            if balance.first_seq is not None:
                booked, held = rows.booked(scope, balance.first_seq)
                spent = booked + balance.folded
            values = {"scope": scope, "running": rows.running(scope), "spent": spent, "held": held}
            db.native(SQL["verify"], values)
