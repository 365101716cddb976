"""Computes the settlement of rows that a crash left held: at their maximum cost. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.money import NANOS
from codellama_proxy.core.types import Attempt, Charge, Failure, Usage
from codellama_proxy.limits.admission import Settlement, attempts_json
from codellama_proxy.pricing.charge import total


class Orphan(NamedTuple):
    """A held row whose process has ended."""

    request_id: str
    hold_nanos: int
    estimate_nanos: int | None
    """Cost of the prompt in nano-USD; `None`: the price is unknown."""
    estimate_tokens: int
    attempts: str | None
    """JSON of the finished attempts."""
    model: str | None
    deployment: str | None
    """The deployment of the attempt that was in progress or about to start."""


def crashed(row: Orphan) -> Settlement:
    """Finished attempts at their cost; the last one at the rest of the hold, or without a hold at its prompt's cost."""
    ended = [_attempt(one) for one in orjson.loads(row.attempts or "[]")]
    spent = total(one.charge for one in ended if one.charge is not None).cost_nanos
    last = row.estimate_nanos
    if row.hold_nanos:
        last = max(row.hold_nanos - (spent or 0), 0)
    charge = Charge(Usage(row.estimate_tokens), "crash_estimate", last)
    if row.deployment is not None:
        ended.append(Attempt(row.deployment, Failure("transient", reason="crash"), 0.0, charge=charge))
    whole = total([*[one.charge for one in ended[:-1] if one.charge is not None], charge])
    return Settlement(
        row.request_id,
        "error",
        None,
        attempts=attempts_json([one.to_json() for one in ended]),
        model=row.model,
        deployment=row.deployment,
        usage=whole.usage,
        basis=whole.basis,
        cost_nanos=whole.cost_nanos,
    )


def _attempt(shown: dict[str, Any]) -> Attempt:
    """The inverse of `Attempt.to_json`."""
    failure = Failure(shown["class"], shown["status"], reason=shown.get("reason", ""))
    cost = shown["cost_usd"]
    charge = Charge(
        Usage(shown["prompt_tokens"], shown["completion_tokens"]),
        shown["basis"],
        None if cost is None else round(cost * NANOS),
    )
    return Attempt(shown["deployment"], failure, shown["ms"], at=shown["at"], charge=charge)
