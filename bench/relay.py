"""The baselines: relays over aiohttp and the same server as the proxy's, which do nothing else.

Run one by `python -m bench.relay PORT UPSTREAM_URL`: a Starlette application, as anyone would write it. With `--asgi`
it is one coroutine without Starlette, the least that Python does here.
"""

from __future__ import annotations

import argparse

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.aiohttp_transport import AiohttpTransport
from bench.targets import PATH

KEPT = (b"content-type", b"content-length")


class Upstream:
    """Where a relay sends everything, as it came."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._wire: AiohttpTransport | None = None

    async def answer(self, body: bytes) -> httpx2.Response:
        if self._wire is None:
            self._wire = AiohttpTransport()
        headers = {"content-type": "application/json"}
        return await self._wire.handle_async_request(
            httpx2.Request("POST", self._url, headers=headers, content=body)
        )


def starlette(upstream: Upstream) -> ASGIApp:
    async def relay(request: Request) -> StreamingResponse:
        response = await upstream.answer(await request.body())
        kept = {name.decode(): value.decode() for name, value in _kept(response)}
        return StreamingResponse(response.stream, response.status_code, kept)

    return Starlette(routes=[Route(PATH, relay, methods=["POST"])])


def asgi(upstream: Upstream) -> ASGIApp:
    async def relay(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        response = await upstream.answer(body)
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": _kept(response),
            }
        )
        async for chunk in response.stream:  # type: ignore[union-attr]  # async here
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        await response.aclose()

    return relay


def _kept(response: httpx2.Response) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in response.headers.raw if name.lower() in KEPT]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("upstream")
    parser.add_argument("--asgi", action="store_true")
    args = parser.parse_args()
    make = asgi if args.asgi else starlette
    uvicorn.run(
        make(Upstream(args.upstream)),
        port=args.port,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
    )


if __name__ == "__main__":
    main()
