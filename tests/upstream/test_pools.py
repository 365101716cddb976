"""Pools of connections: kept over reloads, and closed only after their last request."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from codellama_proxy.core.snapshot import Mock, Secret
from codellama_proxy.providers.registry import ADAPTERS
from codellama_proxy.upstream.attempt import open_reply
from codellama_proxy.upstream.mock_transport import MockTransport
from codellama_proxy.upstream.pools import Pools, transport_for
from codellama_proxy.upstream.reply import Reply
from codellama_proxy.upstream.transport import HttpTransport
from tests.support.attempt_driver import A, Call
from tests.support.builders import chat, deployment
from tests.support.client_fold import cut
from tests.support.dialogues import OPENAI
from tests.support.fake_internet import HANG, Internet, Wire, good, stream

B = deployment("b")
MOVED = deployment("a", base_url="https://moved.example/v1")


class Rig:
    def __init__(self) -> None:
        self.internet = Internet(a=[good(streamed=False)])
        self.pools = Pools(self.internet.make)

    @property
    def wires(self) -> list[Wire]:
        return self.internet.wires


def run(use: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        rig = Rig()
        await use(rig)
        await rig.pools.close()
        assert all(wire.closed for wire in rig.wires), "closing the pools closes every wire"

    asyncio.run(main())


async def soon() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("changes", [{"weight": 5.0}, {"model": "other"}, {"params": {"top_p": 1}}])
def test_a_pool_is_kept_across_unrelated_changes(changes: dict[str, Any]) -> None:
    async def use(rig: Rig) -> None:
        assert rig.pools.of(A) is rig.pools.of(deployment("a", **changes))
        assert rig.pools.of(B) is not rig.pools.of(A)

    run(use)


@pytest.mark.parametrize(
    "changes",
    [{"base_url": "https://x.example"}, {"api_key": Secret("sk-2")}, {"api_key": None}, {"mock": Mock("hi")}],
)
def test_another_address_or_credential_is_another_pool(changes: dict[str, Any]) -> None:
    async def use(rig: Rig) -> None:
        old = rig.pools.of(A)
        assert rig.pools.of(deployment("a", **changes)) is not old
        await soon()
        assert [wire.closed for wire in rig.wires] == [True, False]

    run(use)


@pytest.mark.parametrize("replaced", [True, False])
def test_a_retired_pool_closes_after_its_last_request(replaced: bool) -> None:
    async def use(rig: Rig) -> None:
        old = rig.pools.of(A)
        old.take()
        old.take()
        if replaced:
            rig.pools.of(MOVED)
        else:
            rig.pools.keep_only(frozenset({"b#1"}))
        for closed in (False, True):
            rig.pools.give_back(old)
            await soon()
            assert rig.wires[0].closed is closed

    run(use)


def test_a_reload_closes_only_removed_idle_pools() -> None:
    async def use(rig: Rig) -> None:
        kept, _ = rig.pools.of(A), rig.pools.of(B)
        rig.pools.keep_only(frozenset({"a#1"}))
        await soon()
        assert [wire.closed for wire in rig.wires] == [False, True]
        assert rig.pools.of(A) is kept

    run(use)


def test_a_running_request_finishes_on_its_pool() -> None:
    raw = OPENAI.answers["text"].stream
    call = Call(stream(*cut(raw, [500, 600, 700])))

    async def main() -> None:
        reply: Reply = await call.open(streamed=True)
        call.pools.keep_only(frozenset())
        while not reply.ended:
            await reply.more(5.0)
            assert not call.internet.wires[0].closed or reply.ended
        await reply.close()
        await soon()
        assert call.internet.wires[0].closed

    asyncio.run(main())


def test_two_hundred_cancelled_requests_leak_nothing() -> None:
    call = Call(*[stream(HANG)] * 200, good(streamed=True))

    async def main() -> None:
        tasks = [asyncio.create_task(call.open(streamed=True, budget=60.0)) for _ in range(200)]
        while len(call.internet.bodies) < 200:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        call.check_nothing_is_open()
        reply = await call.open(streamed=True)
        await reply.close()
        call.check_nothing_is_open()

    asyncio.run(main())


def test_the_built_in_mock_needs_no_network() -> None:
    mock = deployment("mock", provider="mock", base_url=None, mock=Mock(reply="from the script"))

    async def main() -> str:
        real = transport_for(A)
        assert isinstance(real, HttpTransport)
        await real.aclose()
        assert isinstance(transport_for(mock), MockTransport)
        reply = await open_reply(Pools(), ADAPTERS["mock"].to_request(chat(), mock), chat(), mock, 5.0)
        await reply.close()
        return reply.first[0].text

    assert asyncio.run(main()) == "from the script"
