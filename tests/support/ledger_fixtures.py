"""A real ledger in a temporary database, and requests to put into it."""

import asyncio
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any

from codellama_proxy.core.snapshot import Limits, Price
from codellama_proxy.core.types import Key, Usage
from codellama_proxy.limits.admission import AdmissionRequest, Settlement
from codellama_proxy.limits.rates import ScopeLimits, user_scope
from codellama_proxy.store.ledger.balances import MAX_BALANCES, Balances
from codellama_proxy.store.ledger.journal_lines import Admitted, Settled
from codellama_proxy.store.ledger.rows import held_row, settled_row
from codellama_proxy.store.sqlite import replay
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.journal import files
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.migrations import prepare
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.writer import Writer

NOW = 1_795_361_400.0  # 2026-11-22T15:30:00Z, a Sunday
PER_TOKEN = Price(10**6, 10**6)
"""One nano-USD a token."""

_numbers = count(1)


def ask(*scopes: ScopeLimits, **given: Any) -> AdmissionRequest:
    """A request of the key `key_a` of `web`: 1 token in; with a budget, one answer of `max_tokens`."""
    values: dict[str, Any] = {
        "request_id": f"req_{next(_numbers):08d}",
        "created_at": NOW,
        "project": "web",
        "key": Key("key_a", "web"),
        "user": None,
        "endpoint": "/chat/completions",
        "model_requested": "codellama",
        "stream": False,
        "config": "0123456789ab",
        "scopes": scopes,
        "prompt_estimate": 1,
        "prompt_bound": 0,
        "max_tokens": 5,
        "default_max_tokens": 100,
        "n": 1,
        "prices": (PER_TOKEN,),
    }
    return AdmissionRequest(**values | given)


def end(request: AdmissionRequest | str, cost: int | None = 0, **given: Any) -> Settlement:
    request_id = request if isinstance(request, str) else request.request_id
    settlement = Settlement(
        request_id,
        "ok",
        200,
        model="codellama",
        deployment="codellama#1",
        upstream_model="CodeLlama-34b",
        usage=Usage(1, 0),
        basis="exact",
        cost_nanos=cost,
        cache="miss",
        total_ms=1.5,
    )
    return settlement._replace(**given)


def of_global(**limited: Any) -> ScopeLimits:
    return ScopeLimits("global:", Limits(**limited))


def of_project(name: str = "web", **limited: Any) -> ScopeLimits:
    return ScopeLimits(f"project:{name}", Limits(**limited))


def of_key(name: str = "key_a", **limited: Any) -> ScopeLimits:
    return ScopeLimits(f"key:{name}", Limits(**limited))


def of_user(user: str, **limited: Any) -> ScopeLimits:
    return ScopeLimits(f"user:{user_scope('web', user)}", Limits(**limited))


def admit_row(db: sqlite3.Connection, request: AdmissionRequest) -> None:
    """Write the row of an admitted request, without a ledger."""
    (last,) = db.execute("select coalesce(max(seq), 0) from requests").fetchone()
    replay.apply(db, [Admitted(last + 1, held_row(request, 0))])


def settle_row(db: sqlite3.Connection, settlement: Settlement) -> None:
    """Complete the row of a held request, without a ledger."""
    replay.apply(db, [Settled(settlement.request_id, settled_row(settlement))])


class Store:
    """One database; `open` it as often as a server would start on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = NOW
        self.elapsed = 0.0
        """Seconds that the monotonic clock of rates is ahead."""
        self.most_balances = MAX_BALANCES
        self.writer = Writer(path)
        prepare(path)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ledger]:
        self.writer, reader = Writer(self.path), Reader(self.path)
        balances = Balances(
            self.most_balances, clock=lambda: time.monotonic() + self.elapsed, wall=lambda: self.now
        )
        ledger = Ledger(self.writer, reader, clock=lambda: self.now, balances=balances)
        self.writer.start()
        await reader.open()
        try:
            await ledger.open()
            yield ledger
        finally:
            await ledger.close()
            await reader.close()
            await asyncio.to_thread(self.writer.close)
            ledger.delete_journal()

    def run(self, use: Callable[[Ledger], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            async with self.open() as ledger:
                return await use(ledger)

        return asyncio.run(main())

    def copy_as_killed(self, directory: Path) -> None:
        """Copy the files as the death of the process at this moment would leave them."""
        directory.mkdir()
        names = [self.path.name, f"{self.path.name}-wal", *[path.name for path in files(self.path)]]
        with self.elsewhere() as db:
            db.execute("begin")  # a reader keeps the log in place
            db.execute("select 1 from requests").fetchone()
            # Another process copies: closing a file releases the locks that this process has on it.
            subprocess.run(["cp", *names, str(directory)], cwd=self.path.parent, check=True)
            db.execute("rollback")

    def elsewhere(self, busy_ms: int = 5000) -> closing[sqlite3.Connection]:
        """The file as another process has it open."""
        return closing(connect(self.path, busy_ms=busy_ms))

    def value(self, sql: str, *values: Any) -> Any:
        """One value out of the committed file."""
        with self.elsewhere() as db:
            row = db.execute(sql, values).fetchone()
        return row and row[0]

    def execute(self, sql: str) -> None:
        with self.elsewhere() as db:
            db.execute(sql)

    def balance(self, scope: str) -> tuple[int, int]:
        with self.elsewhere() as db:
            row = db.execute(
                "select spent_nanos, held_nanos from scopes where scope = ?", (scope,)
            ).fetchone()
        return row or (0, 0)

    def level(self, scope: str, kind: str = "rpm") -> float | None:
        with self.elsewhere() as db:
            row = db.execute("select rpm_level, tpm_level from scopes where scope = ?", (scope,)).fetchone()
        return None if row is None else row[0 if kind == "rpm" else 1]
