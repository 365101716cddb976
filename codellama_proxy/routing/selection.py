"""Where a request goes next: pure functions on values; nothing here waits, looks at a clock or draws a number.

A request walks a *chain*: the asked model's deployments in weighted order, then its fallbacks in file order,
deployments that are cooling last. `next_step` is asked before every attempt and answers `Try` or `GiveUp`; the
list of finished attempts is all the state there is. Rules, in the order they bind:

1. never more than `max_attempts`, never past `deadline`;
2. a caller's fault ends the walk unless `fallback_on` names its reason;
3. a deployment that refused one parameter is tried again without it, if the entry has `drop_params`;
4. after a transient or disguised failure comes another ready deployment of the same name, then, `retries` times for
   a name, one that failed like this, after a jittered wait;
5. then the next deployment that has not been tried in this request;
6. a busy one comes again after its Retry-After, if that is at most `max_retry_after` and nothing else is left.

A deployment that another request is probing is not asked (`cooling.py`); when all of the chain are cooling and the one
that is ready first is being probed, there is no attempt at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Model, Routing, Snapshot
from codellama_proxy.core.types import Attempt, Failure, FailureClass
from codellama_proxy.routing.cooling import Cooling, is_cooling, soonest

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
    """`deadline`, `attempts`, `caller`, `exhausted` or `resting`: all are cooling, and another request is the probe."""
    wait: float = 0.0
    """Of `resting`: seconds until the first one is ready."""
    cls: FailureClass = "transient"
    """Of `resting`: the failure that cooled it."""


PASSING = ("transient", "disguised")
"""Failures after which the same deployment may be tried again at once."""
RESTING: Mapping[str, tuple[str, str]] = {
    "busy": ("upstream_rate_limited", "The upstream is rate limited or overloaded."),
    "transient": ("upstream_unavailable", "No upstream for this model is available now."),
}


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
    cooling: Mapping[str, Cooling] = MappingProxyType({}),
    now: float = 0.0,
) -> Try | GiveUp:
    """What to do after these attempts, `elapsed` seconds into the request; `now` is the time of `cooling`."""
    remaining = routing.deadline - elapsed
    if remaining <= 0:
        return GiveUp("deadline")
    if len(attempts) >= routing.max_attempts:
        return GiveUp("attempts")
    resting = {d.id: cooling[d.id] for d in chain if is_cooling(cooling.get(d.id), now)}
    asked = [d for d in chain if d.id not in resting or not resting[d.id].probing]
    walk = _Walk(asked, attempts, routing, jitter, resting)
    if (repair := walk.repair()) is not None:
        return Try(repair, 0.0, remaining / 2 if walk.goes_on_without(repair) else remaining)
    last = attempts[-1].failure if attempts else None
    if last is not None and last.cls == "caller" and last.reason not in routing.fallback_on:
        return GiveUp("caller")
    first = soonest(chain, cooling, now)
    if first is not None and first.probing and not attempts:
        return GiveUp("resting", max(first.until - now, 0.0), first.cls)
    for deployment, delay in walk.options():
        if delay < remaining:
            left = remaining - delay
            return Try(deployment, delay, left / 2 if walk.goes_on_without(deployment) else left)
    return GiveUp("exhausted")


class _Walk:
    """The deployments that may still be asked, and what became of those that were."""

    def __init__(
        self,
        chain: Sequence[Deployment],
        attempts: Sequence[Attempt],
        routing: Routing,
        jitter: Jitter,
        resting: Mapping[str, Cooling],
    ) -> None:
        self._chain = chain
        self._attempts = attempts
        self._routing = routing
        self._jitter = jitter
        self._resting = resting
        tried = {attempt.deployment for attempt in attempts}
        self._fresh = [d for d in chain if d.id not in tried]

    def options(self) -> Iterator[tuple[Deployment, float]]:
        """Where it may go next and after how many seconds, best first."""
        yield from self._same_model()
        yield from ((d, 0.0) for d in sorted(self._fresh, key=self._ready_at))
        yield from self._again(self._chain)

    def repair(self) -> Deployment | None:
        """The deployment that refused one parameter, which may be left out: once for each parameter."""
        last = self._attempts[-1] if self._attempts else None
        if last is None or last.failure is None or not last.failure.unsupported:
            return None
        here = [a.failure for a in self._attempts if a.deployment == last.deployment]
        if sum(f is not None and f.unsupported == last.failure.unsupported for f in here) > 1:
            return None
        return next((d for d in self._chain if d.id == last.deployment), None)

    def goes_on_without(self, deployment: Deployment) -> bool:
        """Whether another deployment could still follow an attempt at this one."""
        if len(self._attempts) + 1 >= self._routing.max_attempts:
            return False
        others = [d for d in self._chain if d.id != deployment.id]
        return any(d in self._fresh or self._delay_before(d) is not None for d in others)

    def _ready_at(self, deployment: Deployment) -> float:
        state = self._resting.get(deployment.id)
        return -math.inf if state is None else state.until

    def _same_model(self) -> Iterator[tuple[Deployment, float]]:
        """After a failure that may pass: another deployment of the name, else one of them once more."""
        last = self._attempts[-1] if self._attempts else None
        if last is None or last.failure is None or last.failure.cls not in PASSING:
            return
        name = _name(last)
        alike = [d for d in self._chain if d.name == name and d.id not in self._resting]
        yield from ((d, 0.0) for d in self._fresh if d in alike)
        again = [d for d in alike if d not in self._fresh and self._last_failure(d).cls in PASSING]
        yield from self._again(sorted(again, key=lambda d: d.id != last.deployment))

    def _again(self, deployments: Iterable[Deployment]) -> Iterator[tuple[Deployment, float]]:
        """Those that failed and may be tried once more: the ones without room last, those tried least first."""
        waits = ((d, self._delay_before(d)) for d in sorted(deployments, key=self._reluctance))
        yield from ((d, delay) for d, delay in waits if delay is not None)

    def _reluctance(self, deployment: Deployment) -> tuple[bool, int]:
        if deployment in self._fresh:
            return False, 0
        return self._last_failure(deployment).cls == "busy", self._tries(deployment)

    def _delay_before(self, deployment: Deployment) -> float | None:
        """Seconds before this place may be tried again; `None`: not in this request."""
        if deployment in self._fresh:
            return None
        failure, routing = self._last_failure(deployment), self._routing
        if failure.cls == "busy":
            wait = failure.retry_after
            return wait if wait is not None and wait <= routing.max_retry_after else None
        if failure.cls not in PASSING or self._retried(deployment.name) >= routing.retries:
            return None
        state = self._resting.get(deployment.id)
        if state is not None and state.rounds > 1:  # this request was its probe, and failed
            return None
        most = routing.backoff_initial * 2.0 ** (self._tries(deployment) - 1)
        return self._jitter() * min(routing.backoff_max, most)

    def _retried(self, name: str) -> int:
        """How many attempts at the deployments of a name were not the first of their deployment."""
        ids = [a.deployment for a in self._attempts if _name(a) == name and not _refused(a)]
        return len(ids) - len(set(ids))

    def _tries(self, deployment: Deployment) -> int:
        return sum(1 for a in self._attempts if a.deployment == deployment.id and not _refused(a))

    def _last_failure(self, deployment: Deployment) -> Failure:
        """Of one that was tried: every attempt of a walk that goes on has failed."""
        failed = (a.failure for a in reversed(self._attempts) if a.deployment == deployment.id)
        return next(failure for failure in failed if failure is not None)


def _name(attempt: Attempt) -> str:
    return attempt.deployment.rpartition("#")[0]


def _refused(attempt: Attempt) -> bool:
    """Whether it was for a parameter that the next one leaves out."""
    return attempt.failure is not None and bool(attempt.failure.unsupported)


def final_error(attempts: Sequence[Attempt], gave_up: GiveUp, routing: Routing) -> ProxyError:
    """What the caller sees when no attempt served: the last failure in our words, with every attempt listed.

    Nobody is sent away for longer than we stay away ourselves.
    """
    listed = [
        {"deployment": a.deployment, "class": a.failure.cls if a.failure else "ok", "status": _status(a)}
        for a in attempts
    ]
    if gave_up.reason == "resting":
        code, message = RESTING["busy" if gave_up.cls == "busy" else "transient"]
        return ProxyError(code, message, retry_after=gave_up.wait, attempts=listed)
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
