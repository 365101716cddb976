"""What follows an attempt: another one, and where, or the error the client gets. Pure functions.

`next_step` is called before every attempt and returns `Try` or `GiveUp`; the list of finished attempts is its only
state. Rules, in order of precedence:

1. never more than `max_attempts` attempts, and none after `deadline`;
2. a failure of class `caller` ends the request unless `fallback_on` names its reason;
3. a deployment that refused one parameter is tried again without it, if the entry has `drop_params`;
4. after a `transient` or `disguised` failure: another ready deployment of the same name, then, up to `retries` times
   for each name, one that failed like this, after a jittered backoff;
5. then the next deployment that this request has not tried;
6. a `busy` deployment is tried again after its Retry-After, if that is at most `max_retry_after` and no other is left.

A deployment that another request is probing is not tried (see `cooldown`). When every deployment of the chain is
cooling and the first one to be ready is being probed, no attempt is made at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Routing
from codellama_proxy.core.types import Attempt, Failure, FailureClass
from codellama_proxy.routing.cooldown import Cooling, is_cooling, soonest
from codellama_proxy.routing.selection import Jitter


class Try(NamedTuple):
    deployment: Deployment
    delay: float
    """Seconds to wait first."""
    budget: float
    """Seconds until its first event must have come."""


class GiveUp(NamedTuple):
    reason: str
    """`deadline`, `attempts`, `caller`, `exhausted`, or `cooling`: every deployment is, and another request probes."""
    wait: float = 0.0
    """Of `cooling`: seconds until the first one is ready."""
    cls: FailureClass = "transient"
    """Of `cooling`: the failure that cooled it."""


RETRYABLE = ("transient", "disguised")
"""Failure classes after which the same deployment may be tried again within the request."""
COOLING_ERRORS: Mapping[str, tuple[str, str]] = {
    "busy": ("upstream_rate_limited", "The upstream is rate limited or overloaded."),
    "transient": ("upstream_unavailable", "No upstream for this model is available now."),
}


def next_step(
    chain: Sequence[Deployment],
    attempts: Sequence[Attempt],
    elapsed: float,
    routing: Routing,
    jitter: Jitter,
    cooling: Mapping[str, Cooling] = MappingProxyType({}),
    now: float = 0.0,
) -> Try | GiveUp:
    """What follows these attempts, `elapsed` seconds into the request; `now` is in the clock of `cooling`."""
    remaining = routing.deadline - elapsed
    if remaining <= 0:
        return GiveUp("deadline")
    if len(attempts) >= routing.max_attempts:
        return GiveUp("attempts")
    if not attempts and not cooling and chain:  # nearly every request
        return Try(chain[0], 0.0, remaining / 2 if _may_move_on(chain, routing) else remaining)
    return _next_step(chain, attempts, remaining, routing, jitter, cooling, now)


def _may_move_on(chain: Sequence[Deployment], routing: Routing) -> bool:
    """Whether another deployment could follow the first attempt of a request."""
    return routing.max_attempts > 1 and len(chain) > 1 and any(one.id != chain[0].id for one in chain)


def _next_step(
    chain: Sequence[Deployment],
    attempts: Sequence[Attempt],
    remaining: float,
    routing: Routing,
    jitter: Jitter,
    cooling: Mapping[str, Cooling],
    now: float,
) -> Try | GiveUp:
    """`next_step` within the deadline and the number of attempts."""
    cooled = {d.id: cooling[d.id] for d in chain if is_cooling(cooling.get(d.id), now)}
    allowed = [d for d in chain if d.id not in cooled or not cooled[d.id].probing]
    options = _Options(allowed, attempts, routing, jitter, cooled)
    if (repair := options.repair()) is not None:
        return Try(repair, 0.0, remaining / 2 if options.has_others_than(repair) else remaining)
    last = attempts[-1].failure if attempts else None
    if last is not None and last.cls == "caller" and last.reason not in routing.fallback_on:
        return GiveUp("caller")
    first = soonest(chain, cooling, now)
    if first is not None and first.probing and not attempts:
        return GiveUp("cooling", max(first.until - now, 0.0), first.cls)
    for deployment, delay in options.in_order():
        if delay < remaining:
            left = remaining - delay
            return Try(deployment, delay, left / 2 if options.has_others_than(deployment) else left)
    return GiveUp("exhausted")


class _Options:
    """The deployments that may still be tried, given the attempts so far."""

    def __init__(
        self,
        chain: Sequence[Deployment],
        attempts: Sequence[Attempt],
        routing: Routing,
        jitter: Jitter,
        cooled: Mapping[str, Cooling],
    ) -> None:
        self._chain = chain
        self._attempts = attempts
        self._routing = routing
        self._jitter = jitter
        self._cooled = cooled
        tried = {attempt.deployment for attempt in attempts}
        self._fresh = [d for d in chain if d.id not in tried]

    def in_order(self) -> Iterator[tuple[Deployment, float]]:
        """Each deployment that may come next, and the seconds to wait before it, best first."""
        yield from self._same_model()
        yield from ((d, 0.0) for d in sorted(self._fresh, key=self._ready_at))
        yield from self._again(self._chain)

    def repair(self) -> Deployment | None:
        """The deployment that just refused a parameter that can be left out; once for each one or bound."""
        last = self._attempts[-1] if self._attempts else None
        if last is None or last.failure is None or not last.failure.unsupported:
            return None
        here = [a.failure for a in self._attempts if a.deployment == last.deployment]
        name = last.failure.unsupported.partition("<=")[0]
        if sum(f is not None and f.unsupported.partition("<=")[0] == name for f in here) > 1:
            return None
        return next((d for d in self._chain if d.id == last.deployment), None)

    def has_others_than(self, deployment: Deployment) -> bool:
        """Whether another deployment could still be tried after an attempt at this one."""
        if len(self._attempts) + 1 >= self._routing.max_attempts:
            return False
        others = [d for d in self._chain if d.id != deployment.id]
        return any(d in self._fresh or self._delay_before(d) is not None for d in others)

    def _ready_at(self, deployment: Deployment) -> float:
        state = self._cooled.get(deployment.id)
        return -math.inf if state is None else state.until

    def _same_model(self) -> Iterator[tuple[Deployment, float]]:
        """After a retryable failure: an untried deployment of the same name, then one that failed, again."""
        last = self._attempts[-1] if self._attempts else None
        if last is None or last.failure is None or last.failure.cls not in RETRYABLE:
            return
        name = _name(last)
        alike = [d for d in self._chain if d.name == name and d.id not in self._cooled]
        yield from ((d, 0.0) for d in self._fresh if d in alike)
        again = [d for d in alike if d not in self._fresh and self._last_failure(d).cls in RETRYABLE]
        yield from self._again(sorted(again, key=lambda d: d.id != last.deployment))

    def _again(self, deployments: Iterable[Deployment]) -> Iterator[tuple[Deployment, float]]:
        """Deployments to try again. Sort key: busy ones last, then fewest attempts."""
        waits = ((d, self._delay_before(d)) for d in sorted(deployments, key=self._reluctance))
        yield from ((d, delay) for d, delay in waits if delay is not None)

    def _reluctance(self, deployment: Deployment) -> tuple[bool, int]:
        if deployment in self._fresh:
            return False, 0
        return self._last_failure(deployment).cls == "busy", self._tries(deployment)

    def _delay_before(self, deployment: Deployment) -> float | None:
        """Seconds to wait before this deployment is tried again; `None`: not in this request."""
        if deployment in self._fresh:
            return None
        failure, routing = self._last_failure(deployment), self._routing
        if failure.cls == "busy":
            wait = failure.retry_after
            return wait if wait is not None and wait <= routing.max_retry_after else None
        if failure.cls not in RETRYABLE or self._retried(deployment.name) >= routing.retries:
            return None
        state = self._cooled.get(deployment.id)
        if state is not None and state.rounds > 1:  # this request was its probe and failed
            return None
        most = routing.backoff_initial * 2.0 ** (self._tries(deployment) - 1)
        return self._jitter() * min(routing.backoff_max, most)

    def _retried(self, name: str) -> int:
        """How many attempts at deployments of this name were retries."""
        ids = [a.deployment for a in self._attempts if _name(a) == name and not _refused(a)]
        return len(ids) - len(set(ids))

    def _tries(self, deployment: Deployment) -> int:
        return sum(1 for a in self._attempts if a.deployment == deployment.id and not _refused(a))

    def _last_failure(self, deployment: Deployment) -> Failure:
        """Of a deployment that was tried. All its attempts failed, or the request would have ended."""
        failed = (a.failure for a in reversed(self._attempts) if a.deployment == deployment.id)
        return next(failure for failure in failed if failure is not None)


def _name(attempt: Attempt) -> str:
    return attempt.deployment.rpartition("#")[0]


def _refused(attempt: Attempt) -> bool:
    """Whether it failed only for a parameter that the next attempt omits."""
    return attempt.failure is not None and bool(attempt.failure.unsupported)


def final_error(attempts: Sequence[Attempt], gave_up: GiveUp, routing: Routing) -> ProxyError:
    """The error for the client: the last failure, with every attempt listed.

    Its Retry-After is never longer than the longest cooldown.
    """
    listed = [
        {"deployment": a.deployment, "class": a.failure.cls if a.failure else "ok", "status": _status(a)}
        for a in attempts
    ]
    if gave_up.reason == "cooling":
        code, message = COOLING_ERRORS["busy" if gave_up.cls == "busy" else "transient"]
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
