"""The way of a request through the real gateway: who is asked, and what the client gets."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from codellama_proxy.core.snapshot import Project, Routing, Server, Timeouts
from tests.support.builders import deployment, model, snapshot
from tests.support.dialogues import OPENAI
from tests.support.fake_internet import HANG, Internet, answer, good, refusal, stream
from tests.support.gateway_harness import Client, Play, Rig, player

TEXT = OPENAI.answers["text"]
CHAIN = snapshot(model("a"), model("b"), model("c"))
BOTH = pytest.mark.parametrize("streamed", [False, True])


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path, CHAIN)


# --- who is asked --------------------------------------------------------------------------------------------


@BOTH
def test_models_are_tried_in_their_order_until_one_answers(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed)
        assert (client.status, client.answer_text) == (200, TEXT.text)
        assert internet.asked == ["a#1", "a#1", "b#1", "c#1"]
        assert client.headers["x-proxy-model"] == "c"
        assert client.headers["x-proxy-deployment"] == "c#1"
        assert client.headers["x-proxy-attempts"] == "4"
        assert client.headers["x-proxy-config"] == "0123456789ab"
        assert [a["class"] for a in (await rig.row(client))["attempts"]] == [
            "transient",
            "transient",
            "busy",
            "ok",
        ]

    internet = Internet(a=[refusal(500)], b=[refusal(429, retry_after="60")], c=[good(streamed=streamed)])
    play(internet, use)


@BOTH
def test_an_exhausted_chain_lists_every_attempt(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed)
        assert client.status == 502
        assert client.headers["content-type"] == "application/json"
        assert client.headers["x-should-retry"] == "false"
        error = client.json["error"]
        assert (error["code"], error["type"]) == ("upstream_auth_failed", "server_error")
        assert error["attempts"] == [
            {"deployment": "a#1", "class": "transient", "status": 500},
            {"deployment": "b#1", "class": "disguised", "status": 200},
            {"deployment": "c#1", "class": "credential", "status": 401},
        ]
        assert "sk-upstream-secret" not in client.data.decode()

    internet = Internet(
        a=[refusal(500)], b=[answer(b"<html>")], c=[refusal(401, "sk-upstream-secret is wrong")]
    )
    play(internet, use, replace(CHAIN, routing=Routing(retries=0)))


@BOTH
def test_a_single_deployment_is_retried_after_a_jittered_delay(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed)
        assert (client.status, client.answer_text) == (200, TEXT.text)
        assert rig.clock.slept == [0.125], "half of backoff.initial: the dice say so"
        assert (await rig.row())["total_ms"] == 125.0

    play(Internet(a=[refusal(503), good(streamed=streamed)]), use, snapshot(model("a")))


@BOTH
def test_there_is_no_delay_after_the_last_attempt(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        assert (await rig.ask(stream=streamed)).status == 502
        assert len(rig.clock.slept) == 1

    play(Internet(a=[refusal(500)]), use, snapshot(model("a")))


@BOTH
def test_a_rate_limit_of_every_deployment_is_a_429_with_retry_after(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed)
        assert client.status == 429
        assert client.headers["retry-after"] == "600"
        assert client.json["error"]["code"] == "upstream_rate_limited"

    play(Internet(a=[refusal(429, retry_after="3600")]), use, snapshot(model("a")))


@BOTH
def test_a_repeatedly_failing_deployment_is_skipped_during_its_cooldown(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        for _ in range(5):
            assert (await rig.ask(stream=streamed)).answer_text == TEXT.text
        assert internet.asked.count("a#1") == 3
        rig.clock.now += 30
        assert (await rig.ask(stream=streamed)).headers["x-proxy-model"] == "a"

    down: list[Any] = [refusal(500)] * 3
    internet = Internet(a=[*down, good(streamed=streamed)], b=[good(streamed=streamed)])
    play(internet, use, snapshot(model("a"), model("b")))


@BOTH
@pytest.mark.parametrize("restricted", ["key", "project"])
def test_the_chain_skips_models_the_key_may_not_use(play: Play, streamed: bool, restricted: str) -> None:
    async def use(rig: Rig) -> None:
        secret = await rig.key(models=("[ac]",)) if restricted == "key" else rig.secret
        client = await rig.ask(stream=streamed, secret=secret)
        assert client.headers["x-proxy-model"] == "c"
        assert "b#1" not in internet.asked
        refused = await rig.ask(stream=streamed, secret=secret, model="b")
        unknown = await rig.ask(stream=streamed, secret=secret, model="q")
        assert (refused.status, refused.data.replace(b"'b'", b"'q'")) == (404, unknown.data)

    internet = Internet(a=[refusal(500)], b=[good(streamed=streamed)], c=[good(streamed=streamed)])
    projects = {"team": Project("team", models=("a", "c"))} if restricted == "project" else {}
    play(internet, use, snapshot(model("a"), model("b"), model("c"), projects=projects))


@BOTH
def test_without_a_key_nothing_is_sent_or_booked(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        bodies = set()
        for secret in (None, "sk-wrong", rig.secret[:-1] + "_"):
            client = await rig.ask(stream=streamed, secret=secret)
            assert client.status == 401
            bodies.add(client.data)
        assert len(bodies) == 2, "one for none at all, one for any wrong one"
        assert internet.asked == []
        assert await rig.rows() == []

    internet = Internet(a=[good(streamed=streamed)])
    play(internet, use)


@BOTH
def test_without_authentication_calls_belong_to_the_anonymous_project(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        assert (await rig.ask(stream=streamed, secret=None)).status == 200
        row = await rig.row()
        assert (row["project"], row["key_id"]) == ("anonymous", None)

    play(Internet(a=[good(streamed=streamed)]), use, snapshot(model("a"), auth_required=False))


def test_requests_in_flight_are_bounded(play: Play) -> None:
    async def use(rig: Rig) -> None:
        first = asyncio.create_task(rig.gateway.answer("chat/completions", rig.client()))
        while not internet.asked:
            await asyncio.sleep(0)
        second = await rig.ask()
        assert (second.status, second.json["error"]["code"]) == (503, "overloaded")
        assert "retry-after" in second.headers
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    internet = Internet(a=[None])
    play(internet, use, snapshot(model("a"), server=Server(max_parallel_requests=1)))


# --- what the client gets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [False, True])
def test_streams_show_usage_only_on_request(play: Play, wanted: bool) -> None:
    async def use(rig: Rig) -> None:
        more = {"stream_options": {"include_usage": True}} if wanted else {}
        client = await rig.ask(stream=True, **more)
        assert client.events[-1] is None
        assert [e["choices"] for e in client.events[:-1] if "usage" in e] == ([[]] if wanted else [])

    play(Internet(a=[good(streamed=True)]), use, snapshot(model("a")))


@BOTH
def test_dropped_parameters_with_odd_names_are_reported_as_a_header_can_hold_them(
    play: Play, streamed: bool
) -> None:
    async def use(rig: Rig) -> None:
        odd: dict[str, Any] = {"template\r\nset-cookie: a": 1, "template\u65e5": 1}
        client = await rig.ask(stream=streamed, **odd)
        assert client.headers["x-proxy-dropped-params"] == "template??set-cookie: a,template?"

    lenient = snapshot(model("a", deployment("a", drop_params=True)))
    play(Internet(a=[good(streamed=streamed)]), use, lenient)


@BOTH
def test_dropped_parameters_are_reported(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed, logprobs=True, n=2)
        assert client.headers["x-proxy-dropped-params"] == "logprobs,n"

    entry = deployment("a", provider="groq", drop_params=True)
    play(Internet(a=[good(streamed=streamed)]), use, snapshot(model("a", entry)))


def test_a_broken_stream_ends_with_an_error_without_done(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=True)
        assert client.status == 200
        assert client.ended
        *chunks, last = client.events
        assert last["error"]["code"] == "upstream_invalid_response"
        assert None not in chunks
        assert TEXT.text.startswith(client.answer_text)
        assert client.answer_text
        assert internet.asked == ["a#1"], "nothing is retried once something was said"

    internet = Internet(a=[stream(TEXT.stream[:700])], b=[good(streamed=True)])
    play(internet, use, snapshot(model("a"), model("b")))


def test_a_stalled_stream_ends_with_an_error(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=True)
        assert client.events[-1]["error"]["code"] == "upstream_timeout"

    entry = deployment("a", timeouts=Timeouts(idle=0.03))
    play(Internet(a=[stream(TEXT.stream[:700], HANG)]), use, snapshot(model("a", entry)))


@BOTH
def test_the_end_of_the_drain_interrupts_with_an_error(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = rig.client(stream=streamed)
        task = asyncio.create_task(rig.gateway.answer("chat/completions", client))
        while not (client.begun if streamed else internet.asked):
            await asyncio.sleep(0)
        rig.gateway.interrupt("shutting_down", "The proxy is shutting down.")
        await task
        error = client.events[-1] if streamed else client.json
        assert error["error"]["code"] == "shutting_down"
        assert (await rig.row())["status"] == "error"

    internet = Internet(a=[stream(TEXT.stream[:700], HANG) if streamed else None])
    play(internet, use, snapshot(model("a")))


def test_an_invalid_body_is_refused_first(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = Client(b"{", rig.secret)
        await rig.gateway.answer("chat/completions", client)
        assert (client.status, orjson.loads(client.data)["error"]["code"]) == (400, "invalid_json")
        assert await rig.rows() == []

    play(Internet(a=[]), use)
