"""What the writer's thread does between transactions: it looks at the other workers and at purges of the caches."""

from __future__ import annotations

import logging
from collections.abc import Callable

from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres.cache_purges import CachePurges
from codellama_proxy.store.postgres.scope_rows import SQL
from codellama_proxy.store.postgres.session import PostgresSession, ServerError, sentence
from codellama_proxy.store.postgres.workers import Identity, Watch

MAX_POSTPONED_SECONDS = 0.5
"""How long what is due waits for a transaction that no request waits for."""

log = logging.getLogger(__name__)


class Upkeep:
    """Never fails: what was committed before has succeeded, and what fails here is tried again later."""

    def __init__(self, address: ServerAddress, identity: Identity, clock: Callable[[], float]) -> None:
        self._address = address
        self._identity = identity
        self._described: tuple[str, float] = ("", 0.0)
        self._failures: dict[str, str] = {}
        """The last failure of each task, which is reported once."""
        self.postponed = False
        """It is due, and the last transaction was not to wait for it."""
        self.watch = Watch(clock)
        self.purges = CachePurges(clock)

    def registered(self, db: PostgresSession) -> None:
        """The row of this process is new, with the configuration in force."""
        self._described = (self._identity.digest, self._identity.loaded_at)
        self.purges.look(db)

    def postpone(self, awaited: bool) -> bool:
        """Whether to do nothing now. `awaited`: requests wait until the transaction before it is answered."""
        due_in = min(self.watch.due_in, self.purges.due_in)
        self.postponed = awaited and -MAX_POSTPONED_SECONDS < due_in <= 0
        return self.postponed or due_in > 0

    def run(self, db: PostgresSession, worker: int) -> None:
        """Do what is due. `worker`: the number of this process."""
        if self.watch.due_in <= 0:
            self._try("watch", db, lambda: self.watch.look(db, worker))
            self._try("describe", db, lambda: self._describe(db, worker))
        self._try("purges", db, lambda: self.purges.look(db))

    def _try(self, name: str, db: PostgresSession, task: Callable[[], object]) -> None:
        if not db.usable:
            return
        try:
            task()
        except ServerError as error:
            self.watch.forget()
            failure = sentence(self._address, error)
            if self._failures.get(name) != failure:
                log.warning("upkeep of the database failed: %s", failure)
            self._failures[name] = failure

    def _describe(self, db: PostgresSession, worker: int) -> None:
        """Tell other processes which configuration is in force."""
        now = (self._identity.digest, self._identity.loaded_at)
        if now != self._described:
            values = {"worker": worker, "digest": now[0], "loaded_at": now[1]}
            db.native(SQL["describe"], values)
            self._described = now
