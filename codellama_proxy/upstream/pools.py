"""Connections to upstreams: one pool per deployment, kept across reloads, closed after its last request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from codellama_proxy.core.snapshot import Deployment, Egress, Mock
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.upstream.http import Response, Transport
from codellama_proxy.upstream.mock_transport import MockTransport
from codellama_proxy.upstream.timeouts import Deadlines
from codellama_proxy.upstream.transport import HttpTransport

MakeTransport = Callable[[Deployment], Transport]


def transport_for(deployment: Deployment) -> Transport:
    """The HTTP transport of a deployment, or the built-in mock."""
    if deployment.provider == "mock":
        return MockTransport(deployment.mock or Mock())
    return HttpTransport(deployment.egress)


class Service:
    """A transport to a service that is not a deployment; follows the egress settings of the configuration."""

    def __init__(
        self, egress: Callable[[], Egress], make: Callable[[Egress], Transport] = HttpTransport
    ) -> None:
        self._egress = egress
        self._make = make
        self._now: tuple[Egress, Transport] | None = None
        self._former: Transport | None = None
        """The previous transport, whose last responses may still be read."""

    async def send(self, request: HttpRequest, connect_seconds: float) -> Response:
        egress = self._egress()
        if self._now is None or self._now[0] != egress:
            gone, self._former = self._former, self._now[1] if self._now else None
            self._now = egress, self._make(egress)
            if gone is not None:
                await gone.aclose()
        return await self._now[1].send(request, connect_seconds)

    async def aclose(self) -> None:
        for transport in (self._former, self._now[1] if self._now else None):
            if transport is not None:
                await transport.aclose()
        self._former = self._now = None


class Pool:
    """One deployment's transport and the number of requests that use it."""

    __slots__ = ("_transport", "deployment", "identity", "retired", "users")

    def __init__(self, identity: object, transport: Transport) -> None:
        self.identity = identity
        self.deployment: Deployment | None = None
        """The one it was used for last: the same until a reload."""
        self._transport = transport
        self.users = 0
        self.retired = False

    def take(self) -> Transport:
        self.users += 1
        return self._transport

    async def close(self) -> None:
        await self._transport.aclose()


class Pools:
    """One pool per deployment, kept across reloads while its `identity_of` does not change."""

    def __init__(self, make: MakeTransport = transport_for) -> None:
        self._make = make
        self.deadlines = Deadlines()
        self._pools: dict[str, Pool] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, deployment: Deployment) -> Pool:
        pool = self._pools.get(deployment.id)
        if pool is not None and pool.deployment is deployment:
            return pool
        identity = identity_of(deployment)
        if pool is None or pool.identity != identity:
            if pool is not None:
                self._retire(pool)
            pool = self._pools[deployment.id] = Pool(identity, self._make(deployment))
        pool.deployment = deployment
        return pool

    def give_back(self, pool: Pool) -> None:
        pool.users -= 1
        if pool.retired and not pool.users:
            self._close(pool)

    def keep_only(self, ids: frozenset[str]) -> None:
        """After a reload: pools of removed deployments close when their last requests end."""
        for deployment_id in self._pools.keys() - ids:
            self._retire(self._pools.pop(deployment_id))

    async def close(self) -> None:
        for pool in self._pools.values():
            self._close(pool)
        self._pools.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _retire(self, pool: Pool) -> None:
        pool.retired = True
        if not pool.users:
            self._close(pool)

    def _close(self, pool: Pool) -> None:
        task = asyncio.get_running_loop().create_task(pool.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def identity_of(deployment: Deployment) -> object:
    """The settings that identify an upstream: if one changes, connections and cooldowns are discarded."""
    return deployment.provider, deployment.base_url, deployment.api_key, deployment.mock, deployment.egress
