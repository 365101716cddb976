"""OpenAI's own client, as people point it at the proxy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from openai import OpenAI

from tests.support.proxy_process import Proxy


@contextmanager
def openai_of(served: Proxy) -> Iterator[OpenAI]:
    """With the proxy's address and a key of it; it tries nothing twice."""
    http = httpx2.Client(trust_env=False)
    with OpenAI(
        base_url=served.url + "/v1", api_key=served.key, http_client=http, timeout=20, max_retries=0
    ) as one:
        yield one
