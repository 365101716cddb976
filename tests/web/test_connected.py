"""Work for a client ends when the client leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from codellama_proxy.web.connected import while_connected


def request_of(messages: asyncio.Queue[dict[str, Any]]) -> Request:
    messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    return Request({"type": "http", "method": "GET", "headers": []}, messages.get)


def test_it_is_cancelled() -> None:
    async def use() -> None:
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        ended = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                ended.set()

        asyncio.get_running_loop().call_later(0.05, messages.put_nowait, {"type": "http.disconnect"})
        with pytest.raises(ClientDisconnect):
            await while_connected(request_of(messages), work())
        assert ended.is_set()

    asyncio.run(use())


def test_its_result_and_its_error_are_the_callers() -> None:
    async def use() -> None:
        async def work(divisor: int) -> int:
            await asyncio.sleep(0.01)
            return 6 // divisor

        assert await while_connected(request_of(asyncio.Queue()), work(2)) == 3
        with pytest.raises(ZeroDivisionError):
            await while_connected(request_of(asyncio.Queue()), work(0))
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(use())


def test_it_ends_with_its_caller() -> None:
    async def use() -> None:
        ended = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        caller = asyncio.create_task(while_connected(request_of(asyncio.Queue()), work()))
        await asyncio.sleep(0.01)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert ended.is_set()

    asyncio.run(use())
