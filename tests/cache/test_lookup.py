"""Answers from the cache through the real gateway: who gets them, in which form, and what the books say."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from codellama_proxy.core.snapshot import Cache, Guardrail, Limits, Price, Project
from codellama_proxy.gateway.respond import ClientDisconnectedError
from codellama_proxy.openai_format.folding import fold
from tests.support.builders import deployment, model, snapshot
from tests.support.dialogues import OPENAI
from tests.support.fake_internet import Internet, answer, good, refusal, stream
from tests.support.gateway_harness import Client, Rig, run

TEXT = OPENAI.answers["text"]
PRICE = Price(2_000_000_000, 4_000_000_000)
ON = Cache()
ENTRY = deployment("a", price=PRICE)
CACHED = snapshot(model("a", ENTRY), cache=ON)
BOTH = pytest.mark.parametrize("streamed", [False, True])
BOTH_AFTER = pytest.mark.parametrize("after", [False, True])
Use = Callable[[Rig], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return lambda internet, use, setting=CACHED: run(tmp_path, setting, internet, use)


def outcome(client: Client) -> tuple[str, str]:
    assert client.status == 200, client.data
    return client.headers["x-proxy-cache"], client.answer_text


def whole(client: Client) -> dict[str, Any]:
    """What the answer says, in whichever form it came."""
    if not client.headers["content-type"].startswith("text/event-stream"):
        return client.json
    *chunks, last = client.events
    assert last is None
    return fold(chunks)


# --- a hit ---------------------------------------------------------------------------------------------------


@BOTH
@BOTH_AFTER
@pytest.mark.parametrize("kind", ["text", "tools"])
def test_an_identical_request_is_answered_without_an_upstream_call(
    play: Play, streamed: bool, after: bool, kind: str
) -> None:
    async def use(rig: Rig) -> None:
        options = {"stream_options": {"include_usage": True}}
        first = await rig.ask(stream=streamed, **(options if streamed else {}))
        second = await rig.ask(stream=after, **(options if after else {}))
        assert internet.asked == ["a#1"]
        assert (first.headers["x-proxy-cache"], second.headers["x-proxy-cache"]) == ("miss", "hit")
        one, other = whole(first), whole(second)
        assert other["choices"][0]["message"] == one["choices"][0]["message"]
        assert other["choices"][0]["finish_reason"] == one["choices"][0]["finish_reason"]
        assert (other["usage"], other["id"], other["model"]) == (one["usage"], one["id"], one["model"])

    internet = Internet(a=[good(kind, streamed=streamed)])
    play(internet, use)


def test_repeated_hits_are_the_same_in_each_form(play: Play) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        streams = [
            await rig.ask(stream=True, stream_options={"include_usage": more}) for more in (True, False, True)
        ]
        plain = [await rig.ask() for _ in range(2)]
        assert {client.headers["x-proxy-cache"] for client in (*streams, *plain)} == {"hit"}
        assert streams[0].data == streams[2].data != streams[1].data
        assert plain[0].data == plain[1].data
        assert "usage" in whole(streams[2])
        assert "usage" not in whole(streams[1])

    play(Internet(a=[good("text", streamed=False)]), use)


@BOTH
def test_a_hit_costs_nothing_and_reports_the_saved_cost(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        client = await rig.ask(stream=streamed)
        assert client.headers["x-proxy-model"] == "a"
        assert client.headers["x-proxy-deployment"] == "a#1"
        assert client.headers["x-proxy-attempts"] == "0"
        if not streamed:
            assert client.headers["x-proxy-cost-usd"] == "0"
        row, paid = await rig.rows()
        assert (row["basis"], row["cache"], row["cost_usd"]) == ("cached", "hit", 0)
        assert (paid["basis"], paid["cache"]) == ("exact", "miss")
        assert row["saved_usd"] == paid["cost_usd"] > 0
        assert (row["status"], row["http_status"], row["attempts"]) == ("ok", 200, [])
        assert (row["model"], row["deployment"], row["upstream_model"]) == (
            "a",
            "a#1",
            paid["upstream_model"],
        )
        assert row["prompt_tokens"] == paid["prompt_tokens"]

    play(Internet(a=[good(streamed=False)]), use)


@BOTH
def test_the_saved_cost_is_unknown_if_the_price_is_unknown(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        assert outcome(await rig.ask(stream=streamed))[0] == "hit"
        row, paid = await rig.rows()
        assert (row["basis"], row["cost_usd"], row["saved_usd"]) == ("cached", 0, None)
        assert (paid["cost_usd"], paid["saved_usd"]) == (None, 0)

    play(Internet(a=[good(streamed=False)]), use, snapshot(model("a"), cache=ON))


def test_unreported_usage_is_estimated_for_a_hit(play: Play) -> None:
    async def use(rig: Rig) -> None:
        first, second = await rig.ask(), await rig.ask()
        assert second.headers["x-proxy-cache"] == "hit"
        assert second.json["usage"]["estimated"] is True
        assert second.json["usage"]["completion_tokens"] == first.json["usage"]["completion_tokens"] > 0

    body = orjson.dumps({n: v for n, v in orjson.loads(TEXT.whole).items() if n != "usage"})
    play(Internet(a=[answer(body)]), use)


def test_answers_survive_a_restart(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        assert outcome(await rig.ask()) == ("miss", TEXT.text)

    async def second(rig: Rig) -> None:
        assert outcome(await rig.ask(stream=True)) == ("hit", TEXT.text)

    run(tmp_path, CACHED, Internet(a=[good(streamed=False)]), first)
    run(tmp_path, CACHED, Internet(a=[refusal(500)]), second)


def test_an_answer_expires_after_its_ttl(play: Play) -> None:
    async def use(rig: Rig) -> None:
        rig.wall = 5000.0
        await rig.ask()
        rig.wall += 3599
        assert outcome(await rig.ask())[0] == "hit"
        rig.wall += 1
        assert outcome(await rig.ask())[0] == "miss"

    play(Internet(a=[good(streamed=False)]), use)


def test_a_fallbacks_answer_is_not_served_after_the_outage(play: Play) -> None:
    async def use(rig: Rig) -> None:
        assert (await rig.ask()).headers["x-proxy-model"] == "b"
        assert outcome(await rig.ask(model="b"))[0] == "hit", "it is b's answer"
        rig.clock.now += 60
        client = await rig.ask()
        assert (client.headers["x-proxy-model"], client.headers["x-proxy-cache"]) == ("a", "miss")

    internet = Internet(a=[refusal(503, retry_after="30"), good(streamed=False)], b=[good(streamed=False)])
    play(internet, use, snapshot(model("a"), model("b"), cache=ON))


def test_the_same_request_by_default_and_by_name_share_an_answer(play: Play) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        assert outcome(await rig.ask(model="a"))[0] == "hit"

    play(Internet(a=[good(streamed=False)]), use)


@BOTH
def test_dropped_parameters_are_reported_again(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        for expected in ("miss", "hit"):
            client = await rig.ask(stream=streamed, logprobs=True)
            assert client.headers["x-proxy-cache"] == expected
            assert client.headers["x-proxy-dropped-params"] == "logprobs"

    entry = deployment("a", provider="groq", drop_params=True)
    play(Internet(a=[good(streamed=streamed)]), use, snapshot(model("a", entry), cache=ON))


# --- what is never kept --------------------------------------------------------------------------------------


def with_finish(reason: str, **message: Any) -> bytes:
    found = orjson.loads(TEXT.whole)
    found["choices"][0]["finish_reason"] = reason
    found["choices"][0]["message"] |= message
    return orjson.dumps(found)


@pytest.mark.parametrize(
    "script",
    [
        answer(with_finish("length")),
        answer(with_finish("content_filter")),
        answer(with_finish("stop", content="")),
        answer(with_finish("stop", content="x" * (1 << 20))),
        refusal(400),
        stream(TEXT.stream[:700]),
    ],
    ids=["length", "filtered", "empty", "oversized", "error", "cut"],
)
def test_only_complete_answers_are_cached(play: Play, script: Any) -> None:
    async def use(rig: Rig) -> None:
        streamed = script.headers["content-type"] == "text/event-stream"
        for _ in range(2):
            client = await rig.ask(stream=streamed)
            assert client.headers["x-proxy-cache"] == "miss"
        assert len(internet.asked) >= 2
        assert len(rig.answers.memory) == 0

    internet = Internet(a=[script])
    play(internet, use)


def test_an_answer_cut_by_a_disconnect_is_not_cached(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = rig.client(stream=True, stops_after=0)
        with pytest.raises(ClientDisconnectedError):
            await rig.gateway.answer("chat/completions", client)
        assert len(rig.answers.memory) == 0

    play(Internet(a=[stream(TEXT.stream[:700], 3600.0)]), use)


# --- isolation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "project", "expected"),
    [
        ("project", "team", "hit"),
        ("project", "other", "miss"),
        ("key", "team", "miss"),
        ("key", "other", "miss"),
        ("global", "team", "hit"),
        ("global", "other", "hit"),
    ],
)
@BOTH
def test_answers_are_shared_only_within_their_scope(
    play: Play, scope: Any, project: str, expected: str, streamed: bool
) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        client = await rig.ask(secret=await rig.key(project=project), stream=streamed)
        assert client.headers["x-proxy-cache"] == expected
        assert len(internet.asked) == (1 if expected == "hit" else 2)

    internet = Internet(a=[good(streamed=False), good(streamed=streamed)])
    play(internet, use, replace(CACHED, cache=Cache(scope=scope)))


def test_with_scope_key_answers_are_not_shared_between_keys(play: Play) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        assert outcome(await rig.ask())[0] == "hit"

    play(Internet(a=[good(streamed=False)]), use, replace(CACHED, cache=Cache(scope="key")))


def test_projects_with_other_guardrails_share_nothing_even_globally(play: Play) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        client = await rig.ask(secret=await rig.key(project="poets"))
        assert client.headers["x-proxy-cache"] == "miss"
        assert rig.systems() == [["Only code."], ["Only rhymes."]]

    poets = {"poets": Project("poets", guardrail="Only rhymes.")}
    setting = replace(CACHED, cache=Cache(scope="global"), projects=poets)
    play(Internet(a=[good(streamed=False)]), use, setting)


def test_an_edited_guardrail_invalidates_cached_answers(play: Play) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        rig.setting = replace(rig.setting, guardrail=Guardrail("Only poems."))
        assert outcome(await rig.ask())[0] == "miss"

    play(Internet(a=[good(streamed=False)]), use)


def test_a_hit_still_needs_permission_for_the_model(play: Play) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask(model="b")
        client = await rig.ask(model="b", secret=await rig.key(models=("a",)))
        assert client.status == 404

    internet = Internet(a=[good(streamed=False)], b=[good(streamed=False)])
    play(internet, use, snapshot(model("a"), model("b"), cache=ON))


def test_a_hit_still_counts_against_rates_but_never_against_budgets(play: Play) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        assert outcome(await rig.ask())[0] == "hit"
        client = await rig.ask()
        assert (client.status, client.json["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "retry-after" in client.headers

    limits = {kind: Limits() for kind in ("global", "key", "user")}
    # The budget pays for one answer and not for a second one.
    limits |= {"project": Limits(rpm_limit=2, max_budget=5_000_000)}
    play(Internet(a=[good(streamed=False)]), use, replace(CACHED, limits=limits))


def test_a_hit_needs_a_key(play: Play) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        assert (await rig.ask(secret="sk-wrong")).status == 401

    play(Internet(a=[good(streamed=False)]), use)


# --- wishes and switches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [Cache(enabled=False), ON], ids=["everywhere", "project"])
def test_the_cache_can_be_disabled(play: Play, setting: Cache) -> None:
    async def use(rig: Rig) -> None:
        for _ in range(2):
            assert outcome(await rig.ask()) == ("off", TEXT.text)
        assert len(internet.asked) == 2

    internet = Internet(a=[good(streamed=False)])
    play(internet, use, replace(CACHED, cache=setting, projects={"team": Project("team", cache=False)}))


@pytest.mark.parametrize("how", ["body", "header"])
def test_no_cache_calls_upstream_and_caches_the_new_answer(play: Play, how: str) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        client = rig.client(**({"cache": {"no-cache": True}} if how == "body" else {}))
        client.cache_header = "no-cache" if how == "header" else ""
        await rig.gateway.answer("chat/completions", client)
        assert client.headers["x-proxy-cache"] == "bypass"
        newest = await rig.ask()
        assert (newest.headers["x-proxy-cache"], newest.answer_text) == ("hit", "newer")

    internet = Internet(a=[good(streamed=False), answer(with_finish("stop", content="newer"))])
    play(internet, use)


def test_no_store_reads_the_cache_but_does_not_write_it(play: Play) -> None:
    async def use(rig: Rig) -> None:
        for expected in ("miss", "miss"):
            assert outcome(await rig.ask(cache={"no-store": True}))[0] == expected
        await rig.ask()
        assert outcome(await rig.ask(cache={"no-store": True}))[0] == "hit"

    play(Internet(a=[good(streamed=False)]), use)


def test_ttl_and_s_maxage_shorten_the_lifetime(play: Play) -> None:
    async def use(rig: Rig) -> None:
        rig.wall = 5000.0
        await rig.ask(cache={"ttl": 60})
        rig.wall += 30
        assert outcome(await rig.ask(cache={"s-maxage": 31}))[0] == "hit"
        assert outcome(await rig.ask(cache={"ttl": 1}))[0] == "hit"
        rig.wall += 30
        assert outcome(await rig.ask(cache={"ttl": 90_000}))[0] == "miss", "60 s are over"
        rig.wall += 3600
        assert outcome(await rig.ask(cache={"s-maxage": 90_000}))[0] == "miss", "an hour is the most"
        assert outcome(await rig.ask(cache={"s-maxage": 0}))[0] == "miss"

    play(Internet(a=[good(streamed=False)]), use)


def test_invalid_cache_directives_are_refused(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(cache={"ttl": "soon"})
        assert (client.status, client.json["error"]["param"]) == (400, "cache.ttl")

    play(Internet(a=[good(streamed=False)]), use)


# --- trouble -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", ["drop table answers", "update answers set completion = x'ff'", "lock", "remove"]
)
def test_a_cache_failure_is_a_miss(play: Play, tmp_path: Path, trouble: str) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask()
        await rig.answers.read(lambda _: None)  # it is written
        rig.answers.memory.clear()
        path = tmp_path / "proxy-cache.db"
        if trouble == "remove":
            path.unlink()
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            if trouble == "lock":
                db.execute("begin exclusive")
            elif trouble != "remove":
                db.execute(trouble)
            for _ in range(2):
                assert (await rig.ask()).answer_text == TEXT.text
        assert [row["status"] for row in await rig.rows()] == ["ok"] * 3

    play(Internet(a=[good(streamed=False)]), use)


def test_many_concurrent_different_requests_get_their_own_answers(play: Play) -> None:
    async def use(rig: Rig) -> None:
        clients = [rig.client(seed=number) for number in range(20)]
        await asyncio.gather(*(rig.gateway.answer("chat/completions", client) for client in clients))
        assert len(internet.asked) == 20

    internet = Internet(a=[good(streamed=False)])
    play(internet, use)
