"""OpenAI's own client, as people point it at the proxy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from tests.support.processes import LOOPBACK
from tests.support.proxy_process import Proxy

if TYPE_CHECKING:
    from openai import OpenAI


def sdk() -> Any:
    """The SDK's module, imported late: that takes more than a second, which test collection need not wait for."""
    import openai  # noqa: PLC0415

    return openai


def openai_error(name: str) -> type[Exception]:
    """An exception of the SDK, by name."""
    found: type[Exception] = getattr(sdk(), name)
    return found


@contextmanager
def openai_of(served: Proxy) -> Iterator[OpenAI]:
    """With the proxy's address and a key of it; it tries nothing twice."""
    http = httpx2.Client(**LOOPBACK)
    with sdk().OpenAI(
        base_url=served.url + "/v1", api_key=served.key, http_client=http, timeout=20, max_retries=0
    ) as one:
        yield one
