"""Anthropic's own client, as people point it at the proxy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from tests.support.processes import LOOPBACK
from tests.support.proxy_process import Proxy

if TYPE_CHECKING:
    from anthropic import Anthropic


def sdk() -> Any:
    """The SDK's module, imported late: that takes more than a second, which test collection need not wait for."""
    import anthropic  # noqa: PLC0415

    return anthropic


def anthropic_error(name: str) -> type[Exception]:
    """An exception of the SDK, by name."""
    found: type[Exception] = getattr(sdk(), name)
    return found


@contextmanager
def anthropic_of(served: Proxy, **options: Any) -> Iterator[Anthropic]:
    """With the proxy's address and a key of it; it tries nothing twice."""
    http = httpx2.Client(**LOOPBACK)
    settings = {"api_key": served.key, "timeout": 20, "max_retries": 0, **options}
    with sdk().Anthropic(base_url=served.url, http_client=http, **settings) as one:
        yield one
