"""When a deployment rests, and for how long: each outcome of an attempt is folded into the `Cooling` it left behind.

A deployment that rests gets one request at a time, as its probe: success ends the rest, failure doubles it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from codellama_proxy.core.snapshot import Cooldown, Deployment
from codellama_proxy.core.types import Failure, FailureClass


@dataclass(frozen=True, slots=True)
class Cooling:
    """What a deployment's recent failures left behind."""

    failures: int = 0
    """Upstream-caused ones in a row."""
    until: float = 0.0
    """Monotonic seconds; in the past: the next request is the probe."""
    rounds: int = 0
    """How often in a row it was cooled: the doubling."""
    why: str = ""
    probing: bool = False
    """A request is under way as its probe."""
    cls: FailureClass = "transient"
    """Of the failure that cooled it."""


def is_cooling(state: Cooling | None, now: float) -> bool:
    """Cooling, or being probed by another request right now."""
    return state is not None and state.rounds > 0 and (now < state.until or state.probing)


def soonest(deployments: Iterable[Deployment], cooling: Mapping[str, Cooling], now: float) -> Cooling | None:
    """The state of the one that is ready first; `None` when one is ready now, or there are none."""
    states = [cooling.get(one.id) for one in deployments]
    resting = [state for state in states if state is not None and is_cooling(state, now)]
    return None if len(resting) < len(states) else min(resting, key=lambda state: state.until, default=None)


def cool(
    state: Cooling | None, failure: Failure | None, policy: Cooldown, now: float, *, probe: bool = False
) -> Cooling | None:
    """The state after one more outcome; `None` is the clean slate that a success leaves.

    A cooldown runs to its end unless its probe succeeds: any other answer began before it and says nothing about now.
    """
    if failure is None:
        return state if state is not None and now < state.until and not probe else None
    if failure.cls in ("caller", "client_left") or not failure.cools:
        return state
    state = state or Cooling()
    failures = state.failures + 1
    if (now < state.until or state.probing) and not probe:
        return replace(state, failures=failures)  # one outage is not counted once per request in flight
    due = failures >= policy.failures or state.rounds > 0 or failure.cls in ("credential", "busy")
    if not due:
        return replace(state, failures=failures, why=failure.reason)
    until = now + min(_cooling_time(state, failure, policy), policy.max_time)
    return Cooling(failures, max(until, state.until), state.rounds + 1, failure.reason, cls=failure.cls)


def _cooling_time(state: Cooling, failure: Failure, policy: Cooldown) -> float:
    if failure.cls == "busy" and failure.retry_after is not None:
        return failure.retry_after
    first = policy.auth_time if failure.cls == "credential" else policy.time
    return first * 2.0 ** min(state.rounds, 30)
