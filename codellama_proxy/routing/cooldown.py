"""When a deployment cools down, and for how long.

`cool` computes the `Cooling` state that the outcome of an attempt leaves; `Cooldowns` keeps the states across requests
and reloads. A deployment whose cooldown is over gets one request at a time, its probe: success ends the cooldown,
failure doubles it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from codellama_proxy.core.snapshot import Cooldown, Deployment
from codellama_proxy.core.types import Failure, FailureClass


class Cooling(NamedTuple):
    """The state that a deployment's recent failures left. Times are monotonic seconds."""

    failures: int = 0
    """Consecutive failures caused by the upstream."""
    until: float = 0.0
    """End of the cooldown; once past, the next request is the probe."""
    rounds: int = 0
    """Consecutive cooldowns; each doubles the next."""
    why: str = ""
    probing: bool = False
    """A probe is in progress."""
    cls: FailureClass = "transient"
    """Class of the failure that cooled it."""


def is_cooling(state: Cooling | None, now: float) -> bool:
    """Whether it is cooling, or being probed by another request."""
    return state is not None and state.rounds > 0 and (now < state.until or state.probing)


def soonest(deployments: Iterable[Deployment], cooling: Mapping[str, Cooling], now: float) -> Cooling | None:
    """The state of the deployment that is ready first; `None` if one is ready now, or for no deployments."""
    states = [cooling.get(one.id) for one in deployments]
    cooled = [state for state in states if state is not None and is_cooling(state, now)]
    return None if len(cooled) < len(states) else min(cooled, key=lambda state: state.until, default=None)


def cool(
    state: Cooling | None, failure: Failure | None, policy: Cooldown, now: float, *, probe: bool = False
) -> Cooling | None:
    """The state after one more outcome: a `failure`, or success (`None`). Returns `None` for no recent failures.

    Only a probe ends a cooldown early: any other answer began before it.
    """
    if failure is None:
        return state if state is not None and now < state.until and not probe else None
    if failure.cls in ("caller", "client_left") or not failure.cools:
        return state
    state = state or Cooling()
    failures = state.failures + 1
    if (now < state.until or state.probing) and not probe:
        return state._replace(failures=failures)  # concurrent requests count one outage once
    due = failures >= policy.failures or state.rounds > 0 or failure.cls in ("credential", "busy")
    if not due:
        return state._replace(failures=failures, why=failure.reason)
    until = now + min(_cooling_time(state, failure, policy), policy.max_time)
    return Cooling(failures, max(until, state.until), state.rounds + 1, failure.reason, cls=failure.cls)


def _cooling_time(state: Cooling, failure: Failure, policy: Cooldown) -> float:
    if failure.cls == "busy" and failure.retry_after is not None:
        return failure.retry_after
    first = policy.auth_time if failure.cls == "credential" else policy.time
    return first * 2.0 ** min(state.rounds, 30)


# --- across requests ------------------------------------------------------------------------------------


class Probe:
    """Held by the one attempt that may probe a cooling deployment."""

    __slots__ = ("again",)

    def __init__(self, *, again: bool) -> None:
        self.again = again
        """Its request has failed there before: another failure does not double the cooldown."""


class Cooldowns:
    """The `Cooling` state of every deployment. `clock` returns monotonic seconds."""

    def __init__(self, identity_of: Callable[[Deployment], object], clock: Callable[[], float]) -> None:
        self._identity_of = identity_of
        self._clock = clock
        self._identities: dict[str, object] = {}
        self._latest: dict[str, Deployment] = {}
        """The entry that an attempt used last: the same object until a reload."""
        self._states: dict[str, Cooling] = {}
        self._probes: dict[str, Probe] = {}

    def states(self) -> Mapping[str, Cooling]:
        """By deployment id, without deployments that have no recent failures."""
        return self._states

    def is_probed(self, deployment: Deployment) -> bool:
        """Whether its probe is in progress."""
        return deployment.id in self._probes

    def begin(self, deployment: Deployment, *, again: bool = False) -> Probe | None:
        """Call when an attempt starts. Returns a `Probe` if the deployment was cooled and has not answered since.

        A changed address or credential resets the state. `again`: this request has failed there before.
        """
        if self._latest.get(deployment.id) is not deployment:
            self._latest[deployment.id] = deployment
            identity = self._identity_of(deployment)
            if self._identities.setdefault(deployment.id, identity) != identity:
                self._identities[deployment.id] = identity
                self._forget(deployment.id)
        state = self._states.get(deployment.id)
        if state is None or not state.rounds or deployment.id in self._probes:
            return None
        probe = self._probes[deployment.id] = Probe(again=again)
        self._states[deployment.id] = state._replace(probing=True)
        return probe

    def answered(self, deployment: Deployment, probe: Probe | None) -> None:
        """Call on the first event: it ends a probe, while resetting the failure count takes a complete answer."""
        if self._release(deployment.id, probe):
            del self._states[deployment.id]

    def end(
        self, deployment: Deployment, failure: Failure | None, policy: Cooldown, probe: Probe | None = None
    ) -> None:
        """Call when an attempt ends, with its `failure`, or `None` for a complete answer."""
        if failure is None and not self._states:
            return  # nearly always: no deployment has recent failures, so none is probed either
        probed = self._release(deployment.id, probe)
        counts = probed and not (probe is not None and probe.again and failure is not None)
        state = cool(self._states.get(deployment.id), failure, policy, self._clock(), probe=counts)
        if state is None:
            self._forget(deployment.id)
        else:
            self._states[deployment.id] = state

    def abandon(self, deployment: Deployment, probe: Probe | None) -> None:
        """Call when the client or the proxy ended an attempt: it says nothing about the upstream."""
        self._release(deployment.id, probe)

    def keep_only(self, deployments: Mapping[str, Deployment]) -> None:
        """Call after a reload: forgets removed deployments and those whose address or credential changed."""
        for deployment_id in list(self._identities):
            now = deployments.get(deployment_id)
            if now is None or self._identity_of(now) != self._identities[deployment_id]:
                del self._identities[deployment_id]
                self._latest.pop(deployment_id, None)
                self._forget(deployment_id)

    def _release(self, deployment_id: str, probe: Probe | None) -> bool:
        """Ends the probe. Returns whether `probe` was the current one."""
        if probe is None or self._probes.get(deployment_id) is not probe:
            return False
        del self._probes[deployment_id]
        self._states[deployment_id] = self._states[deployment_id]._replace(probing=False)
        return True

    def _forget(self, deployment_id: str) -> None:
        self._states.pop(deployment_id, None)
        self._probes.pop(deployment_id, None)
