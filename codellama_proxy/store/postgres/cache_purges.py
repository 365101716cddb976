"""Purges of the response caches: a command adds a row, and every process reads it within half a second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from codellama_proxy.store.interfaces import CachePurge
from codellama_proxy.store.postgres.session import PostgresSession

LOOK_SECONDS = 0.5
KEEP_SECONDS = 86400.0
"""A process that was away for longer has ended."""

# Rows have to appear in the order of their numbers.
_LOCK = "lock table cache_purges in share row exclusive mode"
_FORGET = "delete from cache_purges where at < extract(epoch from clock_timestamp())::float8 - %s"
_ADD = """
insert into cache_purges (at, project, model)
values (extract(epoch from clock_timestamp())::float8, %(project)s, %(model)s)
"""
_PROCESSES = "select count(*) from workers"
_LAST = "select coalesce(max(seq), 0) from cache_purges"
_AFTER = "select seq, project, model from cache_purges where seq > %s order by seq limit 1000"


def add(db: PostgresSession, purge: CachePurge) -> int:
    """Have every process purge its cache; returns the number of processes. In the caller's transaction."""
    db.native(_LOCK)
    db.native(_FORGET, (KEEP_SECONDS,))
    db.native(_ADD, purge._asdict())
    return int(db.native(_PROCESSES).fetchone()[0])


class CachePurges:
    """Those that this process has to make. Used on the writer's thread, except `take`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: int | None = None
        self._looked_at = clock()
        self._waiting: deque[CachePurge] = deque()

    @property
    def due_in(self) -> float:
        """Seconds until the next look."""
        return self._looked_at + LOOK_SECONDS - self._clock()

    def look(self, db: PostgresSession) -> None:
        """Read new purges, every `LOOK_SECONDS`. The first call only notes the last one: the cache is still empty."""
        if self._last is None:
            (self._last,) = db.native(_LAST).fetchone()
        elif self.due_in <= 0:
            self._looked_at = self._clock()  # also if this fails: it is not tried with every transaction
            for seq, project, model in db.native(_AFTER, (self._last,)).fetchall():
                self._waiting.append(CachePurge(project, model))
                self._last = seq

    def take(self) -> list[CachePurge]:
        """What was read since the last call, oldest first."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]
