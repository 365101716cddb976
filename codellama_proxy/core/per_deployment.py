"""What only a deployment's settings decide: worked out once, not for each request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from codellama_proxy.core.snapshot import Deployment

T = TypeVar("T")

MAX_KEPT = 1024
"""Deployments whose values are kept."""


class PerDeployment(Generic[T]):
    """The values of a pure function of a deployment, computed again for each version of one."""

    __slots__ = ("_compute", "_values")

    def __init__(self, compute: Callable[[Deployment], T]) -> None:
        self._compute = compute
        self._values: dict[str, tuple[Deployment, T]] = {}
        """By the deployment's id."""

    def of(self, deployment: Deployment) -> T:
        """The value; raises what the function raises."""
        known = self._values.get(deployment.id)
        if known is None or known[0] is not deployment:
            value = self._compute(deployment)
            if len(self._values) >= MAX_KEPT:
                self._values.clear()
            known = self._values[deployment.id] = deployment, value
        return known[1]
