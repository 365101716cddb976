"""Similar requests: who may be answered from whose answer, and how little can go wrong."""

import asyncio
import math
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.cache.semantic.embeddings import numbers_of
from codellama_proxy.cache.vectors import MAX_SHORTLIST, shortlist, similarity, vector
from codellama_proxy.core.snapshot import Cache, Limits, Price, Project, Snapshot
from codellama_proxy.tokens import tokenizers as tokens
from codellama_proxy.upstream.dial import DialError
from tests.support.builders import deployment, model, snapshot
from tests.support.dialogues import OPENAI
from tests.support.fake_internet import HANG, Internet, Script, answer, good, refusal, stream
from tests.support.gateway_harness import Client, Rig, run

TEXT = OPENAI.answers["text"]
Use = Callable[[Rig], Awaitable[None]]
Play = Callable[..., None]

# --- vectors -------------------------------------------------------------------------------------------------

NUMBERS = st.lists(st.floats(-1, 1, width=32), min_size=8, max_size=8)


def pointing(*numbers: float) -> Any:
    found = vector(numbers)
    assert found is not None
    return found


@given(NUMBERS, NUMBERS)
def test_similarity_is_the_cosine_of_the_vectors(one: list[float], other: list[float]) -> None:
    first, second = vector(one), vector(other)
    if first is None or second is None:
        return
    cosine = sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)
    assert similarity(first, second.numbers) == pytest.approx(cosine, abs=1e-5)


@given(NUMBERS)
def test_a_vector_has_similarity_1_to_its_multiples(numbers: list[float]) -> None:
    one = vector(numbers)
    if one is not None:
        twice = pointing(*(2 * number for number in numbers))
        assert similarity(one, twice.numbers) == pytest.approx(1, abs=1e-5)
        assert twice.signs == one.signs


@pytest.mark.parametrize("numbers", [[], [0.0, 0.0], [math.inf, 1.0], [math.nan]])
def test_a_vector_without_direction_is_invalid(numbers: list[float]) -> None:
    assert vector(numbers) is None


def test_vectors_of_different_dimensions_are_not_similar() -> None:
    assert similarity(pointing(1, 2), pointing(1, 2, 3).numbers) == 0
    assert shortlist(pointing(*[1] * 8).signs, [(b"longer", pointing(*[1] * 9).signs)]) == []


@given(st.integers(0, 2**32))
def test_the_shortlist_has_the_most_similar_vectors(seed: int) -> None:
    random = Random(seed)

    def near(numbers: list[float], noise: float) -> list[float]:
        return [number + random.gauss(0, noise) for number in numbers]

    wanted = [random.gauss(0, 1) for _ in range(64)]
    others = [(b"%d" % n, pointing(*near([0.0] * 64, 1)).signs) for n in range(300)]
    others.insert(random.randrange(300), (b"alike", pointing(*near(wanted, 0.2)).signs))
    found = shortlist(pointing(*wanted).signs, others)
    assert b"alike" in found
    assert len(found) == MAX_SHORTLIST


def test_vectors_are_read_from_numbers_or_base64() -> None:
    assert list(numbers_of(b'{"data": [{"embedding": [1, 0.5]}]}')) == [1.0, 0.5]
    assert list(numbers_of(b'{"data": [{"embedding": "AACAPwAAAD8="}]}')) == [1.0, 0.5]


@pytest.mark.parametrize(
    "body",
    [b"{", b"{}", b'{"data": []}', b'{"data": [{"embedding": "?"}]}', b'{"data": [{"embedding": [null]}]}'],
)
def test_an_invalid_vector_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        numbers_of(body)


# --- the embeddings back end ---------------------------------------------------------------------------------

MEANING = {
    "hello": [1.0, 0.0, 0.1],
    "hi there": [1.0, 0.05, 0.1],
    "how do I sort a list?": [0.0, 1.0, 0.0],
    "long": [1.0, 0.0, 0.1, 0.0],
    "nothing": [0.0, 0.0, 0.0],
}


class EmbeddingInternet(Internet):
    """An internet whose model `emb` knows what texts mean."""

    failing: Script | Exception | None = answer(b"{}")
    """How `emb` fails, while it does."""
    fails = False
    reports = True
    """Whether it says how many tokens it read."""

    def next_of(self, deployment: str) -> Script | Exception | None:
        if deployment != "emb#1":
            return super().next_of(deployment)
        if self.fails:
            return self.failing
        text = self.sent[-1].body["input"]
        one = {
            "object": "embedding",
            "index": 0,
            "embedding": MEANING[text if isinstance(text, str) else text[0]],
        }
        usage = {"usage": {"prompt_tokens": 1}} if self.reports else {}
        return answer(orjson.dumps({"object": "list", "data": [one], **usage}))

    @property
    def embedding_calls(self) -> int:
        return self.asked.count("emb#1")

    @property
    def answers(self) -> int:
        return len(self.asked) - self.embedding_calls


def setting(**changes: Any) -> Snapshot:
    semantic = {"backend": "embeddings", "model": "emb", "threshold": 0.95}
    models = [
        model("a", deployment("a", price=Price(10**9, 10**9))),
        model("b"),
        model("emb", deployment("emb", mode="embedding")),
    ]
    plain = snapshot(*models, cache=Cache(semantic=semantic))
    return replace(plain, **changes)


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return lambda internet, use, where=None: run(tmp_path, where or setting(), internet, use)


@pytest.fixture
def internet() -> EmbeddingInternet:
    return EmbeddingInternet(a=[good(streamed=False)], b=[good(streamed=False)], emb=[])


async def ask(rig: Rig, text: str, **more: Any) -> Client:
    earlier = more.pop("earlier", [])
    return await rig.ask(messages=[*earlier, {"role": "user", "content": text}], **more)


async def wait_until_stored(rig: Rig) -> None:
    """Returns when what was learned is written."""
    await asyncio.gather(*rig.cache_lookup._keeper.tasks)
    await rig.answers.read(lambda _: None)


async def chats(rig: Rig) -> list[dict[str, Any]]:
    return [row for row in await rig.rows() if row["endpoint"] == "chat/completions"]


async def embedding_rows(rig: Rig) -> list[dict[str, Any]]:
    """What finding out about similar ones cost."""
    return [row for row in await rig.rows() if row["endpoint"] == "embeddings"]


def cache_result(client: Client) -> str:
    assert client.status == 200, client.data
    return client.headers["x-proxy-cache"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_similar_request_gets_the_answer(play: Play, internet: EmbeddingInternet, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        assert cache_result(await ask(rig, "hello")) == "miss"
        await wait_until_stored(rig)
        client = await ask(rig, "hi there", stream=streamed)
        assert (cache_result(client), client.answer_text) == ("semantic", TEXT.text)
        assert 0.95 < float(client.headers["x-proxy-similarity"]) < 1
        assert internet.answers == 1
        row, paid = await chats(rig)
        assert (row["cache"], row["basis"], row["cost_usd"]) == ("semantic", "cached", 0)
        assert row["saved_usd"] == paid["cost_usd"] > 0

    play(internet, use)


def test_a_dissimilar_request_is_a_miss(play: Play, internet: EmbeddingInternet) -> None:
    async def use(rig: Rig) -> None:
        await ask(rig, "hello")
        await wait_until_stored(rig)
        client = await ask(rig, "how do I sort a list?")
        assert cache_result(client) == "miss"
        assert "x-proxy-similarity" not in client.headers

    play(internet, use)


def test_an_identical_request_needs_no_embedding(play: Play, internet: EmbeddingInternet) -> None:
    async def use(rig: Rig) -> None:
        await ask(rig, "hello")
        assert cache_result(await ask(rig, "hello")) == "hit"
        assert internet.embedding_calls == 1

    play(internet, use)


SYSTEM = [{"role": "system", "content": "Be brief."}]
TURNS = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]


@pytest.mark.parametrize(
    "difference",
    [
        {"earlier": SYSTEM},
        {"earlier": TURNS},
        {"temperature": 0.2},
        {"max_tokens": 9},
        {"model": "b"},
        {"response_format": {"type": "json_object"}},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_requests_that_differ_before_the_last_turn_are_not_compared(
    play: Play, internet: EmbeddingInternet, difference: dict[str, Any]
) -> None:
    async def use(rig: Rig) -> None:
        await ask(rig, "hello")
        await wait_until_stored(rig)
        assert cache_result(await ask(rig, "hi there", **difference)) == "miss"
        await wait_until_stored(rig)
        assert cache_result(await ask(rig, "hi there", **difference)) == "hit"

    play(internet, use)


@pytest.mark.parametrize(
    ("scope", "project", "expected"),
    [
        ("project", "team", "semantic"),
        ("project", "other", "miss"),
        ("key", "team", "miss"),
        ("global", "other", "semantic"),
        ("global", "poets", "miss"),
    ],
)
def test_answers_of_another_scope_or_guardrail_are_not_used(
    play: Play, internet: EmbeddingInternet, scope: Any, project: str, expected: str
) -> None:
    async def use(rig: Rig) -> None:
        await ask(rig, "hello")
        await wait_until_stored(rig)
        assert cache_result(await ask(rig, "hi there", secret=await rig.key(project=project))) == expected

    where = setting(projects={"poets": Project("poets", guardrail="Only rhymes.")})
    play(internet, use, replace(where, cache=replace(where.cache, scope=scope)))


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
        {"cache": {"no-cache": True}},
    ],
    ids=["tools", "image", "no-cache"],
)
def test_requests_with_tools_or_images_are_never_compared(
    play: Play, internet: EmbeddingInternet, body: dict[str, Any]
) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask(**body)
        assert internet.embedding_calls == 0

    play(internet, use)


def test_stored_vectors_survive_a_restart(tmp_path: Path, internet: EmbeddingInternet) -> None:
    async def first(rig: Rig) -> None:
        await ask(rig, "hello")

    async def second(rig: Rig) -> None:
        assert cache_result(await ask(rig, "hi there")) == "semantic"

    run(tmp_path, setting(), internet, first)
    run(tmp_path, setting(), EmbeddingInternet(a=[refusal(500)], b=[], emb=[]), second)


@pytest.mark.parametrize(
    "failing",
    [answer(b"{"), answer(b'{"data": []}'), refusal(500), DialError("no"), stream(HANG)],
    ids=["garbage", "empty", "500", "down", "silent"],
)
def test_a_failing_embedding_model_is_a_miss_and_is_skipped_for_a_while(
    play: Play, internet: EmbeddingInternet, failing: Any
) -> None:
    async def use(rig: Rig) -> None:
        internet.fails, internet.failing = True, failing
        assert cache_result(await ask(rig, "hello")) == "miss"
        embedding_calls = internet.embedding_calls
        assert cache_result(await ask(rig, "hi there")) == "miss"
        assert internet.embedding_calls == embedding_calls
        assert rig.answers.troubles["embedding"] == 1
        internet.fails = False
        rig.clock.now += 700
        assert cache_result(await ask(rig, "hello", seed=1)) == "miss"
        assert internet.embedding_calls == embedding_calls + 1
        assert [row["status"] for row in await chats(rig)] == ["ok"] * 3

    play(internet, use)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_text_does_not_disable_the_embedding_model(
    play: Play, internet: EmbeddingInternet, status: int
) -> None:
    async def use(rig: Rig) -> None:
        internet.fails, internet.failing = True, refusal(status)
        assert cache_result(await ask(rig, "hello")) == "miss"
        internet.fails = False
        embedding_calls = internet.embedding_calls
        assert cache_result(await ask(rig, "hi there")) == "miss"
        assert internet.embedding_calls == embedding_calls + 1

    play(internet, use)


@pytest.mark.parametrize("text", ["long", "nothing"])
def test_an_incomparable_vector_is_a_miss(play: Play, internet: EmbeddingInternet, text: str) -> None:
    async def use(rig: Rig) -> None:
        await ask(rig, "hello")
        await wait_until_stored(rig)
        assert cache_result(await ask(rig, text)) == "miss"

    play(internet, use)


@pytest.mark.parametrize(
    "damage",
    [
        "update vectors set numbers = x'00'",
        "update vectors set signs = x''",
        "delete from vectors",
        "drop table vectors",
    ],
)
def test_damaged_vectors_are_a_miss(
    play: Play, internet: EmbeddingInternet, tmp_path: Path, damage: str
) -> None:
    async def use(rig: Rig) -> None:
        await ask(rig, "hello")
        await wait_until_stored(rig)
        with closing(sqlite3.connect(tmp_path / "proxy-cache.db")) as db, db:
            db.execute(damage)
        assert cache_result(await ask(rig, "hi there")) == "miss"

    play(internet, use)


def test_concurrent_identical_requests_are_embedded_once(play: Play, internet: EmbeddingInternet) -> None:
    async def use(rig: Rig) -> None:
        clients = [rig.client(messages=[{"role": "user", "content": "hello"}]) for _ in range(9)]
        await asyncio.gather(*(rig.gateway.answer("chat/completions", client) for client in clients))
        assert (internet.embedding_calls, internet.answers) == (1, 1)

    play(internet, use)


def test_vectors_of_another_model_are_not_compared(play: Play, internet: EmbeddingInternet) -> None:
    async def use(rig: Rig) -> None:
        await ask(rig, "hello")
        await wait_until_stored(rig)
        newer = model("emb", deployment("emb", mode="embedding", model="newer"))
        rig.setting = replace(rig.setting, models={**rig.setting.models, "emb": newer})
        assert cache_result(await ask(rig, "hi there")) == "miss"

    play(internet, use)


# --- what thinking costs -------------------------------------------------------------------------------------

FREE = model("b", deployment("b", price=Price(0, 0)))
DEAR = model("emb", deployment("emb", mode="embedding", price=Price(10**9, 0)))
"""1 000 nano-USD for each token, of which every text has one."""


def limited(where: Snapshot, **of_project: Any) -> Snapshot:
    every = {"global": Limits(), "project": Limits(**of_project), "key": Limits(), "user": Limits()}
    return replace(where, limits=every, models={**where.models, "b": FREE, "emb": DEAR})


def test_an_embedding_is_booked_to_the_caller(play: Play, internet: EmbeddingInternet) -> None:
    async def use(rig: Rig) -> None:
        await ask(rig, "hello", user="mira")
        (row,) = await embedding_rows(rig)
        (chat,) = await chats(rig)
        assert row["cost_usd"] == 1000 / 10**9
        assert row["prompt_tokens"] == 1
        same = ("project", "key_id", "user", "config", "status", "http_status", "basis")
        assert [row[name] for name in same] == [chat[name] for name in same]
        assert (row["model_requested"], row["model"], row["deployment"]) == ("emb", "emb", "emb#1")
        assert row["request_id"].removeprefix("emb_") == chat["request_id"].removeprefix("req_")

    play(internet, use, limited(setting()))


def test_a_shared_embedding_is_booked_once(play: Play, internet: EmbeddingInternet) -> None:
    async def use(rig: Rig) -> None:
        clients = [rig.client(messages=[{"role": "user", "content": "hello"}]) for _ in range(9)]
        await asyncio.gather(*(rig.gateway.answer("chat/completions", client) for client in clients))
        assert len(await embedding_rows(rig)) == 1
        assert len(await chats(rig)) == 9

    play(internet, use)


def test_an_embedding_that_exceeds_the_budget_is_a_miss(play: Play, internet: EmbeddingInternet) -> None:
    async def use(rig: Rig) -> None:
        assert cache_result(await ask(rig, "hello", model="b")) == "miss"
        assert internet.embedding_calls == 0
        assert [row["model"] for row in await rig.rows()] == ["b"]
        assert not rig.answers.troubles, "nobody failed"

    play(internet, use, limited(setting(), max_budget=1000))


def test_under_a_budget_an_unpriced_embedding_model_is_not_called(
    play: Play, internet: EmbeddingInternet
) -> None:
    async def use(rig: Rig) -> None:
        assert cache_result(await ask(rig, "hello")) == "miss"
        assert internet.embedding_calls == 0

    where = limited(setting(), max_budget=10**12)
    play(internet, use, replace(where, models={**where.models, "emb": setting().models["emb"]}))


def test_a_rate_limited_request_is_not_embedded(play: Play, internet: EmbeddingInternet) -> None:
    async def use(rig: Rig) -> None:
        assert cache_result(await ask(rig, "hello")) == "miss"
        refused = await ask(rig, "how do I sort a list?")
        assert (refused.status, internet.embedding_calls) == (429, 1)

    play(internet, use, limited(setting(), rpm_limit=1))


def test_a_request_and_its_embedding_count_as_one_request(play: Play, internet: EmbeddingInternet) -> None:
    async def use(rig: Rig) -> None:
        for left, text in ((1, "hello"), (0, "how do I sort a list?")):
            client = await ask(rig, text)
            assert (client.status, client.headers["x-ratelimit-remaining-requests"]) == (200, str(left))
        assert internet.embedding_calls == 2

    play(internet, use, limited(setting(), rpm_limit=2))


def test_an_embedding_is_settled_before_its_request_is_admitted(
    play: Play, internet: EmbeddingInternet
) -> None:
    async def use(rig: Rig) -> None:
        assert cache_result(await ask(rig, "hello")) == "miss"
        await wait_until_stored(rig)
        assert cache_result(await ask(rig, "hi there")) == "semantic"

    play(internet, use, limited(setting(), max_parallel_requests=1))


def test_a_failed_embedding_is_booked_at_its_input(play: Play, internet: EmbeddingInternet) -> None:
    async def use(rig: Rig) -> None:
        internet.fails, internet.failing = True, stream(HANG)
        assert cache_result(await ask(rig, "hello")) == "miss"
        (row,) = await embedding_rows(rig)
        assert (row["status"], row["basis"], row["http_status"]) == ("error", "ambiguous", 504)
        assert row["cost_usd"] > 0

    play(internet, use, limited(setting()))


def test_an_embedding_without_usage_is_settled_before_its_request(
    play: Play, internet: EmbeddingInternet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, directory: Path) -> None:
        """There are no vocabularies, and finding that out takes long."""
        time.sleep(0.1)

    monkeypatch.setattr(tokens, "load", load)

    async def use(rig: Rig) -> None:
        internet.reports = False
        assert cache_result(await ask(rig, "hello")) == "miss"
        (row,) = await embedding_rows(rig)
        assert (row["status"], row["basis"]) == ("ok", "estimated")
        assert row["cost_usd"] > 0

    play(internet, use, limited(setting(), max_parallel_requests=1))


def test_only_embedding_deployments_are_asked_for_vectors(play: Play, internet: EmbeddingInternet) -> None:
    both = model("emb", deployment("emb", 2), deployment("emb", 1, mode="embedding"))

    async def use(rig: Rig) -> None:
        for text in ("hello", "how do I sort a list?", "long"):
            assert cache_result(await ask(rig, text)) == "miss"
        assert set(internet.asked) == {"a#1", "emb#1"}

    play(internet, use, replace(setting(), models={**setting().models, "emb": both}))


# --- the GPTCache back end -----------------------------------------------------------------------------------


class GptCacheInternet(Internet):
    """An internet with a GPTCache server, as forgetful of who asked as the real one."""

    broken: Script | Exception | None = answer(b"{}")
    breaks = False

    def __init__(self, **scripts: Any) -> None:
        super().__init__(**scripts, gptcache=[])
        self.wait_until_stored: list[tuple[str, str]] = []
        self.finds: Callable[[str, str], bool] = lambda wait_until_stored, asked: wait_until_stored == asked

    def next_of(self, deployment: str) -> Script | Exception | None:
        if deployment != "gptcache#1":
            return super().next_of(deployment)
        if self.breaks:
            return self.broken
        sent = self.sent[-1]
        if sent.request.url.endswith("/put"):
            self.wait_until_stored.append((sent.body["prompt"], sent.body["answer"]))
            return answer(b'"successfully update the cache"')
        found = next(
            (
                answer_text
                for prompt, answer_text in self.wait_until_stored
                if self.finds(prompt, sent.body["prompt"])
            ),
            None,
        )
        prompt = sent.body["prompt"] if found else "unknown"
        return answer(orjson.dumps({"prompt": prompt, "answer": found}))

    @property
    def answers(self) -> int:
        return sum(one.deployment == "a#1" for one in self.sent)


GPTCACHE: Mapping[str, Any] = {"backend": "gptcache", "url": "http://127.0.0.1:8000/", "threshold": 0.95}


@pytest.fixture
def play_gptcache(tmp_path: Path) -> Play:
    where = snapshot(model("a"), cache=Cache(semantic=GPTCACHE))
    return lambda internet, use, at=where: run(tmp_path, at, internet, use)


@pytest.fixture
def remembering() -> GptCacheInternet:
    return GptCacheInternet(a=[good(streamed=False)])


async def forget(rig: Rig) -> None:
    """Leaves only what GPTCache knows."""
    await wait_until_stored(rig)
    await rig.answers.read(lambda db: db.execute("delete from answers").rowcount)
    rig.answers.memory.clear()


def test_gptcache_returns_a_stored_answer(play_gptcache: Play, remembering: GptCacheInternet) -> None:
    async def use(rig: Rig) -> None:
        assert cache_result(await ask(rig, "hello")) == "miss"
        await forget(rig)
        client = await ask(rig, "hello", stream=True)
        assert (cache_result(client), client.answer_text) == ("semantic", TEXT.text)
        assert client.headers["x-proxy-similarity"] == "1.0000"
        assert remembering.answers == 1

    play_gptcache(remembering, use)


def test_a_gptcache_hit_has_no_similarity(play_gptcache: Play, remembering: GptCacheInternet) -> None:
    async def use(rig: Rig) -> None:
        remembering.finds = lambda wait_until_stored, asked: (
            wait_until_stored.partition("\n")[0] == asked.partition("\n")[0]
        )
        await ask(rig, "hello")
        await wait_until_stored(rig)
        client = await ask(rig, "hi there")
        assert cache_result(client) == "semantic"
        assert "x-proxy-similarity" not in client.headers

    play_gptcache(remembering, use)


def test_a_gptcache_answer_of_another_scope_is_ignored(
    play_gptcache: Play, remembering: GptCacheInternet
) -> None:
    async def use(rig: Rig) -> None:
        remembering.finds = lambda _kept, _asked: True
        await ask(rig, "hello")
        await wait_until_stored(rig)
        assert cache_result(await ask(rig, "hello", secret=await rig.key(project="other"))) == "miss"
        assert cache_result(await ask(rig, "hi there", temperature=0)) == "miss"
        assert rig.answers.troubles["envelope"] == 2

    play_gptcache(remembering, use)


def test_a_gptcache_answer_expires(play_gptcache: Play, remembering: GptCacheInternet) -> None:
    async def use(rig: Rig) -> None:
        rig.wall = 3600.0 * 1000
        remembering.finds = lambda _kept, _asked: True
        await ask(rig, "hello", cache={"ttl": 60})
        await forget(rig)
        rig.wall += 59
        assert cache_result(await ask(rig, "hello", cache={"no-store": True, "s-maxage": 10})) == "miss"
        assert cache_result(await ask(rig, "hello", cache={"no-store": True})) == "semantic"
        rig.wall += 1
        assert cache_result(await ask(rig, "hello", cache={"no-store": True})) == "miss"

    play_gptcache(remembering, use)


def test_gptcache_prompts_change_with_each_ttl_period(
    play_gptcache: Play, remembering: GptCacheInternet
) -> None:
    async def use(rig: Rig) -> None:
        rig.wall = 3600.0 * 1000
        await ask(rig, "hello")
        await wait_until_stored(rig)
        rig.wall += 3600
        await ask(rig, "hello")
        await wait_until_stored(rig)
        first, second = (prompt for prompt, _ in remembering.wait_until_stored)
        assert first != second
        assert first.endswith("\nhello")

    play_gptcache(remembering, use)


@pytest.mark.parametrize(
    "answer_text",
    [
        "an answer somebody else put there",
        "{}",
        "[]",
        '{"v": 1}',
        '{"v": 99, "ns": "x", "exp": 9e99, "response": "{}"}',
    ],
)
def test_a_gptcache_answer_without_our_envelope_is_a_miss(
    play_gptcache: Play, remembering: GptCacheInternet, answer_text: str
) -> None:
    async def use(rig: Rig) -> None:
        remembering.wait_until_stored.append(("", answer_text))
        remembering.finds = lambda _kept, _asked: True
        assert cache_result(await ask(rig, "hello")) == "miss"
        assert rig.answers.troubles["envelope"] == 1

    play_gptcache(remembering, use)


@pytest.mark.parametrize(
    "broken",
    [
        answer(b"<html>"),
        answer(b'{"detail": "no"}', status=422),
        answer(b"x" * (5 << 20)),
        DialError("down"),
        None,
        answer(HANG),
    ],
    ids=["html", "422", "endless", "down", "silent", "stalled"],
)
def test_a_failing_gptcache_is_a_miss_and_is_skipped_for_a_while(
    play_gptcache: Play, remembering: GptCacheInternet, broken: Any
) -> None:
    async def use(rig: Rig) -> None:
        remembering.breaks, remembering.broken = True, broken
        assert cache_result(await ask(rig, "hello")) == "miss"
        await wait_until_stored(rig)
        asked = len(remembering.sent)
        assert cache_result(await ask(rig, "hi there")) == "miss"
        assert [one.deployment for one in remembering.sent[asked:]] == ["a#1"], "left alone"
        assert rig.answers.troubles["gptcache"] == 1
        remembering.breaks = False
        rig.clock.now += 31
        await ask(rig, "hello", seed=1)
        assert remembering.sent[-2].deployment == "gptcache#1" or remembering.sent[-1].deployment != "a#1"

    play_gptcache(remembering, use)
