"""The baseline: a bare Starlette relay over the same HTTP client and server, and nothing else.

Run it by `python -m bench.relay PORT UPSTREAM_URL`.
"""

from __future__ import annotations

import sys

import httpx2
import uvicorn
from starlette.types import Receive, Scope, Send

from codellama_proxy.wire import AiohttpWire


class Relay:
    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._wire: AiohttpWire | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._wire is None:
            self._wire = AiohttpWire()
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {"content-type": "application/json"}
        request = httpx2.Request("POST", self._upstream, headers=headers, content=body)
        response = await self._wire.handle_async_request(request)
        kept = [(name, value) for name, value in response.headers.raw if name.lower() in KEPT]
        await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
        async for chunk in response.stream:  # type: ignore[union-attr]
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        await response.aclose()


KEPT = (b"content-type", b"content-length")

if __name__ == "__main__":
    uvicorn.run(
        Relay(sys.argv[2]),
        port=int(sys.argv[1]),
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
    )
