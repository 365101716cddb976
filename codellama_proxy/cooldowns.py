"""Which deployments are cooling: what outlives requests and reloads. The rules are in `routing`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from codellama_proxy.routing import Cooling, cool, is_cooling
from codellama_proxy.types import Cooldown, Deployment, Failure


class Cooldowns:
    """Folds every outcome into its deployment's `Cooling`; monotonic seconds throughout."""

    def __init__(self, identity_of: Callable[[Deployment], object], clock: Callable[[], float]) -> None:
        self._identity_of = identity_of
        self._clock = clock
        self._identities: dict[str, object] = {}
        self._states: dict[str, Cooling] = {}

    def states(self) -> Mapping[str, Cooling]:
        """By deployment id; a deployment without failures is not in it."""
        return self._states

    def begin(self, deployment: Deployment) -> None:
        """An attempt starts: the first after a cooldown's end is its probe. A new address or key starts clean."""
        identity = self._identity_of(deployment)
        if self._identities.setdefault(deployment.id, identity) != identity:
            self._identities[deployment.id] = identity
            self._states.pop(deployment.id, None)
        state = self._states.get(deployment.id)
        if state is not None and state.rounds and not is_cooling(state, self._clock()):
            self._states[deployment.id] = replace(state, probing=True)

    def answered(self, deployment: Deployment) -> None:
        """A first event came: enough for a probe, while a clean record takes a whole answer."""
        state = self._states.get(deployment.id)
        if state is not None and state.probing:
            del self._states[deployment.id]

    def end(self, deployment: Deployment, failure: Failure | None, policy: Cooldown) -> None:
        """An attempt ended: `failure`, or a whole answer."""
        state = cool(self._states.get(deployment.id), failure, policy, self._clock())
        if state is None:
            self._states.pop(deployment.id, None)
        else:
            self._states[deployment.id] = state

    def abandon(self, deployment: Deployment) -> None:
        """An attempt was given up by us or by the client: it says nothing about the upstream."""
        state = self._states.get(deployment.id)
        if state is not None and state.probing:
            self._states[deployment.id] = replace(state, probing=False)

    def keep_only(self, deployments: Mapping[str, Deployment]) -> None:
        """After a reload: forgets what is gone, and what now means another address or credential."""
        for deployment_id in list(self._identities):
            now = deployments.get(deployment_id)
            if now is None or self._identity_of(now) != self._identities[deployment_id]:
                del self._identities[deployment_id]
                self._states.pop(deployment_id, None)
