"""Two weeks of a team's use, put through the ledger.

`python -m tests.support.two_weeks_of_use DATABASE` prints the secrets of the keys.

The numbers are the same every time.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama_proxy.core.snapshot import Limits
from codellama_proxy.core.types import Attempt, Charge, Failure, Key, Usage
from codellama_proxy.limits.admission import AdmissionRequest, Settlement, attempts_json
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.sql import keys as key_rows
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.ledger import Ledger
from tests.support.ledger_fixtures import Store, ask

DAYS, HOUR, DAY = 15, 3600, 86400
REQUESTS_AT_NOON = 14
USD = 10**9

MODELS: Mapping[str, tuple[float, float, float]] = {
    "claude": (0.32, 3, 15),
    "gpt-4": (0.24, 2, 8),
    "codellama": (0.30, 0.776, 0.776),
    "gpt-4-mini": (0.10, 0.4, 1.6),
}
"""Share of requests, and USD per million tokens in and out."""
BUDGETS = {"web-team": 12, "data-platform": 7, "search": 20}
"""USD in a month of each project."""
GLOBAL_BUDGET = 50
KEYS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "web-team": {
        "carmen's laptop": {"max_budget": 4 * USD, "budget_duration": "month", "rpm_limit": 600},
        "rosa": {},
        "ci": {"duration": 105 * DAY, "tpm_limit": 200_000},
    },
    "data-platform": {"indexer": {"duration": 20 * DAY, "models": ("codellama", "gpt-*")}, "june": {}},
    "search": {"nadia": {}, "ranker": {}},
    "mobile": {"kofi": {}},
}
PROXY_YAML = "\n".join(
    (
        "# The team's models, in the order of fallbacks.",
        "models:",
        *(
            f"  - {{name: {name}, provider: mock, price: {{input: {price[0]}, output: {price[1]}}}}}"
            for name, (_, *price) in MODELS.items()
        ),
        "  - {name: starcoder, provider: huggingface, model: bigcode/starcoder2-15b, price: {input: 1, output: 1}}",
        "",
        "limits:",
        f"  global: {{max_budget: {GLOBAL_BUDGET}, budget_duration: month}}",
        "",
        "projects:",
        *(
            f"  {name}: {{limits: {{max_budget: {usd}, budget_duration: month}}}}"
            for name, usd in BUDGETS.items()
        ),
        "",
    )
)
"""What belongs to these rows: the mock answers in the names of the models."""


@dataclass(frozen=True)
class _Use:
    ask: AdmissionRequest
    end: Settlement


def fill(path: Path, now: float) -> dict[str, str]:
    """Puts the requests of the days before `now` into a new database. The secrets, by the names of the keys."""
    store, draw = Store(path), random.Random(5)
    with closing(connect(path)) as db:
        keys, secrets = _keys(db, now)

    async def put(ledger: Ledger) -> None:
        for hour in range(DAYS * 24, 0, -1):
            store.now = now - hour * HOUR
            uses = list(_uses(draw, keys, store.now))
            await asyncio.gather(*(ledger.admit(use.ask) for use in uses))
            for use in uses:
                ledger.settle(use.end)
        await ledger.roll_up()

    store.run(put)
    return secrets


def _keys(db: Any, now: float) -> tuple[list[Key], dict[str, str]]:
    keys, secrets = [], {}
    for project, named in KEYS.items():
        for name, fields in named.items():
            change = KeyChange({"key_alias": project, "name": name, **fields})
            key, secrets[name] = key_rows.create(db, change, now - DAYS * DAY)
            keys.append(key)
    return keys, secrets


def _uses(draw: random.Random, keys: list[Key], start: float) -> Iterator[_Use]:
    """What was asked in the hour from `start` on: much at noon, little at night and at weekends."""
    daylight = max(0.0, math.sin((start % DAY / HOUR - 6) / 12 * math.pi))
    weekend = 0.3 if time.gmtime(start).tm_wday > 4 else 1.0
    for moment in sorted(draw.random() for _ in range(round(REQUESTS_AT_NOON * (0.1 + daylight) * weekend))):
        yield _use(draw, draw.choice(keys), start + moment * HOUR)


def _use(draw: random.Random, key: Key, at: float) -> _Use:
    (name,) = draw.choices(list(MODELS), [share for share, *_ in MODELS.values()])
    _, *price = MODELS[name]
    asked = ask(
        *_scopes(key),
        request_id=f"req_{draw.randrange(16**24):024x}",
        created_at=at,
        project=key.project,
        key=key,
        user=draw.choice(("ana", "ben", None)),
        endpoint="chat/completions",
        model_requested=name,
        stream=True,
        prices=(),
    )
    ms = draw.lognormvariate(7.4, 0.6)
    luck = draw.random()
    if luck < 0.02:
        failed = Failure("busy", 429, "upstream_rate_limited", reason="http_429")
        lost = Attempt(f"{name}#1", failed, 3.1, at=0.4, charge=Charge(basis="estimated"))
        attempts = attempts_json([lost.to_json()])
        return _Use(asked, Settlement(asked.request_id, "error", 429, attempts, cache="miss", total_ms=3.9))
    usage = Usage(round(draw.lognormvariate(8.6, 0.9)), round(draw.lognormvariate(6, 0.6)))
    cost = round((usage.prompt_tokens * price[0] + usage.completion_tokens * price[1]) * 1000)
    hit = luck > 0.9
    served = Attempt(f"{name}#1", None, ms, at=0.4, charge=Charge(usage, "exact", cost))
    return _Use(
        asked,
        Settlement(
            asked.request_id,
            "cancelled" if luck < 0.03 else "ok",
            499 if luck < 0.03 else 200,
            attempts_json([] if hit else [served.to_json()]),
            model=name,
            deployment=None if hit else f"{name}#1",
            upstream_model=None if hit else name,
            usage=usage,
            basis="cached" if hit else "exact",
            cost_nanos=0 if hit else cost,
            saved_nanos=cost if hit else 0,
            cache="hit" if hit else "miss",
            first_ms=2.0 if hit else min(ms, draw.uniform(120, 500)),
            total_ms=3.0 if hit else ms,
        ),
    )


def _scopes(key: Key) -> tuple[ScopeLimits, ...]:
    month = {"budget_duration": "month"}
    scopes = [ScopeLimits("global:", Limits(max_budget=GLOBAL_BUDGET * USD, **month))]
    if key.project in BUDGETS:
        limits = Limits(max_budget=BUDGETS[key.project] * USD, **month)
        scopes.append(ScopeLimits(f"project:{key.project}", limits))
    if key.limits.is_set:
        scopes.append(ScopeLimits(f"key:{key.key_id}", key.limits))
    return tuple(scopes)


if __name__ == "__main__":
    print(json.dumps(fill(Path(sys.argv[1]), time.time())))
