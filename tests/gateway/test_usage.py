"""What is booked of the usage that upstreams report, plain and streamed."""

from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.core.snapshot import Limits, Price, Tariff
from tests.support.builders import deployment, model, snapshot
from tests.support.dialogues import chunk, sse, whole
from tests.support.fake_internet import Internet, Script, answer, stream
from tests.support.gateway_harness import Play, Rig, player

PRICE = Price(
    input=2_000_000_000,
    output=8_000_000_000,
    cached_input=200_000_000,
    above=((200_000, Tariff(4_000_000_000, 12_000_000_000)),),
)
SETTING = snapshot(model("a", deployment("a", price=PRICE)))
BOTH = pytest.mark.parametrize("streamed", [False, True])
SAID = {"role": "assistant", "content": "four words of text"}
COUNTED = 5
"""Its tokens, estimated: the rig has no vocabulary."""


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path, SETTING)


def telling(usage: dict[str, Any] | None, *, streamed: bool) -> Script:
    """An answer that ends with this report."""
    if not streamed:
        return answer(whole(SAID, usage=usage))
    last = {**chunk({}), "choices": [], "usage": usage}
    return stream(sse(chunk(SAID), chunk({}, "stop"), last, b"[DONE]"))


@BOTH
@pytest.mark.parametrize(
    ("usage", "booked", "cost"),
    [
        (
            {
                "prompt_tokens": 36,
                "completion_tokens": 10,
                "total_tokens": 736,
                "completion_tokens_details": {"reasoning_tokens": 690},
            },
            ("exact", 36, 700, 0),
            0.005672,
        ),
        (
            {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010, "cached_tokens": 900},
            ("exact", 1000, 10, 900),
            0.00046,
        ),
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 10,
                "prompt_cache_hit_tokens": 900,
                "prompt_cache_miss_tokens": 100,
            },
            ("exact", 1000, 10, 900),
            0.00046,
        ),
        (
            {"prompt_tokens": 300_000, "completion_tokens": 1000, "total_tokens": 301_000},
            ("exact", 300_000, 1000, 0),
            1.212,
        ),
    ],
)
def test_every_usage_format_is_booked_correctly(
    play: Play, streamed: bool, usage: dict[str, Any], booked: tuple[Any, ...], cost: float
) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=streamed))
        names = ("basis", "prompt_tokens", "completion_tokens", "cached_tokens")
        assert tuple(row[name] for name in names) == booked
        assert row["cost_usd"] == pytest.approx(cost, abs=1e-12)

    play(Internet(a=[telling(usage, streamed=streamed)]), use)


@BOTH
@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 0, "completion_tokens": 6, "total_tokens": 6},
        {"prompt_tokens": 20, "completion_tokens": 0},
        {"completion_tokens": 6},
        {"prompt_tokens": None, "completion_tokens": 0},
    ],
)
def test_missing_usage_fields_are_estimated(play: Play, streamed: bool, usage: dict[str, Any]) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed)
        row = await rig.row(client)
        assert (row["status"], row["basis"]) == ("ok", "estimated")
        assert row["prompt_tokens"] == (usage.get("prompt_tokens") or row["prompt_tokens"]) > 0
        assert row["completion_tokens"] == (usage.get("completion_tokens") or COUNTED) > 0
        if not streamed:
            assert float(client.headers["x-proxy-cost-usd"]) == row["cost_usd"] > 0

    play(Internet(a=[telling(usage, streamed=streamed)]), use)


@BOTH
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_impossible_usage_is_booked_at_the_upper_bound(play: Play, streamed: bool, name: str) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=streamed, max_tokens=50))
        assert 0 < row["prompt_tokens"] < 2000
        assert 0 < row["completion_tokens"] <= 50
        assert row["basis"] == "estimated"

    usage = {"prompt_tokens": 20, "completion_tokens": 7, name: 999_999_999}
    play(Internet(a=[telling(usage, streamed=streamed)]), use)


def reporting(answer_text: str = "x", **usage: Any) -> Script:
    return answer(whole({"role": "assistant", "content": answer_text}, usage=usage))


REJECTED = {
    "prompt_tokens": 300,
    "completion_tokens": 60_020,
    "completion_tokens_details": {"rejected_prediction_tokens": 60_000},
}
BESIDE = {
    "prompt_tokens": 30,
    "completion_tokens": 5,
    "total_tokens": 1535,
    "completion_tokens_details": {"reasoning_tokens": 1500},
}
LARGE_PROMPT = {"prompt_tokens": 60_000, "completion_tokens": 10}


@pytest.mark.parametrize("budgeted", [False, True])
@pytest.mark.parametrize(
    ("entry", "asked", "usage", "completion"),
    [
        (
            {"provider": "openai"},
            {"prediction": {"type": "content", "content": "x = 1\n" * 40_000}},
            REJECTED,
            60_020,
        ),
        ({"provider": "xai", "model": "grok-3-mini"}, {}, BESIDE, 1505),
        ({"provider": "openrouter", "model": "x-ai/grok-4"}, {}, BESIDE, 1505),
        ({}, {"best_of": 50}, {"prompt_tokens": 30, "completion_tokens": 1000}, 1000),
        ({"provider": "perplexity", "model": "sonar"}, {}, LARGE_PROMPT, 10),
        ({"provider": "openai", "model": "gpt-4o-search-preview"}, {}, LARGE_PROMPT, 10),
    ],
)
def test_provider_extras_are_booked_and_held(
    play: Play,
    entry: dict[str, Any],
    asked: dict[str, Any],
    usage: dict[str, Any],
    completion: int,
    budgeted: bool,
) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(max_tokens=20, **asked))
        assert (row["basis"], row["prompt_tokens"]) == ("exact", usage["prompt_tokens"])
        assert row["completion_tokens"] == completion
        assert not budgeted or row["cost_usd"] <= row["hold_usd"]

    one = model("a", deployment("a", price=PRICE, **entry))
    limits = {**SETTING.limits, "global": Limits(max_budget=10**11, given=frozenset({"max_budget"}))}
    play(
        Internet(a=[reporting(**usage)]),
        use,
        snapshot(one, limits=limits) if budgeted else snapshot(one),
    )


@pytest.mark.parametrize(
    ("provider", "asked"),
    [
        ("openai", {"web_search_options": {}}),
        ("xai", {"search_parameters": {"mode": "on"}}),
    ],
)
def test_tokens_of_search_results_are_booked_without_a_search_price(
    play: Play, provider: str, asked: dict[str, Any]
) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(max_tokens=20, **asked))
        assert (row["basis"], row["prompt_tokens"]) == ("estimated", 60_000)

    one = model("a", deployment("a", price=PRICE, provider=provider))
    play(Internet(a=[reporting(**LARGE_PROMPT)]), use, snapshot(one))


def test_text_after_an_early_usage_report_is_counted(play: Play) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=True))
        assert (row["status"], row["basis"]) == ("ok", "estimated")
        assert (row["prompt_tokens"], row["completion_tokens"]) == (20, COUNTED)

    early = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}
    first = chunk({"role": "assistant", "content": ""}, usage=early)
    play(Internet(a=[stream(sse(first, chunk(SAID), chunk({}, "stop"), b"[DONE]"))]), use)


def test_a_running_total_in_each_chunk_is_exact(play: Play) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=True))
        assert (row["basis"], row["prompt_tokens"], row["completion_tokens"]) == ("exact", 20, 9)

    def total(completion: int) -> dict[str, int]:
        return {"prompt_tokens": 20, "completion_tokens": completion}

    answer_text = [chunk(SAID, usage=total(5)), chunk({"content": " more"}, "stop", usage=total(9))]
    play(Internet(a=[stream(sse(*answer_text, b"[DONE]"))]), use)


def shown(client: Any, *, streamed: bool) -> dict[str, Any]:
    found = client.json if not streamed else [one for one in client.events if one and one.get("usage")][-1]
    usage: dict[str, Any] = found["usage"]
    return usage


SHOWN = {
    "capped": {"prompt_tokens": 20, "completion_tokens": 999_999_999},
    "without a prompt": {"prompt_tokens": 0, "completion_tokens": 6},
    "fractions": {"prompt_tokens": 20.0, "completion_tokens": 5.5, "total_tokens": 25.5},
    "strings": {"prompt_tokens": "20", "completion_tokens": "5"},
    "nonsense": {"prompt_tokens": "many"},
}


@BOTH
@pytest.mark.parametrize("name", SHOWN)
def test_the_client_sees_the_booked_usage(play: Play, streamed: bool, name: str) -> None:
    async def use(rig: Rig) -> None:
        options = {"stream_options": {"include_usage": True}} if streamed else {}
        client = await rig.ask(stream=streamed, max_tokens=50, **options)
        row = await rig.row(client)
        usage = shown(client, streamed=streamed)
        assert {key: usage[key] for key in ("prompt_tokens", "completion_tokens")} == {
            key: row[key] for key in ("prompt_tokens", "completion_tokens")
        }
        assert usage.get("estimated", False) is (row["basis"] == "estimated")
        if streamed:
            assert len([one for one in client.events if one and one.get("usage")]) == 1

    play(Internet(a=[telling(SHOWN[name], streamed=streamed)]), use)


REPORTS = [
    ([900, 5], 900, "a lower one after a higher one"),
    ([1, 1, 1, 1], 18, "increments"),
    ([2, 3, 1, 2], 18, "increments of several"),
]


@pytest.mark.parametrize(("reports", "least", "why"), REPORTS, ids=[why for *_, why in REPORTS])
def test_contradicting_usage_reports_are_not_exact(
    play: Play, reports: list[int], least: int, why: str
) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=True))
        assert (row["status"], row["basis"], row["prompt_tokens"]) == ("ok", "estimated", 20)
        assert row["completion_tokens"] >= least, why

    answer_text = [
        chunk(SAID, usage={"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens})
        for tokens in reports
    ]
    play(Internet(a=[stream(sse(*answer_text, chunk({}, "stop"), b"[DONE]"))]), use)


@BOTH
def test_a_report_far_below_the_delivered_text_is_not_exact(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=streamed))
        assert (row["status"], row["basis"]) == ("ok", "estimated")
        assert row["completion_tokens"] > 1000

    usage, answer_text = (
        {"prompt_tokens": 20, "completion_tokens": 1},
        {"role": "assistant", "content": "a b c " * 800},
    )
    last = {**chunk({}), "choices": [], "usage": usage}
    long = (
        stream(sse(chunk(answer_text), chunk({}, "stop"), last, b"[DONE]"))
        if streamed
        else answer(whole(answer_text, usage=usage))
    )
    play(Internet(a=[long]), use)


@BOTH
@pytest.mark.parametrize("budgeted", [False, True])
def test_text_beyond_max_tokens_is_not_billed(play: Play, streamed: bool, budgeted: bool) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=streamed, max_tokens=50))
        assert (row["basis"], row["completion_tokens"]) == ("estimated", 50)
        assert not budgeted or row["cost_usd"] <= row["hold_usd"]

    answer_text = {"role": "assistant", "content": "a b c " * 5000}
    long = (
        stream(sse(chunk(answer_text), chunk({}, "stop"), b"[DONE]"))
        if streamed
        else answer(whole(answer_text, usage=None))
    )
    limits = {**SETTING.limits, "global": Limits(max_budget=10**9, given=frozenset({"max_budget"}))}
    one = model("a", deployment("a", price=PRICE))
    play(Internet(a=[long]), use, snapshot(one, limits=limits) if budgeted else SETTING)


def test_usage_reported_with_an_error_is_booked(play: Play) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=True))
        assert (row["status"], row["basis"]) == ("error", "exact"), "it is the upstream's last word"
        assert (row["prompt_tokens"], row["completion_tokens"]) == (20, 900)

    usage = {"prompt_tokens": 20, "completion_tokens": 900}
    error = {"error": {"message": "overloaded", "type": "server_error"}, "usage": usage}
    play(Internet(a=[stream(sse(chunk(SAID)), sse(error))]), use)


@BOTH
def test_a_long_prompt_has_the_catalogues_long_prompt_price(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(stream=streamed))
        assert (row["basis"], row["prompt_tokens"], row["cost_usd"]) == ("exact", 300_000, 0.765)

    usage = {"prompt_tokens": 300_000, "completion_tokens": 1000, "total_tokens": 301_000}
    gemini = deployment("a", provider="gemini", model="gemini-2.5-pro")
    play(Internet(a=[telling(usage, streamed=streamed)]), use, snapshot(model("a", gemini)))
