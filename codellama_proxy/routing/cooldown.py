"""Which deployments are cooling: what outlives requests and reloads. The rules are in `cooling`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from codellama_proxy.core.snapshot import Cooldown, Deployment
from codellama_proxy.core.types import Failure
from codellama_proxy.routing.cooling import Cooling, cool


class Probe:
    """The right of one attempt to be a cooling deployment's only request."""

    __slots__ = ("again",)

    def __init__(self, *, again: bool) -> None:
        self.again = again
        """Its request has already failed there: that it fails once more doubles nothing."""


class Cooldowns:
    """Folds every outcome into its deployment's `Cooling`; monotonic seconds throughout."""

    def __init__(self, identity_of: Callable[[Deployment], object], clock: Callable[[], float]) -> None:
        self._identity_of = identity_of
        self._clock = clock
        self._identities: dict[str, object] = {}
        self._states: dict[str, Cooling] = {}
        self._probes: dict[str, Probe] = {}

    def states(self) -> Mapping[str, Cooling]:
        """By deployment id; a deployment without failures is not in it."""
        return self._states

    def is_probed(self, deployment: Deployment) -> bool:
        """Whether its one request is under way."""
        return deployment.id in self._probes

    def begin(self, deployment: Deployment, *, again: bool = False) -> Probe | None:
        """An attempt starts. Returns its `Probe` if the deployment was cooled and has not answered since.

        A new address or key starts clean. `again`: the same request has failed there before.
        """
        identity = self._identity_of(deployment)
        if self._identities.setdefault(deployment.id, identity) != identity:
            self._identities[deployment.id] = identity
            self._forget(deployment.id)
        state = self._states.get(deployment.id)
        if state is None or not state.rounds or deployment.id in self._probes:
            return None
        probe = self._probes[deployment.id] = Probe(again=again)
        self._states[deployment.id] = replace(state, probing=True)
        return probe

    def answered(self, deployment: Deployment, probe: Probe | None) -> None:
        """A first event came: enough for a probe, while a clean record takes a whole answer."""
        if self._release(deployment.id, probe):
            del self._states[deployment.id]

    def end(
        self, deployment: Deployment, failure: Failure | None, policy: Cooldown, probe: Probe | None = None
    ) -> None:
        """An attempt ended: `failure`, or a whole answer."""
        probed = self._release(deployment.id, probe)
        counts = probed and not (probe is not None and probe.again and failure is not None)
        state = cool(self._states.get(deployment.id), failure, policy, self._clock(), probe=counts)
        if state is None:
            self._forget(deployment.id)
        else:
            self._states[deployment.id] = state

    def abandon(self, deployment: Deployment, probe: Probe | None) -> None:
        """An attempt was given up by us or by the client: it says nothing about the upstream."""
        self._release(deployment.id, probe)

    def keep_only(self, deployments: Mapping[str, Deployment]) -> None:
        """After a reload: forgets what is gone, and what now means another address or credential."""
        for deployment_id in list(self._identities):
            now = deployments.get(deployment_id)
            if now is None or self._identity_of(now) != self._identities[deployment_id]:
                del self._identities[deployment_id]
                self._forget(deployment_id)

    def _release(self, deployment_id: str, probe: Probe | None) -> bool:
        """Whether `probe` was the deployment's until now."""
        if probe is None or self._probes.get(deployment_id) is not probe:
            return False
        del self._probes[deployment_id]
        self._states[deployment_id] = replace(self._states[deployment_id], probing=False)
        return True

    def _forget(self, deployment_id: str) -> None:
        self._states.pop(deployment_id, None)
        self._probes.pop(deployment_id, None)
