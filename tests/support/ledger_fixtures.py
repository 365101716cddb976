"""A real ledger in a temporary database, and requests to put into it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any

from codellama_proxy.core.snapshot import Limits, Price
from codellama_proxy.core.types import Key, Usage
from codellama_proxy.limits.admission import AdmissionRequest, Settlement
from codellama_proxy.limits.rates import ScopeLimits, user_scope
from codellama_proxy.store.sqlite.connection import connect
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
        "candidate_names": ("codellama",),
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


class Store:
    """One database; `open` it as often as a server would start on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = NOW
        self.writer = Writer(path)
        prepare(path)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ledger]:
        self.writer, reader = Writer(self.path), Reader(self.path)
        self.writer.start()
        await reader.open()
        try:
            yield Ledger(self.writer, reader, clock=lambda: self.now)
        finally:
            await reader.close()
            await asyncio.to_thread(self.writer.close)

    def run(self, use: Callable[[Ledger], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            async with self.open() as ledger:
                return await use(ledger)

        return asyncio.run(main())

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
