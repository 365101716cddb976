"""Fills a database as a month of use leaves it: 10⁶ settled requests of 240 keys, 8 models, and their sums."""

from __future__ import annotations

import argparse
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.sql import keys as key_rows
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.migrations import prepare
from codellama_proxy.store.sqlite.roll_up import roll_up

ROWS, DAYS, PROJECTS, KEYS_EACH, MODELS = 1_000_000, 30, 12, 20, 8
USERS_EACH = 3
"""Users of a key; each key asks for three of the models."""
SESSION_SPAN = 10_000
"""Requests of all keys during a session: of those of a key, half are in it, and a quarter of these of its agent."""
LABELS = (("session", 2), ("agent", 8))
INSERT = """
insert into requests (
    request_id, created_at, project, key_id, user, session, agent, endpoint, model_requested, model, deployment,
    upstream_model, stream, status, http_status, attempts, prompt_tokens, completion_tokens, cached_tokens, cost_nanos,
    saved_nanos, basis, cache, first_ms, total_ms, config, hold_nanos, estimate_tokens)
values (?, ?, ?, ?, ?, ?, ?, 'chat/completions', ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, 0, ?, 0, 'exact', ?, ?, ?,
    '0123456789ab', 0, 0)
"""


def fill(path: Path, rows: int = ROWS, seed: int = 1, now: float | None = None) -> list[str]:
    """The secrets of the keys, one of each project."""
    prepare(path)
    end = time.time() if now is None else now
    draw = random.Random(seed)
    with closing(connect(path)) as db:
        db.execute("begin")
        keys, secrets = _keys(db, end)
        db.executemany(INSERT, _requests(rows, keys, draw, end))
        db.execute("commit")
        db.execute("begin")
        while roll_up(db, 20_000):
            pass
        db.execute("commit")
        db.execute("pragma wal_checkpoint(truncate)")
    return secrets


def _keys(db: sqlite3.Connection, now: float) -> tuple[list[tuple[str, str]], list[str]]:
    keys, secrets = [], []
    for project in range(PROJECTS):
        for number in range(KEYS_EACH):
            change = KeyChange({"key_alias": f"project-{project}", "name": f"key {number}"})
            key, secret = key_rows.create(db, change, now)
            keys.append((key.project, key.key_id))
            if number == 0:
                secrets.append(secret)
    return keys, secrets


def _requests(
    rows: int, keys: list[tuple[str, str]], draw: random.Random, end: float
) -> Iterator[tuple[Any, ...]]:
    start = end - DAYS * 86_400
    for number in range(rows):
        at = start + (end - start) * number / rows
        place = int(len(keys) * draw.random() ** 2)
        project, key_id = keys[place]
        model = f"model-{(place + int(3 * draw.random() ** 2)) % MODELS}"
        user = f"user-{place}-{int(USERS_EACH * draw.random() ** 2)}"
        status = draw.choices(("ok", "error", "cancelled"), (97, 2, 1))[0]
        total = draw.lognormvariate(7, 0.8)
        attempts = orjson.dumps(
            [{"deployment": f"{model}#1", "class": status, "status": 200, "at": 0.4, "ms": total}]
        )
        cached = draw.random() < 0.1
        part = f"{place}-{number // SESSION_SPAN}"
        session, agent = (f"{kind}-{part}" if number % every == 0 else None for kind, every in LABELS)
        yield (
            f"req_{number:024x}", at, project, key_id, user, session, agent, model, model, f"{model}#1",
            model, status, {"ok": 200, "error": 502, "cancelled": 499}[status], attempts.decode(),
            draw.randrange(20, 4000), draw.randrange(1, 900), 0 if cached else draw.randrange(10**4, 10**8),
            "hit" if cached else "miss", total / 3, total,
        )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    given = parser.parse_args()
    print("\n".join(fill(given.database, given.rows)))
