"""Requests whose bodies are still coming: how many there may be, and how many bytes of them are kept meanwhile.

They take no place among the running ones: a client that sends slowly delays no other request. What one key may
have on the way is bounded by its limits; without any, it gets half of all there is.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Project, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.limits import rates as limits

SPARE = 4
"""Requests that a key may have on the way beyond those that its limits let run."""
LEAST = 1000
"""Requests that may be on the way in all, where fewer may run."""
LEAST_BYTES = 128 << 20
BODIES = 8
"""Bodies of the largest size that may be kept at once, where that is more than `LEAST_BYTES`."""
SOON = 1.0
"""Seconds after which it is worth asking again."""


class ArrivalRoom(NamedTuple):
    """The bounds for one request: on everybody's together, and on those of the same key or address."""

    requests: int
    own_requests: int
    size: int
    """Bytes."""
    limited: bool = False
    """Its limits make `own_requests` what it is."""

    @property
    def own_size(self) -> int:
        return self.size // 2


def room_of(snapshot: Snapshot, project: Project, key: Key | None) -> ArrivalRoom:
    """`max_parallel_requests` of the server, the project and the key say how many."""
    server = snapshot.server
    size = max(LEAST_BYTES, BODIES * server.max_body)
    requests = max(LEAST, server.max_parallel_requests)
    half = requests // 2
    scopes = limits.scopes_of(snapshot, project, key, None)
    bounds = [
        scope.limits.max_parallel_requests + SPARE
        for scope in scopes
        if scope.limits.max_parallel_requests is not None and not scope.limits.shadow
    ]
    own = min(bounds, default=half)
    return ArrivalRoom(requests, min(own, half), size, limited=own < half)


class Arrivals:
    """Counts them."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self._count = 0
        self._size = 0

    @contextlib.contextmanager
    def one(self, who: str, room: ArrivalRoom) -> Iterator[Callable[[int], None]]:
        """A request of `who` while its body comes; call what it yields with each piece's size in bytes.

        Both raise `ProxyError`: overloaded, or concurrency_limit_exceeded.
        """
        if self._requests[who] >= room.own_requests and room.limited:
            message = f"Too many requests are still being sent: at most {room.own_requests} at once."
            raise ProxyError("concurrency_limit_exceeded", message, retry_after=SOON)
        if self._requests[who] >= room.own_requests or self._count >= room.requests:
            raise _overloaded()
        size = 0

        def grew(more: int) -> None:
            nonlocal size
            size += more
            self._sizes[who] += more
            self._size += more
            if self._sizes[who] > room.own_size or self._size > room.size:
                raise _overloaded()

        self._requests[who] += 1
        self._count += 1
        try:
            yield grew
        finally:
            self._count -= 1
            self._size -= size
            self._requests[who] -= 1
            self._sizes[who] -= size
            if not self._requests[who]:
                del self._requests[who], self._sizes[who]


def _overloaded() -> ProxyError:
    # The rest of the body is not waited for.
    return ProxyError(
        "overloaded",
        "Too many requests are being received; retry shortly.",
        retry_after=SOON,
        headers={"connection": "close"},
    )
