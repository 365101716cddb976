"""Connections to upstreams: a pool for each deployment, kept over reloads, closed when its last request ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2

from codellama_proxy.core.snapshot import Deployment, Egress, Mock
from codellama_proxy.upstream.mock_transport import MockTransport
from codellama_proxy.upstream.transport import HttpTransport

Transport = httpx2.AsyncBaseTransport
MakeTransport = Callable[[Deployment], Transport]


def transport_for(deployment: Deployment) -> Transport:
    """The real thing: a pool of connections, or the built-in mock."""
    if deployment.provider == "mock":
        return MockTransport(deployment.mock or Mock())
    return HttpTransport(deployment.egress)


class Service(httpx2.AsyncBaseTransport):
    """The way to something that is no deployment: follows what the configuration says of it."""

    def __init__(
        self, egress: Callable[[], Egress], make: Callable[[Egress], Transport] = HttpTransport
    ) -> None:
        self._egress = egress
        self._make = make
        self._now: tuple[Egress, Transport] | None = None
        self._former: Transport | None = None
        """Its last answers may still be read."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        egress = self._egress()
        if self._now is None or self._now[0] != egress:
            gone, self._former = self._former, self._now[1] if self._now else None
            self._now = egress, self._make(egress)
            if gone is not None:
                await gone.aclose()
        return await self._now[1].handle_async_request(request)

    async def aclose(self) -> None:
        for wire in (self._former, self._now[1] if self._now else None):
            if wire is not None:
                await wire.aclose()
        self._former = self._now = None


class Pool:
    """One deployment's wire and how many requests use it."""

    __slots__ = ("_wire", "identity", "retired", "users")

    def __init__(self, identity: object, wire: Transport) -> None:
        self.identity = identity
        self._wire = wire
        self.users = 0
        self.retired = False

    def take(self) -> Transport:
        self.users += 1
        return self._wire

    async def close(self) -> None:
        await self._wire.aclose()


class Pools:
    """A pool for each deployment, kept over reloads while the entry says where and how to connect in the same words."""

    def __init__(self, make: MakeTransport = transport_for) -> None:
        self._make = make
        self._pools: dict[str, Pool] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, deployment: Deployment) -> Pool:
        identity = identity_of(deployment)
        pool = self._pools.get(deployment.id)
        if pool is None or pool.identity != identity:
            if pool is not None:
                self._retire(pool)
            pool = self._pools[deployment.id] = Pool(identity, self._make(deployment))
        return pool

    def give_back(self, pool: Pool) -> None:
        pool.users -= 1
        if pool.retired and not pool.users:
            self._close(pool)

    def keep_only(self, ids: frozenset[str]) -> None:
        """After a reload: what is gone closes when its last request ends."""
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
    """What connections and cooldowns belong to: they do not survive a change of address or credential."""
    return deployment.provider, deployment.base_url, deployment.api_key, deployment.mock, deployment.egress
