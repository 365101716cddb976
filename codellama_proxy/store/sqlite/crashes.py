"""What a crash left held, as it is settled at the next start: at the most it may have cost. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.money import NANOS
from codellama_proxy.core.types import Attempt, Charge, Failure, Usage
from codellama_proxy.limits.admission import Settlement
from codellama_proxy.pricing.charge import total


class Orphan(NamedTuple):
    """A held row that no process serves any more."""

    request_id: str
    hold_nanos: int
    estimate_nanos: int | None
    """What its prompt costs; `None`: the price is unknown."""
    estimate_tokens: int
    attempts: str | None
    """JSON: those that had ended."""
    model: str | None
    deployment: str | None
    """Where the attempt went that was under way, or was about to begin."""


def crashed(row: Orphan) -> Settlement:
    """Its end: the attempts that had ended at what they cost, the last at what is left of the hold, or its prompt."""
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
        attempts=tuple(ended),
        model=row.model,
        deployment=row.deployment,
        usage=whole.usage,
        basis=whole.basis,
        cost_nanos=whole.cost_nanos,
    )


def _attempt(shown: dict[str, Any]) -> Attempt:
    """An attempt as `Attempt.to_json` wrote it."""
    failure = Failure(shown["class"], shown["status"], reason=shown.get("reason", ""))
    cost = shown["cost_usd"]
    charge = Charge(
        Usage(shown["prompt_tokens"], shown["completion_tokens"]),
        shown["basis"],
        None if cost is None else round(cost * NANOS),
    )
    return Attempt(shown["deployment"], failure, shown["ms"], at=shown["at"], charge=charge)
