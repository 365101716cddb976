"""Identical requests at the same time: one upstream call, whoever leaves and whatever fails."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.cache.key import NO_DIRECTIVES
from codellama_proxy.cache.query import CacheQuery
from codellama_proxy.cache.shared_answer import (
    JOINED_BATCHES,
    MAX_AHEAD_BYTES,
    MAX_SHARED_BYTES,
    SharedAnswer,
    Subscription,
)
from codellama_proxy.cache.single_flight import SharedCall
from codellama_proxy.core.snapshot import Cache, Limits, Price, Routing, Timeouts
from codellama_proxy.core.sse import encode
from codellama_proxy.core.types import Event
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing.chain import Chain
from tests.support.builders import chat, deployment, model, snapshot
from tests.support.dialogues import OPENAI
from tests.support.fake_internet import HANG, Internet, answer, good, refusal, stream
from tests.support.gateway_harness import Client, Rig, run

TEXT = OPENAI.answers["text"]
PRICE = Price(2_000_000_000, 4_000_000_000)
ENTRY = deployment("a", price=PRICE)
CACHED = snapshot(model("a", ENTRY), cache=Cache())
HALF = len(TEXT.stream) // 2
BEGUN, REST = TEXT.stream[:HALF], TEXT.stream[HALF:]
SOON = 0.1
BOTH = pytest.mark.parametrize("streamed", [False, True])
Use = Callable[[Rig], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return lambda internet, use, setting=CACHED: run(tmp_path, setting, internet, use)


def send(rig: Rig, client: Client) -> asyncio.Task[None]:
    return asyncio.create_task(rig.gateway.answer("chat/completions", client))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def slow(streamed: bool) -> Any:
    return stream(BEGUN, SOON, REST) if streamed else answer(SOON, TEXT.whole)


async def together(rig: Rig, *clients: Client) -> None:
    """The first is on its way upstream before the others ask."""
    tasks = [send(rig, clients[0])]
    await until(lambda: rig.internet.asked)
    tasks += [send(rig, client) for client in clients[1:]]
    await asyncio.gather(*tasks)


# --- one call for all ----------------------------------------------------------------------------------------


@BOTH
def test_identical_requests_make_one_call_and_pay_once(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        clients = [rig.client(stream=streamed) for _ in range(20)]
        await together(rig, *clients)
        assert internet.asked == ["a#1"]
        assert {client.answer_text for client in clients} == {TEXT.text}
        assert [c.headers["x-proxy-cache"] for c in clients] == ["miss"] + ["hit"] * 19
        rows = await rig.rows()
        assert [row["status"] for row in rows] == ["ok"] * 20
        paid = [row for row in rows if row["basis"] == "exact"]
        free = [row for row in rows if row["basis"] == "cached"]
        assert (len(paid), len(free)) == (1, 19)
        assert {row["cost_usd"] for row in free} == {0}
        assert {row["saved_usd"] for row in free} == {paid[0]["cost_usd"]}

    internet = Internet(a=[slow(streamed)])
    play(internet, use)


def test_simultaneous_requests_make_one_call(play: Play) -> None:
    async def use(rig: Rig) -> None:
        clients = [rig.client() for _ in range(20)]
        await asyncio.gather(*(send(rig, client) for client in clients))
        assert internet.asked == ["a#1"]

    internet = Internet(a=[good(streamed=False)])
    play(internet, use)


def test_a_late_subscriber_gets_the_past_events_then_live_ones(play: Play) -> None:
    async def use(rig: Rig) -> None:
        first, late = rig.client(stream=True), rig.client(stream=True)
        tasks = [send(rig, first)]
        await until(lambda: first.writes)
        tasks.append(send(rig, late))
        await until(lambda: late.writes)
        assert late.writes[0] == b"".join(first.writes)
        assert late.answer_text
        assert TEXT.text.startswith(late.answer_text)
        assert not late.ended
        await asyncio.gather(*tasks)
        assert late.data == first.data
        assert internet.asked == ["a#1"]

    internet = Internet(a=[stream(BEGUN, SOON, REST)])
    play(internet, use)


@BOTH
def test_plain_and_streamed_requests_can_share_a_call(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        first, second = rig.client(stream=streamed), rig.client(stream=not streamed)
        await together(rig, first, second)
        assert (first.answer_text, second.answer_text) == (TEXT.text, TEXT.text)
        assert internet.asked == ["a#1"]
        assert [row["cache"] for row in await rig.rows()].count("hit") == 1

    internet = Internet(a=[slow(streamed)])
    play(internet, use)


def test_different_requests_do_not_wait_for_each_other(play: Play) -> None:
    async def use(rig: Rig) -> None:
        stuck = send(rig, rig.client(seed=1))
        await until(lambda: internet.asked)
        assert (await rig.ask(seed=2)).status == 200
        await cancelled(stuck)

    internet = Internet(a=[None, good(streamed=False)])
    play(internet, use)


# --- leaving -------------------------------------------------------------------------------------------------


@BOTH
def test_a_leader_that_disconnects_is_charged_and_subscribers_continue(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        leader, follower = rig.client(stream=streamed), rig.client(stream=streamed)
        led = send(rig, leader)
        await until(lambda: internet.asked)
        followed = send(rig, follower)
        if streamed:
            await until(lambda: leader.writes and follower.writes)
        else:
            await asyncio.sleep(SOON / 2)
        leader.leave(led)
        await asyncio.gather(led, return_exceptions=True)
        await followed
        assert follower.answer_text == TEXT.text
        assert internet.asked == ["a#1"]
        by_status = {row["status"]: row for row in await rig.rows()}
        assert by_status["ok"]["cost_usd"] == 0
        if streamed:
            assert by_status["cancelled"]["basis"] == "exact", "the whole answer came, with its usage"
            assert by_status["cancelled"]["cost_usd"] == by_status["ok"]["saved_usd"]
        assert by_status["cancelled"]["cost_usd"] > 0

    internet = Internet(a=[slow(streamed)])
    play(internet, use)


def test_a_leader_that_does_not_read_does_not_delay_subscribers(play: Play) -> None:
    async def use(rig: Rig) -> None:
        leader, follower = rig.client(stream=True, stops_after=1), rig.client(stream=True)
        led = send(rig, leader)
        await until(lambda: leader.writes)
        followed = send(rig, follower)
        await asyncio.gather(led, followed, return_exceptions=True)
        assert follower.answer_text == TEXT.text
        assert internet.asked == ["a#1"]

    internet = Internet(a=[stream(BEGUN, SOON, REST)])
    play(internet, use)


@BOTH
def test_a_call_without_subscribers_is_cancelled(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        clients = [rig.client(stream=streamed) for _ in range(3)]
        tasks = [send(rig, client) for client in clients]
        await until(lambda: internet.bodies and internet.bodies[0].read)
        await asyncio.sleep(0.01)
        for task in tasks:
            await cancelled(task) if task is not tasks[0] else task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert internet.bodies[0].closed
        assert [row["status"] for row in await rig.rows()].count("cancelled") >= 1

    internet = Internet(a=[stream(BEGUN, HANG) if streamed else answer(TEXT.whole[:20], HANG)])
    play(internet, use)


def test_a_subscriber_that_disconnects_does_not_affect_the_others(play: Play) -> None:
    async def use(rig: Rig) -> None:
        leader, follower = rig.client(stream=True), rig.client(stream=True)
        led = send(rig, leader)
        await until(lambda: leader.writes)
        followed = send(rig, follower)
        await until(lambda: follower.writes)
        await cancelled(followed)
        await led
        assert leader.answer_text == TEXT.text
        statuses = sorted((row["status"], row["basis"], row["cost_usd"] > 0) for row in await rig.rows())
        assert statuses == [("cancelled", "cached", False), ("ok", "exact", True)]

    play(Internet(a=[stream(BEGUN, SOON, REST)]), use)


# --- failing -------------------------------------------------------------------------------------------------


@BOTH
def test_a_failed_leader_does_not_fail_its_subscribers(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        clients = [rig.client(stream=streamed) for _ in range(4)]
        await together(rig, *clients)
        assert [client.status for client in clients] == [400, 200, 200, 200]
        assert {client.answer_text for client in clients[1:]} == {TEXT.text}
        assert len(internet.asked) == 4, "each for itself"
        assert {client.headers["x-proxy-cache"] for client in clients} == {"miss"}

    refused = answer(SOON, b'{"error": {"message": "no"}}', status=400)
    internet = Internet(a=[refused, good(streamed=streamed)])
    play(internet, use)


def test_a_cut_answer_fails_the_subscribers_that_received_a_part(play: Play) -> None:
    async def use(rig: Rig) -> None:
        leader, stream_too, whole = rig.client(stream=True), rig.client(stream=True), rig.client()
        led = send(rig, leader)
        await until(lambda: leader.writes)
        tasks = [send(rig, stream_too), send(rig, whole)]
        await until(lambda: stream_too.writes)
        await asyncio.gather(led, *tasks)
        for client in (leader, stream_too):
            assert client.events[-1]["error"]["code"] == "upstream_invalid_response"
        assert (whole.status, whole.answer_text) == (200, TEXT.text), "it had nothing yet, so it asked anew"
        assert len(internet.asked) == 2

    internet = Internet(a=[stream(BEGUN, SOON), good(streamed=False)])
    play(internet, use)


def test_a_leader_refused_by_limits_passes_the_call_to_the_next_request(play: Play) -> None:
    async def use(rig: Rig) -> None:
        exhausted = await rig.key(rpm_limit=0)
        refused = rig.client(secret=exhausted)
        clients = [rig.client() for _ in range(3)]
        await asyncio.gather(*(send(rig, client) for client in (refused, *clients)))
        assert [client.status for client in (refused, *clients)] == [429, 200, 200, 200]
        assert internet.asked == ["a#1"]

    internet = Internet(a=[answer(SOON, TEXT.whole)])
    play(internet, use)


def test_a_subscriber_waits_until_its_own_deadline(play: Play) -> None:
    async def use(rig: Rig) -> None:
        led = send(rig, rig.client(stream=True))
        await until(lambda: internet.asked)
        rig.clock.now += 100.0
        followed = rig.client()
        rig.setting = replace(CACHED, routing=Routing(deadline=SOON))
        await send(rig, followed)
        assert (followed.status, followed.json["error"]["code"]) == (504, "deadline_exceeded")
        await cancelled(led)

    internet = Internet(a=[stream(BEGUN, HANG)])
    play(internet, use)


def test_a_stall_fails_all_subscribers_and_counts_as_a_failure_of_the_deployment(play: Play) -> None:
    async def use(rig: Rig) -> None:
        leader, follower = rig.client(stream=True), rig.client(stream=True)
        led = send(rig, leader)
        await until(lambda: leader.writes)
        await asyncio.gather(led, send(rig, follower))
        for client in (leader, follower):
            assert client.events[-1]["error"]["code"] == "upstream_timeout"
        assert rig.cooldowns.states()["a#1"].failures == 1

    entry = deployment("a", timeouts=Timeouts(idle=SOON))
    play(Internet(a=[stream(BEGUN, HANG)]), use, snapshot(model("a", entry), cache=Cache()))


# --- slow readers and large answers ---------------------------------------------------------------------------


class SlowClient(Client):
    """Reads no further than its first write until it is told to."""

    def __init__(self, client: Client) -> None:
        super().__init__(client._body, client._secret)
        self.reads = asyncio.Event()

    async def write(self, data: bytes, *, last: bool) -> None:
        if self.writes:
            await self.reads.wait()
        await super().write(data, last=last)

    def is_ready(self) -> bool:
        return self.reads.is_set() and super().is_ready()


def large_stream(pieces: int, size: int) -> Any:
    """A stream of so many chunks, each with so many bytes of text."""
    frame = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    chunks = [frame + b'{"content":"' + b"x" * size + b'"}}]}\n\n' for _ in range(pieces)]
    last = frame + b'{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    return stream(*chunks, last)


def test_a_slow_reader_slows_its_upstream_down(play: Play) -> None:
    async def use(rig: Rig) -> None:
        slow = SlowClient(rig.client(stream=True))
        task = send(rig, slow)
        await until(lambda: slow.writes)
        await asyncio.sleep(SOON)
        assert internet.bodies[0].read < 4 * MAX_AHEAD_BYTES, (
            "what it has, what waits for it, and what is on its way"
        )
        slow.reads.set()
        await task
        assert len(slow.answer_text) == 100 * 50_000

    internet = Internet(a=[large_stream(100, 50_000)])
    play(internet, use)


@BOTH
def test_a_slow_reader_does_not_slow_other_subscribers(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        slow, fast = SlowClient(rig.client(stream=True)), rig.client(stream=streamed)
        held_up = send(rig, slow)
        await until(lambda: slow.writes)
        await send(rig, fast)
        assert len(fast.answer_text) == 40 * 50_000
        slow.reads.set()
        await held_up
        assert slow.answer_text == fast.answer_text
        assert len(internet.asked) == 1

    internet = Internet(a=[large_stream(40, 50_000)])
    play(internet, use)


def test_a_large_answer_is_released_while_it_is_sent_and_not_shared_further(play: Play) -> None:
    async def use(rig: Rig) -> None:
        slow = SlowClient(rig.client(stream=True))
        slow.reads.set()
        task = send(rig, slow)
        await until(lambda: rig.cache_lookup._shared)
        (call,) = rig.cache_lookup._shared.values()
        await until(lambda: call.answer.size > MAX_SHARED_BYTES + 1_000_000)
        assert sum(len(event.body) for batch in call.answer.batches for event in batch) < 1_000_000
        other = rig.client(stream=True)
        await send(rig, other)
        await task
        assert slow.answer_text == other.answer_text
        assert len(internet.asked) == 2
        assert len(rig.answers.memory) == 0

    internet = Internet(a=[large_stream(300, 50_000)])
    play(internet, use)


# --- who does not share --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["project", "no-cache", "no-store", "models", "s-maxage"])
def test_requests_share_only_if_scope_and_directives_allow(play: Play, how: str) -> None:
    async def use(rig: Rig) -> None:
        body: dict[str, Any] = {}
        secret = rig.secret
        match how:
            case "project":
                secret = await rig.key(project="other")
            case "models":
                secret = await rig.key(models=("a",))
            case "s-maxage":
                body = {"cache": {"s-maxage": 0}}
            case _:
                body = {"cache": {how: True}}
        await together(rig, rig.client(), rig.client(secret=secret, **body))
        assert len(internet.asked) == 2

    internet = Internet(a=[answer(SOON, TEXT.whole)], b=[refusal(500)])
    play(internet, use, snapshot(model("a"), model("b"), cache=Cache()))


def test_an_answer_a_budget_may_truncate_is_not_shared(play: Play) -> None:
    async def use(rig: Rig) -> None:
        poor = await rig.key(max_budget=6_000_000)
        clamped, rich = rig.client(secret=poor, max_tokens=4000), rig.client(max_tokens=4000)
        await together(rig, clamped, rich)
        assert int(clamped.headers["x-proxy-max-tokens"]) < 4000
        assert "x-proxy-max-tokens" not in rich.headers
        assert [one.body["max_tokens"] for one in internet.sent][1] == 4000

    internet = Internet(a=[answer(SOON, TEXT.whole)])
    play(internet, use)


def test_an_answer_with_a_budget_bound_is_not_shared(play: Play) -> None:
    async def use(rig: Rig) -> None:
        budgeted = rig.client(secret=await rig.key(max_budget=10**9))
        unbudgeted = rig.client()
        await together(rig, budgeted, unbudgeted)
        assert ["max_tokens" in one.body for one in internet.sent] == [True, False]

    internet = Internet(a=[answer(SOON, TEXT.whole)])
    play(internet, use)


@BOTH
def test_a_subscriber_that_disconnects_while_waiting_has_a_row(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        first, follower = rig.client(stream=streamed), rig.client(stream=streamed)
        leading = send(rig, first)
        await until(lambda: rig.internet.asked)
        following = send(rig, follower)
        await asyncio.sleep(0.01)
        follower.leave(following)
        await asyncio.wait({leading, following})
        rows = {row["status"]: row for row in await rig.rows()}
        assert rows.keys() == {"ok", "cancelled"}
        left = rows["cancelled"]
        assert (left["http_status"], left["cost_usd"], left["cache"], left["attempts"]) == (499, 0, "hit", [])
        assert (left["prompt_tokens"], left["completion_tokens"]) == (0, 0)

    slow = [0.05, TEXT.stream] if streamed else [0.05, TEXT.whole]
    play(Internet(a=[stream(*slow) if streamed else answer(*slow)]), use)


def test_shutdown_ends_shared_calls(play: Play) -> None:
    async def use(rig: Rig) -> None:
        clients = [rig.client(stream=True), rig.client(stream=True)]
        tasks = [send(rig, client) for client in clients]
        await until(lambda: all(client.writes for client in clients))
        rig.gateway.interrupt("shutting_down", "The proxy is shutting down.")
        await asyncio.gather(*tasks)
        await rig.cache_lookup.close()
        assert [client.events[-1]["error"]["code"] for client in clients] == ["shutting_down"] * 2
        assert internet.bodies[0].closed

    internet = Internet(a=[stream(BEGUN, HANG)])
    play(internet, use)


def test_a_hit_that_is_interrupted_before_its_response_has_the_status_that_its_client_got(play: Play) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        client = rig.client(user="new")
        task = send(rig, client)
        await asyncio.sleep(0)  # it waits for the balances of its user
        rig.gateway.interrupt("shutting_down", "The proxy is shutting down.")
        await task
        while len(rows := await rig.rows()) < 2 or rows[0]["status"] == "held":
            await asyncio.sleep(0.01)  # the admission was not stopped
        newest = rows[0]
        assert (newest["cache"], newest["status"]) == ("hit", "error")
        assert newest["http_status"] == client.status == 503

    limits = {kind: Limits() for kind in ("global", "project", "key")} | {
        "user": Limits(max_parallel_requests=9)
    }
    play(Internet(a=[good(streamed=False)]), use, replace(CACHED, limits=limits))


def test_limits_count_every_subscriber(play: Play) -> None:
    async def use(rig: Rig) -> None:
        clients = [rig.client() for _ in range(5)]
        await together(rig, *clients)
        assert sorted(client.status for client in clients) == [200, 200, 200, 429, 429]
        assert internet.asked == ["a#1"]

    limits = {kind: Limits() for kind in ("global", "project", "user")} | {"key": Limits(rpm_limit=3)}
    internet = Internet(a=[answer(SOON, TEXT.whole)])
    play(internet, use, replace(CACHED, limits=limits))


# --- whatever goes wrong beside the answer -------------------------------------------------------------------


class Whole:
    """A plain answer that is there at once."""

    deployment = ENTRY
    dropped: tuple[str, ...] = ()
    first = (Event(TEXT.whole, content=True),)
    ended = True

    async def more(self, seconds: float) -> Any:
        raise AssertionError("there is no more")

    async def close(self) -> None:
        return


async def begin() -> Whole:
    return Whole()


class Host:
    """Finds nothing, and may fail to store an answer."""

    def __init__(self, closed_to_others: Callable[[SharedCall], None]) -> None:
        self._closed = closed_to_others

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def closed_to_others(self, call: SharedCall) -> None:
        self._closed(call)


def shared_call(
    *, stream: bool = False, closed_to_others: Callable[[SharedCall], None] = lambda _: None
) -> SharedCall:
    context = RequestContext("req_1", 0.0, 0.0, "chat/completions", "digest")
    request = chat(stream=stream)
    query = CacheQuery(context, request, Chain([model("a", ENTRY)]), CACHED, NO_DIRECTIVES, lambda: 0.0)
    return SharedCall(Host(closed_to_others), query, None)


def both_forms(call: SharedCall) -> list[Subscription]:
    return [Subscription(call.answer, stream=False), Subscription(call.answer, stream=True)]


def test_a_call_cancelled_before_it_started_fails_its_waiting_subscribers() -> None:
    async def never() -> Whole:
        await asyncio.sleep(HANG)
        return Whole()

    async def use() -> None:
        call = shared_call()
        subscriptions = both_forms(call)
        owner = asyncio.create_task(call.reply(never))
        await asyncio.sleep(0)
        owner.cancel()
        async with asyncio.timeout(30):
            assert [await subscription.start() for subscription in subscriptions] == [False, False]
        assert isinstance(call.answer.error, AttemptError)

    asyncio.run(use())


def test_a_reading_task_cancelled_before_it_started_fails_its_subscribers() -> None:
    class Begun(Whole):
        ended = False

    async def begin_only() -> Begun:
        return Begun()

    async def use() -> None:
        call = shared_call(stream=True)
        subscription = Subscription(call.answer, stream=True)
        tasks = asyncio.all_tasks()
        await call.reply(begin_only)
        (reader,) = asyncio.all_tasks() - tasks
        reader.cancel()
        async with asyncio.timeout(30):
            assert await subscription.start()
            with pytest.raises(AttemptError):
                await subscription.more(1.0)

    asyncio.run(use())


def test_a_late_subscriber_gets_the_whole_of_a_stream_kept_in_few_pieces() -> None:
    words = [f"{number} " for number in range(10 * JOINED_BATCHES)]
    events = [Event(b'{"text":"%b"}' % word.encode(), True, word, model="m") for word in words]

    async def use() -> None:
        answer = shared_call(stream=True).answer
        for event in events:
            answer.publish((event,))
        assert len(answer.batches) < 2 * JOINED_BATCHES
        subscription = Subscription(answer, stream=True)
        assert await subscription.start()
        answer.publish((events[0],), last=True)
        received = [*subscription.first, *await subscription.more(1.0)]
        assert encode(*[one.body for one in received]) == encode(*[one.body for one in [*events, events[0]]])
        assert subscription.ended

    asyncio.run(use())


@pytest.mark.parametrize("error", [ValueError, AttributeError, RecursionError, RuntimeError])
def test_an_answer_that_cannot_be_cached_is_delivered(error: type[Exception]) -> None:
    def closed_to_others(_: SharedCall) -> None:
        raise error

    async def use() -> None:
        call = shared_call(closed_to_others=closed_to_others)
        subscriptions = both_forms(call)
        await call.reply(begin)
        async with asyncio.timeout(30):
            assert [await subscription.start() for subscription in subscriptions] == [True, True]
        assert "".join(event.text for event in subscriptions[1].first) == TEXT.text

    asyncio.run(use())


def test_an_answer_not_convertible_to_the_other_form_is_requested_again() -> None:
    class Odd(Whole):
        first = (Event(b'{"choices": 5}', content=True),)

    async def begin_oddly() -> Odd:
        return Odd()

    async def use() -> None:
        call = shared_call()
        same, other = both_forms(call)
        await call.reply(begin_oddly)
        async with asyncio.timeout(30):
            assert (await same.start(), await other.start()) == (True, False)

    asyncio.run(use())


# --- when a call gets a task of its own ----------------------------------------------------------------------


@BOTH
def test_an_unshared_call_creates_no_task(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        tasks = len(asyncio.all_tasks())
        client = rig.client(stream=streamed)
        led = send(rig, client)
        await until(lambda: client.writes if streamed else internet.asked)
        assert len(asyncio.all_tasks()) == tasks + 1, "the request's own"
        await led
        assert client.answer_text == TEXT.text

    internet = Internet(a=[slow(streamed)])
    play(internet, use)


def test_a_call_continues_for_subscribers_if_its_leader_left_before_the_answer(play: Play) -> None:
    async def use(rig: Rig) -> None:
        leader, follower = rig.client(stream=True), rig.client(stream=True)
        led = send(rig, leader)
        await until(lambda: internet.asked)
        followed = send(rig, follower)
        await until(lambda: any(call.answer.subscriptions for call in rig.cache_lookup._shared.values()))
        leader.leave(led)
        await asyncio.gather(led, followed, return_exceptions=True)
        assert (leader.begun, follower.answer_text) == (False, TEXT.text)
        assert internet.asked == ["a#1"]
        paid = {row["status"]: row["basis"] for row in await rig.rows()}
        assert paid == {"cancelled": "exact", "ok": "cached"}

    play(internet := Internet(a=[stream(SOON, TEXT.stream)]), use)


def test_a_call_whose_leader_left_ends_with_its_last_subscriber(play: Play) -> None:
    async def use(rig: Rig) -> None:
        leader, follower = rig.client(stream=True), rig.client(stream=True)
        led = send(rig, leader)
        await until(lambda: leader.writes)
        followed = send(rig, follower)
        await until(lambda: follower.writes)
        leader.leave(led)
        await asyncio.sleep(0)
        assert not internet.bodies[0].closed
        follower.leave(followed)
        async with asyncio.timeout(30):
            await asyncio.gather(led, followed, return_exceptions=True)
        assert internet.bodies[0].closed
        assert not rig.cache_lookup._shared

    play(internet := Internet(a=[stream(BEGUN, HANG)]), use)


@pytest.mark.parametrize("script", [TEXT.stream, BEGUN])
@pytest.mark.parametrize("clients", [1, 3])
def test_answers_are_freed_without_the_garbage_collector(play: Play, script: bytes, clients: int) -> None:
    async def use(rig: Rig) -> None:
        gc.collect()
        gc.disable()
        try:
            await together(rig, *[rig.client(stream=True) for _ in range(clients)])
            await asyncio.sleep(0)
            assert not [found for found in gc.get_objects() if isinstance(found, SharedAnswer)]
        finally:
            gc.enable()

    play(Internet(a=[stream(SOON, script)] * 20), use)
