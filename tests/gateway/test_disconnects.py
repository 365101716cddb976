"""Clients that leave, wherever they are: the upstream is closed at once, and what was used is booked, never 0."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.core.snapshot import Price
from codellama_proxy.gateway.respond import ClientDisconnectedError
from tests.support.builders import deployment, model, snapshot
from tests.support.dialogues import HEAD, chunk, sse
from tests.support.fake_internet import HANG, Internet, good, refusal, stream
from tests.support.gateway_harness import Client, Play, Rig, player

PRICE = Price(input=1_000_000_000, output=2_000_000_000)
PRICED = snapshot(model("a", deployment("a", price=PRICE)), model("b", deployment("b", price=PRICE)))
BOTH = pytest.mark.parametrize("streamed", [False, True])


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path, PRICED)


def booking_of(row: dict[str, Any]) -> dict[str, Any]:
    names = ("status", "http_status", "basis", "prompt_tokens", "completion_tokens", "cost_usd")
    return {name: row[name] for name in names}


def classes(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["deployment"], one["class"]) for one in row["attempts"]]


async def started(rig: Rig, client: Client, until: Callable[[], object]) -> asyncio.Task[None]:
    """The request, running, as far as `until`."""
    task = asyncio.create_task(rig.gateway.answer("chat/completions", client))
    while not until():
        await asyncio.sleep(0)
    return task


async def left(task: asyncio.Task[None]) -> None:
    """The client goes away."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@BOTH
def test_a_disconnect_before_the_answer_is_billed_for_the_prompt(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = rig.client(stream=streamed)
        await left(await started(rig, client, lambda: rig.internet.asked))
        assert not client.begun
        row = await rig.row()
        assert (row["status"], row["http_status"], row["basis"]) == ("cancelled", 499, "ambiguous")
        assert row["prompt_tokens"] > 0
        assert row["completion_tokens"] == 0
        assert classes(row) == [("a#1", "client_left")]
        assert rig.cooldowns.states() == {}, "it says nothing about the upstream"

    play(Internet(a=[None], b=[]), use)


def test_a_disconnect_mid_stream_is_billed_for_the_received_part(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = rig.client(stream=True)
        await left(await started(rig, client, client.wrote.is_set))
        row = await rig.row(client)
        assert (row["status"], row["http_status"], row["basis"]) == ("cancelled", 499, "estimated")
        assert row["prompt_tokens"] > 0
        assert row["completion_tokens"] > 0
        assert [body.closed for body in rig.internet.bodies] == [True], "and the upstream stops"
        assert rig.cooldowns.states() == {}

    partial_stream = stream(sse(chunk({"content": "some words that were paid for"})), HANG)
    play(Internet(a=[partial_stream], b=[]), use)


@BOTH
@pytest.mark.parametrize("writes", [0, 1])
def test_a_client_that_stops_reading_counts_as_disconnected(play: Play, streamed: bool, writes: int) -> None:
    async def use(rig: Rig) -> None:
        client = rig.client(stream=streamed, stops_after=writes)
        if writes and not streamed:
            await rig.gateway.answer("chat/completions", client)  # it has all there is
            return
        with pytest.raises(ClientDisconnectedError):
            await rig.gateway.answer("chat/completions", client)
        row = await rig.row(client)
        assert (row["status"], row["http_status"]) == ("cancelled", 499)
        assert row["completion_tokens"] > 0
        assert all(body.closed for body in rig.internet.bodies)

    words = [sse({**HEAD, "choices": [{"index": 0, "delta": {"content": f"w{n} "}}]}) for n in range(5)]
    play(Internet(a=[stream(*words, HANG) if streamed else good(streamed=False)], b=[]), use)


@BOTH
def test_a_disconnect_during_a_retry_delay_costs_nothing(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        await left(await started(rig, rig.client(stream=streamed, model="b"), lambda: rig.clock.slept))
        row = await rig.row()
        assert booking_of(row) == {
            "status": "cancelled",
            "http_status": 499,
            "basis": "exact",
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "cost_usd": 0,
        }

    play(Internet(a=[], b=[refusal(500)]), use)


@BOTH
def test_concurrent_disconnects_are_settled_separately(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        clients = [rig.client(stream=streamed) for _ in range(40)]
        tasks = [asyncio.create_task(rig.gateway.answer("chat/completions", one)) for one in clients]
        for task in tasks[::4]:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        rows = await rig.rows()
        assert len({row["request_id"] for row in rows}) == len(rows) >= 30
        assert [row["status"] for row in rows].count("ok") >= 30
        assert {row["status"] for row in rows} <= {"ok", "cancelled"}

    play(Internet(a=[good(streamed=streamed)], b=[]), use)
