"""Completions and embeddings through the real gateway: the way of a chat, with other words at both ends."""

import asyncio
import base64
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from codellama_proxy.core.snapshot import Cache, Limits, Price, Project
from codellama_proxy.openai_format.request import Endpoint
from codellama_proxy.tokens.tokenizers import FILES
from codellama_proxy.upstream.connection import ConnectionLostError
from codellama_proxy.upstream.response_body import MAX_ANSWER_BYTES
from tests.support.builders import deployment, model, snapshot
from tests.support.conversations import sse
from tests.support.fake_internet import Internet, Script, answer, refusal, stream
from tests.support.gateway_harness import Client, Play, Rig, player

PRICE = Price(input=1_000_000_000, output=2_000_000_000)  # nano-USD a million tokens: 1 and 2 USD
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1_795_340_000, "model": "m-2026"}
BOTH = pytest.mark.parametrize("streamed", [False, True])


def completes(name: str, **more: Any) -> Any:
    return model(name, deployment(name, mode="completion", price=PRICE, **more))


def embeds(name: str, **more: Any) -> Any:
    return model(name, deployment(name, mode="embedding", price=PRICE, **more))


SETTING = snapshot(model("chats"), completes("a"), completes("b"), embeds("e"), embeds("f"))


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path, SETTING)


async def post(rig: Rig, endpoint: Endpoint, **body: Any) -> Client:
    client = Client(body, rig.secret)
    await rig.gateway.answer(endpoint, client)
    return client


def text(answer_text: str = "hello", *, streamed: bool, usage: Any = USAGE) -> Script:
    def chunk(piece: str, finish: str | None = None) -> dict[str, Any]:
        return {**HEAD, "choices": [{"index": 0, "text": piece, "finish_reason": finish}]}

    if not streamed:
        return answer(orjson.dumps({**chunk(answer_text, "stop"), **({"usage": usage} if usage else {})}))
    last = [{**HEAD, "choices": [], "usage": usage}] if usage else []
    return stream(sse(chunk(answer_text), chunk("", "stop"), *last, b"[DONE]"))


REPORTED = {"prompt_tokens": 5, "total_tokens": 5}


def vectors(*found: Any, usage: Any = REPORTED) -> Script:
    data = [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(found)]
    body = {"object": "list", "data": data, "model": "m-2026", **({"usage": usage} if usage else {})}
    return answer(orjson.dumps(body))


def answer_text(client: Client) -> str:
    if client.headers["content-type"] == "application/json":
        return str(client.json["choices"][0]["text"])
    assert client.events[-1] is None
    return "".join(choice["text"] for event in client.events[:-1] for choice in event["choices"])


# --- completions ---------------------------------------------------------------------------------------------


@BOTH
def test_a_completion_runs_through_the_same_pipeline(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, "completions", prompt="def f(", suffix="return", stream=streamed, user="u")
        assert (client.status, answer_text(client)) == (200, "hello")
        assert internet.asked == ["a#1", "b#1"], "neither chats nor embeddings are candidates"
        assert client.headers["x-proxy-model"] == "b"
        sent = internet.sent[-1]
        assert sent.request.url == "https://b-1.example/v1/completions"
        wanted = {"model": "b-upstream", "prompt": "def f(", "suffix": "return", "user": "u"}
        asked = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
        assert sent.body == {**wanted, **asked}, "no guardrail, no messages"
        row = await rig.row(client)
        assert (row["endpoint"], row["stream"], row["status"], row["basis"]) == (
            "completions",
            streamed,
            "ok",
            "exact",
        )
        assert (row["model"], row["user"], row["cost_usd"]) == ("b", "u", 11 / 1_000_000)
        assert client.headers.get("x-proxy-cost-usd") == (None if streamed else "0.000011")

    internet = Internet(a=[refusal(503)], b=[text(streamed=streamed)])
    play(internet, use, replace(SETTING, routing=replace(SETTING.routing, retries=0)))


def test_the_usage_chunk_is_sent_only_on_request(play: Play) -> None:
    async def use(rig: Rig) -> None:
        plain = await post(rig, "completions", prompt="x", stream=True)
        assert all("usage" not in event for event in plain.events if event)
        asked = {"stream": True, "stream_options": {"include_usage": True}}
        client = await post(rig, "completions", prompt="x", **asked)
        *_, last, done = client.events
        assert done is None
        assert (last["object"], last["choices"], last["usage"]) == ("text_completion", [], USAGE)

    play(Internet(a=[text(streamed=True)]), use)


@BOTH
def test_unreported_usage_is_estimated(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        more = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
        client = await post(rig, "completions", prompt="x" * 40, suffix="y" * 20, **more)
        shown = (client.events[-2] if streamed else client.json)["usage"]
        assert shown == {
            "prompt_tokens": 15,
            "completion_tokens": 2,
            "total_tokens": 17,
            "estimated": True,
        }
        assert not streamed or client.events[-2]["object"] == "text_completion"
        row = await rig.row(client)
        assert (row["basis"], row["prompt_tokens"], row["completion_tokens"]) == ("estimated", 15, 2)

    play(Internet(a=[text(streamed=streamed, usage=None)]), use)


def test_a_cut_stream_ends_with_an_error_and_is_billed(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, "completions", prompt="x", stream=True)
        *_, last = client.events
        assert last["error"]["code"] == "upstream_invalid_response"
        row = await rig.row(client)
        assert (row["status"], row["basis"]) == ("error", "estimated")
        assert row["completion_tokens"] > 0

    piece = {**HEAD, "choices": [{"index": 0, "text": "hel", "finish_reason": None}]}
    play(Internet(a=[stream(sse(piece))]), use)


@pytest.mark.parametrize("name", ["chats", "e", "nobody"])
def test_models_without_completions_are_not_found(play: Play, name: str) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, "completions", model=name, prompt="x", suffix="y")
        assert (client.status, client.json["error"]["code"]) == (404, "model_not_found")
        known = name != "nobody"
        reason = "does not serve completion requests" if known else "does not exist"
        assert reason in client.json["error"]["message"]
        assert internet.asked == []
        assert await rig.rows() == []

    internet = Internet()
    play(internet, use)


def test_chat_models_with_completions_true_are_candidates(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, "completions", prompt="def f(", suffix="return x")
        assert answer_text(client) == "hello"
        assert internet.sent[0].body["prompt"] == "<PRE> def f( <SUF>return x <MID>"
        chatted = await rig.ask(model="both")
        assert chatted.status == 502, "it is a candidate for chats as well"
        assert internet.asked == ["both#1", "both#1"]

    able = deployment("both", provider="vllm", model="CodeLlama-13b", also=frozenset({"completion"}))
    setting = snapshot(model("chats", fallbacks=("both",)), model("both", able))
    internet = Internet(both=[text(streamed=False), answer(b"{}")])
    play(internet, use, replace(setting, routing=replace(setting.routing, retries=0)))


def test_only_deployments_with_completions_count_for_the_hold(play: Play) -> None:
    """A name may have deployments of both kinds; one that cannot be asked needs no price."""

    async def use(rig: Rig) -> None:
        for _ in range(4):
            assert (
                answer_text(await post(rig, "completions", model="m", prompt="x", max_tokens=20)) == "hello"
            )
        assert set(internet.asked) == {"m#1"}

    able = deployment("m", 1, provider="vllm", price=PRICE, also=frozenset({"completion"}))
    unpriced = deployment("m", 2)
    internet = Internet(m=[text(streamed=False)])
    budget = {**SETTING.limits, "project": Limits(max_budget=10**9)}
    play(internet, use, snapshot(model("m", able, unpriced), model("other"), limits=budget))


def test_a_budget_bounds_every_answer_of_every_prompt(play: Play) -> None:
    """2 USD a million tokens: 2000 tokens and the prompt fit into 0.0042 USD, shared by 2 x 2 answers."""

    async def use(rig: Rig) -> None:
        client = await post(rig, "completions", model="a", prompt=["x", "y"], n=2, max_tokens=5000)
        assert client.status == 200
        bound = int(client.headers["x-proxy-max-tokens"])
        assert internet.sent[0].body["max_tokens"] == bound
        assert 400 < bound <= 525

    internet = Internet(a=[text(streamed=False)])
    budget = {**SETTING.limits, "project": Limits(max_budget=4_200_000)}
    play(internet, use, replace(SETTING, limits=budget))


# --- embeddings ----------------------------------------------------------------------------------------------


def test_embeddings_run_through_the_same_pipeline(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, "embeddings", input=["x", "y"], dimensions=2, user="u")
        assert client.status == 200
        assert [one["embedding"] for one in client.json["data"]] == [[1.0, 2.0], [3.0, 4.0]]
        assert internet.asked == ["e#1", "f#1"]
        sent = internet.sent[-1]
        assert sent.request.url == "https://f-1.example/v1/embeddings"
        assert sent.body == {"model": "f-upstream", "input": ["x", "y"], "dimensions": 2, "user": "u"}
        row = await rig.row(client)
        assert (row["endpoint"], row["model"], row["basis"]) == ("embeddings", "f", "exact")
        assert (row["prompt_tokens"], row["completion_tokens"]) == (5, 0)
        assert row["cost_usd"] == 5 / 1_000_000
        assert client.headers["x-proxy-cost-usd"] == "0.000005"

    internet = Internet(e=[refusal(429, retry_after="60")], f=[vectors([1.0, 2.0], [3.0, 4.0])])
    play(internet, use)


def test_vectors_have_the_requested_encoding(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, "embeddings", input="x", encoding_format="base64")
        raw = base64.b64decode(client.json["data"][0]["embedding"])
        assert struct.unpack("<2f", raw) == (0.5, -2.0)

    play(Internet(e=[vectors([0.5, -2.0])]), use)


def test_many_long_vectors_fit_into_one_answer(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, "embeddings", input=["x"] * 4, encoding_format="base64")
        assert client.status == 200
        assert len(client.data) > MAX_ANSWER_BYTES

    long = base64.b64encode(bytes(MAX_ANSWER_BYTES // 4)).decode()
    play(Internet(e=[vectors(*[long] * 4)]), use)


def test_embeddings_without_usage_are_estimated(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, "embeddings", input=["x" * 40, "y" * 8])
        assert client.json["usage"] == {"prompt_tokens": 12, "total_tokens": 12, "estimated": True}
        row = await rig.row(client)
        assert (row["basis"], row["prompt_tokens"], row["cost_usd"]) == ("estimated", 12, 12 / 1_000_000)
        ids = await post(rig, "embeddings", input=[[1, 2, 3], [4]])
        assert ids.json["usage"]["prompt_tokens"] == 4

    play(Internet(e=[vectors([1.0], [1.0], usage=None)]), use)


def test_a_budget_holds_the_input_of_embeddings_without_max_tokens(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, "embeddings", input="x" * 100)
        assert client.status == 200
        assert "x-proxy-max-tokens" not in client.headers
        assert "max_tokens" not in internet.sent[0].body
        large = await post(rig, "embeddings", input="x" * 2000)
        assert (large.status, large.json["error"]["code"]) == (429, "insufficient_quota")

    internet = Internet(e=[vectors([1.0])])
    budget = {**SETTING.limits, "project": Limits(max_budget=1_000_000)}  # a thousand tokens of input
    play(internet, use, replace(SETTING, limits=budget))


def test_token_ids_are_decoded_for_text_only_providers(play: Play, tmp_path: Path) -> None:
    file, _ = FILES["cl100k_base"]
    seeded = Path(sys.prefix) / "share" / "tiktoken" / file
    if not seeded.exists():
        pytest.skip("no tokenizer files")
    (tmp_path / file).symlink_to(seeded)

    async def use(rig: Rig) -> None:
        client = await post(rig, "embeddings", input=[[9906, 11], [1917]])
        assert client.status == 200
        assert internet.sent[0].body["input"] == [[9906, 11], [1917]], "the first takes ids"
        assert internet.sent[1].body["input"] == ["Hello,", " world"]

    internet = Internet(e=[refusal(429, retry_after="60")], f=[vectors([1.0], [1.0])])
    setting = snapshot(embeds("e"), embeds("f", provider="mistral"))
    play(internet, use, setting)


def test_undecodable_token_ids_are_refused_by_name(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, "embeddings", input=[[2**31 - 1]])
        assert (client.status, client.json["error"]["param"]) == (400, "input")
        assert client.json["error"]["code"] == "unsupported_parameter"
        assert internet.asked == []
        assert (await rig.row())["cost_usd"] == 0

    internet = Internet()
    play(internet, use, snapshot(embeds("f", provider="mistral")))


@pytest.mark.parametrize("name", ["chats", "a", "nobody"])
def test_models_without_embeddings_are_not_found(play: Play, name: str) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, "embeddings", model=name, input="x")
        assert (client.status, client.json["error"]["code"]) == (404, "model_not_found")

    play(Internet(), use)


# --- all of them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["completions", "embeddings"])
def test_key_permissions_apply_to_every_endpoint(play: Play, endpoint: Endpoint) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, endpoint, prompt="x", input="x")
        assert client.status == 404
        assert internet.asked == []

    internet = Internet()
    play(internet, use, replace(SETTING, projects={"team": Project("team", models=("chats",))}))


def test_completions_and_embeddings_are_not_cached(play: Play) -> None:
    async def use(rig: Rig) -> None:
        for prompt in ("x", "x", "y"):
            assert answer_text(await post(rig, "completions", prompt=prompt)) == "hello"
        assert (await post(rig, "embeddings", input="x")).headers["x-proxy-cache"] == "off"
        assert internet.asked == ["a#1", "a#1", "a#1", "e#1"]

    internet = Internet(a=[text(streamed=False)], e=[vectors([1.0])])
    play(internet, use, replace(SETTING, cache=Cache(enabled=True)))


# --- attempts that failed ------------------------------------------------------------------------------------

ASKED: dict[Endpoint, dict[str, Any]] = {
    "completions": {"model": "a", "prompt": "def f(", "max_tokens": 9},
    "embeddings": {"model": "e", "input": "hello"},
}


def answers_of(endpoint: Endpoint) -> Script:
    if endpoint == "completions":
        return text(streamed=False)
    data = [{"object": "embedding", "index": 0, "embedding": [1.0]}]
    return answer(orjson.dumps({"object": "list", "data": data, "model": "m", "usage": REPORTED}))


@pytest.mark.parametrize("endpoint", ASKED)
def test_a_failed_attempt_is_booked_with_the_successful_one(play: Play, endpoint: Endpoint) -> None:
    async def use(rig: Rig) -> None:
        client = await post(rig, endpoint, **ASKED[endpoint])
        row = await rig.row(client)
        *failed, served = row["attempts"]
        assert {one["basis"] for one in failed} == {"ambiguous"} == {row["basis"]}
        assert all(one["prompt_tokens"] > 0 for one in failed)
        assert (served["prompt_tokens"], served["basis"]) == (5, "exact")
        for name in ("prompt_tokens", "completion_tokens"):
            assert row[name] == sum(one[name] for one in row["attempts"])
        assert row["cost_usd"] == pytest.approx(sum(one["cost_usd"] for one in row["attempts"]))
        assert float(client.headers["x-proxy-cost-usd"]) == pytest.approx(row["cost_usd"])

    lost, good = ConnectionLostError("gone"), answers_of(endpoint)
    play(Internet(a=[lost], b=[good], e=[lost], f=[good]), use)


@pytest.mark.parametrize("endpoint", ASKED)
def test_an_answer_is_completed_and_booked_after_a_disconnect(play: Play, endpoint: Endpoint) -> None:
    async def use(rig: Rig) -> None:
        client = Client(ASKED[endpoint], rig.secret)
        task = asyncio.create_task(rig.gateway.answer(endpoint, client))
        while not rig.internet.asked:
            await asyncio.sleep(0)
        client.leave(task)
        await asyncio.gather(task, return_exceptions=True)
        row = await rig.row()
        assert (row["status"], row["http_status"], row["basis"]) == ("cancelled", 499, "exact")
        assert row["prompt_tokens"] == 5

    script = answers_of(endpoint)
    late = Script((0.02, *script.pieces), script.status, script.headers)
    play(Internet(a=[late], b=[], e=[late], f=[]), use)
