"""Where a request goes next: pure functions on values; nothing here waits, looks at a clock or draws a number.

A request walks a *chain*: the asked model's deployments in weighted order, then its fallbacks in file order,
deployments that are cooling last. `next_step` is asked before every attempt and answers `Try` or `GiveUp`; the
list of finished attempts is all the state there is. Rules, in the order they bind:

1. never more than `max_attempts`, never past `deadline`;
2. a caller's fault ends the walk unless `fallback_on` names its reason;
3. a deployment that has not been tried in this request comes before one that failed in it;
4. a deployment that refused one parameter is tried again without it, if the entry has `drop_params`;
5. only transient and disguised failures are tried again in the same place, `retries` times, after a jittered
   wait; a busy one after its Retry-After, if that is at most `max_retry_after` and nothing else is left.

Cooling is per deployment and outlives requests: `cool` folds each outcome into the `Cooling` it left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from codellama_proxy.errors import ProxyError
from codellama_proxy.types import (
    Attempt,
    Cooldown,
    Deployment,
    Failure,
    Model,
    Routing,
    Snapshot,
)

Jitter = Callable[[], float]
"""A number in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Try:
    deployment: Deployment
    delay: float
    """Seconds to wait first."""
    budget: float
    """Seconds this attempt may take until its first event."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    reason: str
    """`deadline`, `attempts`, `caller` or `exhausted`."""


# --- the chain -----------------------------------------------------------------------------------------------


def allows(patterns: Sequence[str] | None, name: str) -> bool:
    """Whether an allow-list of shell wildcards lets `name` through; no list lets everything through."""
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)


def asked_model(snapshot: Snapshot, name: str | None, mode: str, permitted: Callable[[str], bool]) -> Model:
    """The model a request is for.

    Raises `ProxyError` model_not_found; unknown, disabled, not permitted and of another mode look alike.
    """
    known = None if name is None else snapshot.models.get(name)
    if known is not None and _serves(known, mode) and permitted(known.name):
        return known
    if name is None or (snapshot.routing.unknown_model == "default" and known is None):
        start = starting_model(m for m in snapshot.models.values() if _serves(m, mode) and permitted(m.name))
        if start is not None:
            return start
    shown = "No model" if name is None else f"The model '{name[:200]}'"
    message = f"{shown} does not exist or you do not have access to it."
    raise ProxyError("model_not_found", message, param="model")


def starting_model(usable: Iterable[Model]) -> Model | None:
    """Where a request without `model` starts: the first entry; a stand-in mock only when there is nothing else."""
    stand_in = None
    for model in usable:
        if not _stands_in(model):
            return model
        stand_in = stand_in or model
    return stand_in


def _serves(model: Model, mode: str) -> bool:
    return bool([d for d in model.deployments if d.serves(mode)])


def serving(model: Model, mode: str) -> Model:
    """With only those deployments that serve `mode`; nearly always all of them."""
    found = tuple([d for d in model.deployments if d.serves(mode)])
    return model if len(found) == len(model.deployments) else replace(model, deployments=found)


def _stands_in(model: Model) -> bool:
    return all(d.provider == "mock" and not d.fallback for d in model.deployments)


def models_of_chain(
    snapshot: Snapshot,
    first: Model,
    permitted: Callable[[str], bool],
    cooling: Mapping[str, Cooling],
    now: float,
    mode: str = "chat",
) -> list[Model]:
    """The asked model and its fallbacks, in order, without those the caller may not use or that do not serve `mode`.

    It ends where `max_attempts` deployments are ready: no request comes further, however long the file is.
    """
    chain: list[Model] = []
    ready = 0
    for name in (first.name, *first.fallbacks):
        model = snapshot.models.get(name)
        if model is None or model in chain or not permitted(name):
            continue
        model = serving(model, mode)
        if not model.deployments:
            continue
        chain.append(model)
        ready += len([d for d in model.deployments if not is_cooling(cooling.get(d.id), now)])
        if ready >= snapshot.routing.max_attempts:
            break
    return chain


def weighted(deployments: Sequence[Deployment], jitter: Jitter) -> list[Deployment]:
    """A random order in which each deployment comes first as often as its share of the weights."""
    if len(deployments) == 1:
        return list(deployments)
    # Efraimidis-Spirakis: the largest of u**(1/w) is deployment d with probability w_d / sum(w).
    keyed = [(jitter() ** (1 / d.weight) if d.weight > 0 else -1.0, d) for d in deployments]
    return [d for _, d in sorted(keyed, key=lambda pair: pair[0], reverse=True)]


def candidates(
    models: Sequence[Model], cooling: Mapping[str, Cooling], now: float, jitter: Jitter
) -> list[Deployment]:
    """Every deployment of the chain, cooling ones last, the one that ends soonest first."""
    in_order = [d for model in models for d in weighted(model.deployments, jitter)]
    if not cooling:
        return in_order
    ready = [d for d in in_order if not is_cooling(cooling.get(d.id), now)]
    waiting = [d for d in in_order if is_cooling(cooling.get(d.id), now)]
    return ready + sorted(waiting, key=lambda d: cooling[d.id].until)


# --- the walk ------------------------------------------------------------------------------------------------


def next_step(
    chain: Sequence[Deployment],
    attempts: Sequence[Attempt],
    elapsed: float,
    routing: Routing,
    jitter: Jitter,
) -> Try | GiveUp:
    """What to do after these attempts, `elapsed` seconds into the request."""
    remaining = routing.deadline - elapsed
    if remaining <= 0:
        return GiveUp("deadline")
    if len(attempts) >= routing.max_attempts:
        return GiveUp("attempts")
    last = attempts[-1].failure if attempts else None
    if last is not None and (repair := _repair(chain, attempts, last)) is not None:
        return Try(repair, 0.0, remaining / 2 if len(chain) > 1 else remaining)
    if last is not None and last.cls == "caller" and last.reason not in routing.fallback_on:
        return GiveUp("caller")
    tried = {attempt.deployment for attempt in attempts}
    fresh = [d for d in chain if d.id not in tried]
    if fresh:
        more = len(fresh) > 1 and len(attempts) + 1 < routing.max_attempts
        return Try(fresh[0], 0.0, remaining / 2 if more else remaining)
    return _again(chain, attempts, remaining, routing, jitter)


def _repair(chain: Sequence[Deployment], attempts: Sequence[Attempt], last: Failure) -> Deployment | None:
    """The deployment that refused one parameter, which may be left out: once for each parameter."""
    if not last.unsupported:
        return None
    here = [a for a in attempts if a.deployment == attempts[-1].deployment]
    if sum(a.failure is not None and a.failure.unsupported == last.unsupported for a in here) > 1:
        return None
    return next((d for d in chain if d.id == attempts[-1].deployment), None)


def _again(
    chain: Sequence[Deployment],
    attempts: Sequence[Attempt],
    remaining: float,
    routing: Routing,
    jitter: Jitter,
) -> Try | GiveUp:
    """A second try somewhere that failed: the first in chain order that its failure and the time allow."""
    for deployment in sorted(chain, key=lambda d: _reluctance(attempts, d)):
        failure = _last_failure(attempts, deployment)
        delay = _delay_before(failure, _tries(attempts, deployment), routing, jitter)
        if delay is not None and delay < remaining:
            return Try(deployment, delay, remaining - delay)
    return GiveUp("exhausted")


def _reluctance(attempts: Sequence[Attempt], deployment: Deployment) -> tuple[bool, int]:
    """Those that have no room come last, those tried least come first."""
    failure = _last_failure(attempts, deployment)
    return failure is not None and failure.cls == "busy", _tries(attempts, deployment)


def _delay_before(failure: Failure | None, tries: int, routing: Routing, jitter: Jitter) -> float | None:
    """Seconds before this place may be tried again; `None`: not in this request."""
    if failure is None:
        return None
    if failure.cls == "busy":
        wait = failure.retry_after
        return wait if wait is not None and wait <= routing.max_retry_after else None
    if failure.cls in ("transient", "disguised") and tries <= routing.retries:
        return jitter() * min(routing.backoff_max, routing.backoff_initial * 2.0 ** (tries - 1))
    return None


def _tries(attempts: Sequence[Attempt], deployment: Deployment) -> int:
    """Without those that were refused for a parameter."""
    here = (a.failure for a in attempts if a.deployment == deployment.id)
    return sum(1 for failure in here if failure is None or not failure.unsupported)


def _last_failure(attempts: Sequence[Attempt], deployment: Deployment) -> Failure | None:
    return next((a.failure for a in reversed(attempts) if a.deployment == deployment.id), None)


def final_error(attempts: Sequence[Attempt], gave_up: GiveUp, routing: Routing) -> ProxyError:
    """What the caller sees when no attempt served: the last failure in our words, with every attempt listed.

    Nobody is sent away for longer than we stay away ourselves.
    """
    listed = [
        {"deployment": a.deployment, "class": a.failure.cls if a.failure else "ok", "status": _status(a)}
        for a in attempts
    ]
    last = attempts[-1].failure if attempts else None
    if last is None or gave_up.reason == "deadline":
        return ProxyError("deadline_exceeded", "No upstream answered before the deadline.", attempts=listed)
    wait = last.retry_after if last.cls == "busy" else None
    return ProxyError(
        last.code,
        last.message,
        param=last.param,
        retry_after=None if wait is None else min(wait, routing.cooldown.max_time),
        attempts=listed,
    )


def _status(attempt: Attempt) -> int | None:
    return attempt.failure.status if attempt.failure else 200


# --- cooling -------------------------------------------------------------------------------------------------


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


def is_cooling(state: Cooling | None, now: float) -> bool:
    """Cooling, or being probed by somebody else right now."""
    return state is not None and state.rounds > 0 and (now < state.until or state.probing)


def cool(state: Cooling | None, failure: Failure | None, policy: Cooldown, now: float) -> Cooling | None:
    """The state after one more outcome; `None` is the clean slate that a success leaves.

    A cooldown runs to its end: an answer that began before it says nothing about now.
    """
    if failure is None:
        return state if state is not None and now < state.until else None
    if failure.cls in ("caller", "client_left") or not failure.cools:
        return state if state is None else replace(state, probing=False)
    state = state or Cooling()
    failures = state.failures + 1
    if now < state.until:  # it was already cooling: one outage is not counted once per request in flight
        return replace(state, failures=failures, probing=False)
    due = failures >= policy.failures or state.rounds > 0 or failure.cls in ("credential", "busy")
    if not due:
        return replace(state, failures=failures, why=failure.reason, probing=False)
    seconds = min(_cooling_time(state, failure, policy), policy.max_time)
    return Cooling(failures, now + seconds, state.rounds + 1, failure.reason)


def _cooling_time(state: Cooling, failure: Failure, policy: Cooldown) -> float:
    if failure.cls == "busy" and failure.retry_after is not None:
        return failure.retry_after
    first = policy.auth_time if failure.cls == "credential" else policy.time
    return first * 2.0 ** min(state.rounds, 30)
