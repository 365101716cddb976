"""Which upstreams lack the endpoint of a client's dialect, so that they are asked for a chat at once.

Learned from a request that was refused with 404 or 405 there and answered as a chat, and forgotten after
`MISSING_SECONDS`: the server may have been updated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from codellama_proxy.core.snapshot import Deployment

MISSING_SECONDS = 3600.0
"""How long an endpoint counts as missing; then one request tries it again."""


class Missing(NamedTuple):
    identity: object
    """What identifies the upstream: a changed address makes the entry void."""
    until: float
    """Monotonic seconds."""


class MissingEndpoints:
    """The missing endpoints of every deployment. `clock` returns monotonic seconds."""

    def __init__(self, identity_of: Callable[[Deployment], object], clock: Callable[[], float]) -> None:
        self._identity_of = identity_of
        self._clock = clock
        self._known: dict[tuple[str, str], Missing] = {}
        """By the deployment's id and the dialect."""

    def add(self, deployment: Deployment, dialect: str) -> None:
        until = self._clock() + MISSING_SECONDS
        self._known[deployment.id, dialect] = Missing(self._identity_of(deployment), until)

    def lacks(self, deployment: Deployment, dialect: str) -> bool:
        """Whether the deployment lacks the endpoint of this dialect."""
        if not self._known or (found := self._known.get((deployment.id, dialect))) is None:
            return False
        if self._clock() < found.until and found.identity == self._identity_of(deployment):
            return True
        del self._known[deployment.id, dialect]
        return False

    def of(self, deployment: Deployment) -> list[str]:
        """The dialects whose endpoints the deployment lacks, sorted."""
        return [dialect for dialect in sorted(deployment.relays) if self.lacks(deployment, dialect)]
