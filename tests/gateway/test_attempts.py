"""Every upstream call that cost something is booked, whether or not another one answered."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from codellama_proxy.core.snapshot import Cache, Limits, Price, Routing, Timeouts
from codellama_proxy.upstream.connection import ConnectionLostError
from codellama_proxy.upstream.dial import DialError
from codellama_proxy.upstream.response_body import MAX_ANSWER_BYTES
from tests.support.builders import deployment, model, snapshot
from tests.support.dialogues import OPENAI, chunk, sse, whole
from tests.support.fake_internet import HANG, Internet, Script, answer, good, refusal, stream
from tests.support.gateway_harness import Client, Play, Rig, player

TEXT = OPENAI.answers["text"]
PRICE = Price(input=1_000_000_000, output=2_000_000_000)  # nano-USD a million tokens: 1 and 2 USD
ROUTING = Routing(retries=0, backoff_initial=0.001, backoff_max=0.002)
QUICK = Timeouts(first_token=0.05, idle=0.05, answer=0.05)


def setting(**changes: Any) -> Any:
    names = ("a", "b")
    models = [model(name, deployment(name, price=PRICE, timeouts=QUICK)) for name in names]
    return snapshot(*models, routing=ROUTING, **changes)


PRICED = setting()
BOTH = pytest.mark.parametrize("streamed", [False, True])
REPORTED = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
WORDS = "these words were delivered before it failed"


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path, PRICED)


def cost(prompt: int, completion: int) -> float:
    return (prompt * 1 + completion * 2) / 1_000_000


def check_sums(row: dict[str, Any]) -> None:
    """The row is the sum of its attempts, and each of them costs its tokens."""
    for name in ("prompt_tokens", "completion_tokens"):
        assert row[name] == sum(one[name] for one in row["attempts"])
    assert row["cost_usd"] == pytest.approx(sum(one["cost_usd"] for one in row["attempts"]), abs=1e-12)
    for one in row["attempts"]:
        assert one["cost_usd"] == pytest.approx(cost(one["prompt_tokens"], one["completion_tokens"]))


# --- what a failed attempt costs -----------------------------------------------------------------------------

PIECE = sse(chunk({"content": WORDS}))
EARLY = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
BEFORE_FAILING = {
    "usage in an error body": (
        answer(orjson.dumps({"error": {"message": "no"}, "usage": REPORTED}), status=500),
        (100, 50, "exact"),
    ),
    "usage inside the error": (
        answer(orjson.dumps({"error": {"message": "no", "usage": REPORTED}}), status=500),
        (100, 50, "exact"),
    ),
    "usage in Anthropic's words": (
        answer(
            orjson.dumps({"error": {"message": "no"}, "usage": {"input_tokens": 100, "output_tokens": 50}}),
            status=529,
        ),
        (100, 50, "exact"),
    ),
    "a refusal": (refusal(500), (0, 0, "exact")),
    "no room": (refusal(429), (0, 0, "exact")),
    "no key": (refusal(401), (0, 0, "exact")),
    "a redirect": (Script((b"",), 302, {"location": "http://127.0.0.1/"}), (0, 0, "exact")),
    "never connected": (DialError("refused"), (0, 0, "exact")),
    "sent and lost": (ConnectionLostError("gone"), (None, 0, "ambiguous")),
    "sent and silent": (None, (None, 0, "ambiguous")),
}
STREAMS = {
    "usage in an error event": (
        stream(sse({"error": {"message": "overloaded"}, "usage": REPORTED})),
        (100, 50, "exact"),
    ),
    "usage in an error after words": (
        stream(PIECE + sse({"error": {"message": "overloaded"}, "usage": REPORTED})),
        (100, 50, "exact"),
    ),
    "an error event": (stream(sse({"error": {"message": "overloaded"}})), (0, 0, "exact")),
    "words and an error at once": (
        stream(PIECE + sse({"error": {"message": "overloaded"}})),
        (None, ..., "estimated"),
    ),
    "a report and an error": (
        stream(sse(chunk({}, usage=EARLY)) + sse({"error": {"message": "overloaded"}})),
        (100, 1, "estimated"),
    ),
    "nothing at all": (stream(), (None, 0, "ambiguous")),
    "silence": (stream(b": ping\n\n", HANG), (None, 0, "ambiguous")),
    "too much": (stream(b": " + b"x" * (17 << 20)), (None, 0, "ambiguous")),
}
PLAIN = {
    "an error with 200": (answer(orjson.dumps({"error": {"message": "no"}})), (0, 0, "exact")),
    "an error with 200 and usage": (
        answer(orjson.dumps({"error": {"message": "no"}, "usage": REPORTED})),
        (100, 50, "exact"),
    ),
    "no choices, but usage": (answer(orjson.dumps({"usage": REPORTED, "choices": []})), (100, 50, "exact")),
    "not JSON": (answer(b"<html>"), (None, 0, "ambiguous")),
    "cut": (answer(whole({"content": WORDS})[:-20], ConnectionLostError("gone")), (None, ..., "estimated")),
    "stalled": (answer(whole({"content": WORDS})[:-20], HANG), (None, ..., "estimated")),
}
CASES = [
    *[(False, *case) for case in {**BEFORE_FAILING, **PLAIN}.values()],
    *[(True, *case) for case in {**BEFORE_FAILING, **STREAMS}.values()],
]
NAMES = [
    *[f"plain: {name}" for name in {**BEFORE_FAILING, **PLAIN}],
    *[f"stream: {name}" for name in {**BEFORE_FAILING, **STREAMS}],
]


@pytest.mark.parametrize(("streamed", "script", "expected"), CASES, ids=NAMES)
def test_a_failed_attempt_is_booked_with_the_successful_one(
    play: Play, streamed: bool, script: Any, expected: tuple[Any, Any, str]
) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed)
        row = await rig.row(client)
        check_sums(row)
        failed = row["attempts"][0]
        prompt, completion, basis = expected
        assert failed["basis"] == basis
        assert (failed["prompt_tokens"] > 0) if prompt is None else (failed["prompt_tokens"] == prompt)
        if completion is ...:
            assert 0 < failed["completion_tokens"] < 20
        else:
            assert failed["completion_tokens"] == completion
        assert row["basis"] == basis
        if failed["class"] != "caller":
            assert (row["model"], row["status"]) == ("b", "ok")
            served = row["attempts"][1]
            assert (served["prompt_tokens"], served["completion_tokens"], served["basis"]) == (20, 7, "exact")
            if not streamed:
                assert float(client.headers["x-proxy-cost-usd"]) == pytest.approx(row["cost_usd"])

    play(Internet(a=[script], b=[good(streamed=streamed)]), use)


def test_an_aborted_answer_costs_the_received_part_and_is_not_retried(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(n=128, logprobs=True)
        assert (client.status, client.json["error"]["code"]) == (502, "upstream_invalid_response")
        row = await rig.row(client)
        check_sums(row)
        assert rig.internet.asked == ["a#1"]
        assert (row["basis"], row["attempts"][0]["class"]) == ("estimated", "caller")
        assert 900 < row["completion_tokens"] < 2000
        assert rig.cooldowns.states() == {}, "the next request has no reason to avoid it"

    word = orjson.dumps({"content": "word " * 1000})
    filler = b'"logprobs":{"content":[' + b'{"token":"x","bytes":[120]},' * (MAX_ANSWER_BYTES // 28 + 2)
    body = b'{"choices":[{"message":' + word + b"," + filler
    play(Internet(a=[answer(body)], b=[]), use)


@BOTH
def test_a_request_without_a_successful_attempt_costs_the_sum_of_its_attempts(
    play: Play, streamed: bool
) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=streamed))
        check_sums(row)
        assert (row["status"], row["basis"], row["model"]) == ("error", "ambiguous", None)
        assert [one["basis"] for one in row["attempts"]] == ["ambiguous", "exact"]
        assert row["attempts"][1]["prompt_tokens"] == 100

    reported = answer(orjson.dumps({"error": {"message": "no"}, "usage": REPORTED}), status=500)
    play(Internet(a=[ConnectionLostError("gone")], b=[reported]), use)


@BOTH
def test_one_unknown_price_makes_the_sum_unknown(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=streamed))
        assert row["cost_usd"] is None
        assert [one["cost_usd"] is None for one in row["attempts"]] == [True, False]
        assert row["prompt_tokens"] == sum(one["prompt_tokens"] for one in row["attempts"]) > 20

    unpriced = snapshot(model("a"), PRICED.models["b"], routing=ROUTING)
    play(Internet(a=[ConnectionLostError("gone")], b=[good(streamed=streamed)]), use, unpriced)


def test_attempts_record_start_and_duration(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = rig.client(stream=True)
        task = asyncio.create_task(rig.gateway.answer("chat/completions", client))
        await client.wrote.wait()
        rig.clock.now += 2.0  # the stream goes on for two seconds
        await task
        row = await rig.row(client)
        failed, served = row["attempts"]
        assert (failed["at"], failed["ms"]) == (0.0, 0.0)
        assert served["at"] == row["first_ms"] > 0  # after the pause between two tries
        assert served["ms"] == 2000.0
        assert row["total_ms"] == served["at"] + served["ms"]

    half = len(TEXT.stream) // 2
    pieces = stream(TEXT.stream[:half], 0.02, TEXT.stream[half:])
    again = snapshot(
        model("a", deployment("a", price=PRICE)), routing=Routing(retries=1, backoff_initial=0.25)
    )
    play(Internet(a=[refusal(500), pieces]), use, again)


# --- budgets -------------------------------------------------------------------------------------------------


def budget(nanos: int) -> Any:
    return setting(
        limits={**PRICED.limits, "global": Limits(max_budget=nanos, given=frozenset({"max_budget"}))}
    )


async def highest(rig: Rig) -> tuple[int, int]:
    """Spent and held in the global scope."""

    def read(db: Any) -> tuple[int, int]:
        row = db.execute("select spent_nanos, held_nanos from scopes where scope = 'global:'").fetchone()
        return (row[0], row[1]) if row else (0, 0)

    return await rig.writer.run(read)


@BOTH
@pytest.mark.parametrize("room", [True, False])
def test_a_further_attempt_extends_the_hold_by_the_earlier_cost(
    play: Play, streamed: bool, room: bool
) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(
            stream=streamed, max_tokens=100, messages=[{"role": "user", "content": "x" * 4000}]
        )
        row = await rig.row(client)
        check_sums(row)
        assert rig.internet.asked == (["a#1", "b#1"] if room else ["a#1"])
        assert client.status == (200 if room else 502)
        if not room:
            assert client.json["error"]["code"] == "upstream_error", "the failure stands"
        spent, held = await highest(rig)
        assert (spent, held) == (round(row["cost_usd"] * 1e9), 0)

    # The hold is about 5.3e6 nano-USD, the prompt that is lost about 0.5e6.
    internet = Internet(a=[ConnectionLostError("gone")], b=[good(streamed=streamed)])
    play(internet, use, budget(8_000_000 if room else 5_600_000))


@BOTH
def test_a_free_failure_does_not_extend_the_hold(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(
            stream=streamed, max_tokens=100, messages=[{"role": "user", "content": "x" * 4000}]
        )
        assert client.status == 200
        assert rig.internet.asked == ["a#1", "b#1"]

    play(Internet(a=[refusal(503)], b=[good(streamed=streamed)]), use, budget(5_600_000))


@pytest.mark.parametrize("shadow", [False, True])
def test_concurrent_requests_with_several_attempts_stay_within_the_budget(play: Play, shadow: bool) -> None:
    most = 30_000_000
    seen: list[int] = []

    async def use(rig: Rig) -> None:
        async def watch() -> None:
            while True:
                seen.append(sum(await highest(rig)))

        watching = asyncio.create_task(watch())
        long = [{"role": "user", "content": "x" * 4000}]
        clients = [rig.client(max_tokens=100, messages=long, stream=n % 2 == 1) for n in range(12)]
        tasks = [rig.gateway.answer("chat/completions", client) for client in clients]
        await asyncio.gather(*tasks)
        watching.cancel()
        rows = await rig.rows()
        for row in rows:
            check_sums(row)
        spent, held = await highest(rig)
        assert held == 0
        assert spent == sum(round(row["cost_usd"] * 1e9) for row in rows)
        if not shadow:
            assert 0 < max([*seen, spent]) <= most

    limits = Limits(max_budget=most, shadow=shadow, given=frozenset({"max_budget"}))
    watched = setting(limits={**PRICED.limits, "global": limits})
    lost = ConnectionLostError("gone")
    play(Internet(a=[lost], b=[ConnectionLostError("gone"), lost]), use, watched)


# --- clients that hang up on a plain answer ------------------------------------------------------------------


async def begun(rig: Rig, client: Client) -> asyncio.Task[None]:
    asked = len(rig.internet.asked)
    task = asyncio.create_task(rig.gateway.answer("chat/completions", client))
    while len(rig.internet.asked) == asked:
        await asyncio.sleep(0)
    return task


PATIENT = snapshot(
    model("a", deployment("a", price=PRICE)), model("b", deployment("b", price=PRICE)), routing=ROUTING
)


@pytest.mark.parametrize("cached", [False, True])
def test_a_plain_answer_is_completed_and_booked_after_a_disconnect(play: Play, cached: bool) -> None:
    async def use(rig: Rig) -> None:
        client = rig.client()
        task = await begun(rig, client)
        client.leave(task)
        await asyncio.sleep(0)
        assert rig.gateway.running == 1, "its place and its hold stay until it is finished"
        await asyncio.gather(task, return_exceptions=True)
        row = await rig.row()
        assert (row["status"], row["http_status"], row["basis"]) == ("cancelled", 499, "exact")
        assert (row["prompt_tokens"], row["completion_tokens"]) == (20, 7)
        assert (row["model"], row["attempts"][0]["class"]) == ("a", "ok")
        assert not client.begun
        if cached:
            again = await rig.ask()
            assert (again.headers["x-proxy-cache"], again.answer_text) == ("hit", TEXT.text)

    internet = Internet(a=[answer(0.05, TEXT.whole)], b=[])
    play(internet, use, snapshot(*PATIENT.models.values(), routing=ROUTING, cache=Cache(enabled=cached)))


@pytest.mark.parametrize("cached", [False, True])
def test_no_further_attempt_is_made_after_a_disconnect(play: Play, cached: bool) -> None:
    async def use(rig: Rig) -> None:
        client = rig.client()
        task = await begun(rig, client)
        client.leave(task)
        await asyncio.gather(task, return_exceptions=True)
        row = await rig.row()
        assert rig.internet.asked == ["a#1"]
        assert (row["status"], row["http_status"], row["basis"]) == ("cancelled", 499, "ambiguous")
        assert row["prompt_tokens"] > 0

    internet = Internet(a=[answer(0.02, ConnectionLostError("gone"))], b=[good(streamed=False)])
    play(internet, use, snapshot(*PATIENT.models.values(), routing=ROUTING, cache=Cache(enabled=cached)))


@pytest.mark.parametrize("cached", [False, True])
def test_a_disconnected_client_does_not_delay_the_end_of_the_drain(play: Play, cached: bool) -> None:
    async def use(rig: Rig) -> None:
        client = rig.client()
        task = await begun(rig, client)
        client.leave(task)
        await asyncio.sleep(0)
        rig.gateway.interrupt("shutting_down", "The proxy is shutting down.")
        async with asyncio.timeout(30):
            await asyncio.gather(task, return_exceptions=True)
        row = await rig.row()
        assert (row["basis"], row["attempts"][0]["class"]) == ("ambiguous", "client_left")
        assert row["prompt_tokens"] > 0

    play(
        Internet(a=[None], b=[]),
        use,
        snapshot(*PATIENT.models.values(), routing=ROUTING, cache=Cache(enabled=cached)),
    )


@pytest.mark.parametrize("cached", [False, True])
def test_a_disconnect_before_the_first_token_costs_the_prompt(play: Play, cached: bool) -> None:
    async def use(rig: Rig) -> None:
        client = rig.client(stream=True)
        task = await begun(rig, client)
        client.leave(task)
        await asyncio.gather(task, return_exceptions=True)
        row = await rig.row()
        check_sums(row)
        assert [(one["deployment"], one["class"]) for one in row["attempts"]] == [("a#1", "client_left")]
        assert (row["status"], row["basis"]) == ("cancelled", "ambiguous")
        assert row["prompt_tokens"] > 0

    play(
        Internet(a=[None], b=[]),
        use,
        snapshot(*PATIENT.models.values(), routing=ROUTING, cache=Cache(enabled=cached)),
    )


# --- shared calls --------------------------------------------------------------------------------------------

SHARED = snapshot(*PATIENT.models.values(), routing=ROUTING, cache=Cache())


@BOTH
def test_a_disconnected_leader_pays_for_the_shared_call(play: Play, streamed: bool) -> None:
    """Also for a second attempt, as long as others wait for the answer."""

    async def use(rig: Rig) -> None:
        first = rig.client(stream=streamed)
        task = await begun(rig, first)
        others = [rig.client(stream=streamed) for _ in range(3)]
        tasks = [asyncio.create_task(rig.gateway.answer("chat/completions", one)) for one in others]
        await asyncio.sleep(0.01)
        first.leave(task)
        await asyncio.gather(task, *tasks, return_exceptions=True)
        assert rig.internet.asked == ["a#1", "b#1"]
        assert {one.answer_text for one in others} == {TEXT.text}
        rows = await rig.rows()
        (paid,) = [row for row in rows if row["attempts"]]
        check_sums(paid)
        assert (paid["status"], paid["basis"]) == ("cancelled", "ambiguous")
        assert [one["basis"] for one in paid["attempts"]] == ["ambiguous", "exact"]
        free = [row for row in rows if row is not paid]
        assert [(row["status"], row["basis"], row["cost_usd"]) for row in free] == [("ok", "cached", 0)] * 3

    lost = Script(
        (0.05, ConnectionLostError("gone")), 200, stream().headers if streamed else answer().headers
    )
    play(Internet(a=[lost], b=[good(streamed=streamed)]), use, SHARED)


def test_a_disconnected_subscriber_pays_nothing(play: Play) -> None:
    async def use(rig: Rig) -> None:
        first, follower = rig.client(), rig.client()
        task = await begun(rig, first)
        following = asyncio.create_task(rig.gateway.answer("chat/completions", follower))
        await asyncio.sleep(0.01)
        follower.leave(following)
        await asyncio.gather(task, following, return_exceptions=True)
        rows = await rig.rows()
        assert sum(row["cost_usd"] for row in rows) == cost(20, 7)
        assert rig.internet.asked == ["a#1"]

    play(Internet(a=[answer(0.05, TEXT.whole)], b=[]), use, SHARED)
