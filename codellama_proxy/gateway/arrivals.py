"""Bounds requests whose bodies are still being received: their number, and the bytes buffered for them.

They do not count as running requests, so a client that sends slowly delays no other request. A key's limits bound
what it may have in transit; a key without limits gets half of the total.
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

SPARE_REQUESTS = 4
"""Requests that a key may have in transit beyond its `max_parallel_requests`."""
MIN_REQUESTS = 1000
"""Minimum of the total number of requests in transit."""
MIN_BYTES = 128 << 20
"""Minimum of the total number of buffered bytes."""
MAX_LARGEST_BODIES = 8
"""Number of bodies of the maximum size that may be buffered, if that is more than `MIN_BYTES`."""
RETRY_AFTER_SECONDS = 1.0


class ArrivalRoom(NamedTuple):
    """The bounds that apply to one request: on all requests in transit, and on those of the same key or address."""

    requests: int
    own_requests: int
    size: int
    """Bytes."""
    limited: bool = False
    """Whether the limits of its key or project determine `own_requests`."""

    @property
    def own_size(self) -> int:
        return self.size // 2


def room_of(snapshot: Snapshot, project: Project, key: Key | None) -> ArrivalRoom:
    """The bounds for a key, derived from `max_parallel_requests` of the server, the project and the key."""
    server = snapshot.server
    size = max(MIN_BYTES, MAX_LARGEST_BODIES * server.max_body)
    requests = max(MIN_REQUESTS, server.max_parallel_requests)
    half = requests // 2
    scopes = limits.scopes_of(snapshot, project, key, None)
    bounds = [
        scope.limits.max_parallel_requests + SPARE_REQUESTS
        for scope in scopes
        if scope.limits.max_parallel_requests is not None and not scope.limits.shadow
    ]
    own = min(bounds, default=half)
    return ArrivalRoom(requests, min(own, half), size, limited=own < half)


class Arrivals:
    """Counts requests and bytes in transit."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self._count = 0
        self._size = 0

    @contextlib.contextmanager
    def one(self, who: str, room: ArrivalRoom) -> Iterator[Callable[[int], None]]:
        """Counts a request of `who` while its body is received.

        Yields a function to call with the size in bytes of each piece. Both raise `ProxyError`: overloaded or
        concurrency_limit_exceeded.
        """
        if self._requests[who] >= room.own_requests and room.limited:
            message = f"Too many requests are still being sent: at most {room.own_requests} at once."
            raise ProxyError("concurrency_limit_exceeded", message, retry_after=RETRY_AFTER_SECONDS)
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
        retry_after=RETRY_AFTER_SECONDS,
        headers={"connection": "close"},
    )
