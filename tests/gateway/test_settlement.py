"""What a request leaves in the books, however it ends: one row, settled once, that says what happened."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.core.snapshot import Limits, Price
from codellama_proxy.upstream.connection import ConnectionLostError, ProtocolError
from codellama_proxy.upstream.dial import DialError, DialTimeoutError
from tests.support.builders import deployment, model, snapshot
from tests.support.dialogues import OPENAI, chunk, sse, whole
from tests.support.fake_internet import Internet, Script, answer, good, refusal, stream
from tests.support.gateway_harness import Play, Rig, player

TEXT = OPENAI.answers["text"]
PRICE = Price(input=1_000_000_000, output=2_000_000_000)  # nano-USD a million tokens: 1 and 2 USD
PRICED = snapshot(model("a", deployment("a", price=PRICE)), model("b", deployment("b", price=PRICE)))
COST = (20 * 1 + 7 * 2) / 1_000_000
BOTH = pytest.mark.parametrize("streamed", [False, True])


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path, PRICED)


def booking_of(row: dict[str, Any]) -> dict[str, Any]:
    names = ("status", "http_status", "basis", "prompt_tokens", "completion_tokens", "cost_usd")
    return {name: row[name] for name in names}


def classes(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["deployment"], one["class"]) for one in row["attempts"]]


# --- answers -------------------------------------------------------------------------------------------------


@BOTH
def test_an_answer_is_billed_by_reported_usage(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed, model="a", user="u-1")
        row = await rig.row(client)
        assert booking_of(row) == {
            "status": "ok",
            "http_status": 200,
            "basis": "exact",
            "prompt_tokens": 20,
            "completion_tokens": 7,
            "cost_usd": COST,
        }
        assert (row["cached_tokens"], row["stream"]) == (4, streamed)
        assert (row["model_requested"], row["model"], row["deployment"]) == ("a", "a", "a#1")
        assert (row["upstream_model"], row["project"], row["user"]) == ("m-2026", "team", "u-1")
        assert (row["endpoint"], row["config"]) == ("chat/completions", "0123456789ab")
        assert classes(row) == [("a#1", "ok")]
        assert client.headers.get("x-proxy-cost-usd") == (None if streamed else "0.000034")

    play(Internet(a=[good(streamed=streamed)]), use)


@BOTH
def test_only_the_deployment_that_answered_is_billed(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=streamed))
        assert (row["model"], row["cost_usd"]) == ("b", COST)
        assert classes(row) == [("a#1", "busy"), ("b#1", "ok")]

    play(Internet(a=[refusal(503, retry_after="60")], b=[good(streamed=streamed)]), use)


@BOTH
def test_unreported_usage_is_estimated_and_marked(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(
            stream=streamed, **({"stream_options": {"include_usage": True}} if streamed else {})
        )
        row = await rig.row(client)
        assert (row["status"], row["basis"]) == ("ok", "estimated")
        assert row["prompt_tokens"] > 0
        assert row["completion_tokens"] > 0
        assert row["cost_usd"] > 0
        usage = client.events[-2]["usage"] if streamed else client.json["usage"]
        assert usage == {
            "prompt_tokens": row["prompt_tokens"],
            "completion_tokens": row["completion_tokens"],
            "total_tokens": row["prompt_tokens"] + row["completion_tokens"],
            "estimated": True,
        }

    assistant_message = {"role": "assistant", "content": "four words, all counted"}
    silent = stream(sse(chunk(assistant_message), chunk({}, "stop"), b"[DONE]"))
    play(Internet(a=[silent if streamed else answer(whole(assistant_message, usage=None))]), use)


@BOTH
def test_an_unknown_price_is_not_zero(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed)
        assert "x-proxy-cost-usd" not in client.headers
        row = await rig.row(client)
        assert (row["cost_usd"], row["completion_tokens"]) == (None, 7)

    play(Internet(a=[good(streamed=streamed)]), use, snapshot(model("a")))


# --- failures ------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("script", "status", "basis"),
    [
        (refusal(500), 502, "exact"),
        (refusal(429), 429, "exact"),
        (refusal(400), 400, "exact"),
        (answer(b"<html>"), 502, "ambiguous"),
        (DialError("refused"), 502, "exact"),
        (ConnectionLostError("gone"), 502, "ambiguous"),
        (ProtocolError("gone"), 502, "ambiguous"),
        (DialTimeoutError("slow"), 504, "exact"),
    ],
)
def test_only_possibly_processed_attempts_are_billed(
    play: Play, streamed: bool, script: Script | Exception, status: int, basis: str
) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed, model="b")
        row = await rig.row(client)
        assert client.status == row["http_status"] == status
        assert (row["status"], row["basis"], row["completion_tokens"]) == ("error", basis, 0)
        assert (row["prompt_tokens"] > 0) is (row["cost_usd"] > 0) is (basis == "ambiguous")
        assert {one["deployment"] for one in row["attempts"]} == {"b#1"}
        assert len(row["attempts"]) == len(rig.internet.asked)

    play(Internet(a=[], b=[script]), use)


def test_a_cut_stream_is_billed_by_estimate(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=True)
        row = await rig.row(client)
        assert (row["status"], row["http_status"], row["basis"]) == ("error", 200, "estimated")
        assert row["prompt_tokens"] > 0
        assert row["completion_tokens"] == 9, (
            "a running total never lowers what was counted, nor the other way"
        )
        assert classes(row) == [("a#1", "disguised")]

    running = {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}
    play(Internet(a=[stream(sse(chunk({"content": "a b c"}, usage=running)))], b=[]), use)


def test_refused_requests_and_unknown_models_have_no_row(play: Play) -> None:
    async def use(rig: Rig) -> None:
        wrong: list[dict[str, Any]] = [{"model": "nobody"}, {"temperature": 9}, {"messages": []}]
        for body in wrong:
            assert (await rig.ask(**body)).status in (400, 404)
        assert await rig.rows() == []
        assert rig.internet.asked == []

    play(Internet(a=[]), use)


@BOTH
def test_an_exhausted_budget_refuses_before_anything_is_sent(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        secret = await rig.key(max_budget=0)
        client = await rig.ask(stream=streamed, secret=secret)
        assert (client.status, client.json["error"]["code"]) == (429, "insufficient_quota")
        assert rig.internet.asked == []

    play(Internet(a=[]), use)


@BOTH
def test_under_a_budget_every_attempt_has_max_tokens(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed, max_tokens=1_000_000)
        clamped = int(client.headers["x-proxy-max-tokens"])
        assert 16 <= clamped < 1_000_000
        assert [one.body["max_tokens"] for one in rig.internet.sent] == [clamped] * 3
        assert (await rig.row(client))["cost_usd"] == COST

    setting = snapshot(
        *PRICED.models.values(),
        limits={**PRICED.limits, "global": Limits(max_budget=10_000_000, given=frozenset({"max_budget"}))},
    )
    play(Internet(a=[refusal(500)], b=[good(streamed=streamed)]), use, setting)


@BOTH
def test_a_max_tokens_that_a_budget_adds_is_reported(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed)
        assert client.headers["x-proxy-max-tokens"] == str(rig.internet.sent[0].body["max_tokens"])

    play(Internet(a=[good(streamed=streamed)]), use, snapshot(*PRICED.models.values(), limits=BUDGETED))


BUDGETED = {**PRICED.limits, "global": Limits(max_budget=10**9, given=frozenset({"max_budget"}))}


@BOTH
@pytest.mark.parametrize("asked", ["a", "mystery"])
def test_under_a_budget_unpriced_candidates_are_skipped(play: Play, streamed: bool, asked: str) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed, model=asked)
        assert client.headers["x-proxy-model"] == "b"
        row = await rig.row(client)
        assert (row["model"], row["cost_usd"]) == ("b", COST)
        assert "mystery#1" not in {one["deployment"] for one in row["attempts"]}

    setting = snapshot(*PRICED.models.values(), limits=BUDGETED)
    a, b = setting.models["a"], setting.models["b"]
    chain = snapshot(
        replace(a, fallbacks=("mystery", "b")), model("mystery", fallbacks=("b",)), b, limits=BUDGETED
    )
    play(Internet(a=[refusal(500)], b=[good(streamed=streamed)], mystery=[]), use, chain)


@BOTH
def test_only_unpriced_candidates_are_refused_under_a_budget(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed)
        assert (client.status, client.json["error"]["code"]) == (400, "model_not_priced")
        assert "`mystery`" in client.json["error"]["message"]
        assert rig.internet.asked == []

    play(Internet(mystery=[]), use, snapshot(model("mystery"), limits=BUDGETED))
