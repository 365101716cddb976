"""What costs extra: refused or dropped under a budget, unless the entry gives it a price."""

from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Limits, Model, Price, Tariff
from codellama_proxy.core.types import Event, Key, Usage
from codellama_proxy.diagnostics.decision import trace_of
from codellama_proxy.gateway import admission_request as asking
from codellama_proxy.openai_format.request import DialectName, InferenceRequest, Native
from codellama_proxy.pricing import extras
from codellama_proxy.pricing.charge import Call, charge
from codellama_proxy.routing.chain import Chain
from tests.support.builders import chat, deployment, model, snapshot
from tests.support.cases import each
from tests.support.fake_internet import Internet, good
from tests.support.gateway_harness import Play, Rig, player

PRICE = Price(input=1_000_000_000, output=2_000_000_000)
PLAIN: tuple[dict[str, Any], ...] = (
    {},
    {"service_tier": "auto"},
    {"service_tier": "default"},
    {"service_tier": "standard"},
    {"speed": "standard"},
    {"search_parameters": {"mode": "off"}},
    {"modalities": ["text"]},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"tools": [{"type": "custom", "name": "f"}]},
    {"tools": [{"type": "bash_20250124", "name": "bash"}]},
    {"plugins": []},
    {"provider": {}},
    {"cache_control": {"type": "ephemeral", "ttl": "5m"}},
)
DEARER: tuple[dict[str, Any], ...] = (
    {"service_tier": "priority"},
    {"service_tier": "flex"},
    {"speed": "fast"},
    {"web_search_options": {}},
    {"search_parameters": {"mode": "auto"}},
    {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    {"tools": [{"type": "web_search_preview"}]},
    {"tools": [{"type": "unheard_of"}]},
    {"plugins": [{"id": "web"}]},
    {"provider": {"order": ["x"]}},
    {"modalities": ["text", "audio"]},
    {"audio": {"voice": "alloy", "format": "wav"}},
    {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
    {"inference_geo": "us"},
    {"max_new_tokens": 5000},
    {"n_predict": -1},
    {"num_return_sequences": 50},
)


@each("params", PLAIN)
def test_options_without_extra_cost_pass(params: dict[str, Any]) -> None:
    assert extras.extras_of(chat(params=params)) == []


@each("params", DEARER)
def test_options_with_extra_cost_are_found(params: dict[str, Any]) -> None:
    (name,) = params
    assert {one.param for one in extras.extras_of(chat(params=params))} == {name}


@pytest.mark.parametrize("where", ["message", "part", "tool", "call"])
def test_a_one_hour_cache_write_is_found_in_every_place(where: str) -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    part = {"type": "text", "text": "x", **(mark if where == "part" else {})}
    inference = chat(
        messages=[
            {"role": "user", "content": [part], **(mark if where == "message" else {})},
            {"role": "assistant", "tool_calls": [{"id": "c", **(mark if where == "call" else {})}]},
        ],
        params={"tools": [{"type": "function", **(mark if where == "tool" else {})}]},
    )
    assert [one.hour for one in extras.extras_of(inference)] == [True]
    here = deployment(price=PRICE, drop_params=True)
    shorter, dropped = extras.paid(inference, here, PRICE)
    assert dropped == ("cache_control",)
    assert extras.extras_of(shorter) == []
    assert '"ttl"' not in repr(shorter)
    assert extras.paid(inference, here, Price(1, 1, cache_write_1h=2)) == (inference, ())


# --- through the gateway ---------------------------------------------------------------------------------------

BUDGET = Limits(max_budget=10**10, given=frozenset({"max_budget"}))
WEB = Price(10**9, 2 * 10**9, server_tools=(("web_search", 10**10 * 1000),))
PRIORITY = Price(10**9, 2 * 10**9, service_tiers=(("priority", Tariff(2 * 10**9, 4 * 10**9)),))


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path, setting())


def setting(price: Price = PRICE, *, budget: bool = True, **changes: Any) -> Any:
    one = deployment("a", provider="openai", price=price, **changes)
    plain = snapshot(model("a", one))
    return snapshot(model("a", one), limits={**plain.limits, "global": BUDGET} if budget else plain.limits)


@pytest.mark.parametrize("name", ["service_tier", "web_search_options", "provider", "plugins"])
def test_under_a_budget_unpriced_extras_are_refused(play: Play, name: str) -> None:
    (params,) = [one for one in DEARER[:1] + DEARER[3:4] + DEARER[8:10] if name in one]

    async def use(rig: Rig) -> None:
        client = await rig.ask(**params)
        error = client.json["error"]
        assert (client.status, error["code"], error["param"]) == (400, "unsupported_parameter", name)
        assert rig.internet.asked == []

    play(Internet(a=[]), use)


@pytest.mark.parametrize("name", ["service_tier", "web_search_options", "provider", "plugins"])
def test_unpriced_extras_are_dropped_and_reported_with_drop_params(play: Play, name: str) -> None:
    (params,) = [one for one in DEARER[:1] + DEARER[3:4] + DEARER[8:10] if name in one]

    async def use(rig: Rig) -> None:
        client = await rig.ask(**params)
        assert client.headers["x-proxy-dropped-params"] == name
        assert name not in rig.internet.sent[0].body

    play(Internet(a=[good(streamed=False)]), use, setting(drop_params=True))


def test_without_a_budget_unpriced_extras_pass(play: Play) -> None:
    async def use(rig: Rig) -> None:
        answer = await rig.ask(service_tier="priority")
        assert answer.status == 200
        assert rig.internet.sent[0].body["service_tier"] == "priority"
        assert (await rig.row(answer))["basis"] == "estimated"

    play(Internet(a=[good(streamed=False)]), use, setting(budget=False))


SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
UNPRICED: tuple[tuple[dict[str, Any], Usage, bool], ...] = (
    ({}, Usage(10, 5), True),
    ({}, Usage(10, 5, service_tier="standard"), True),
    ({"service_tier": "auto"}, Usage(10, 5), True),
    ({"service_tier": "priority"}, Usage(10, 5, service_tier="default"), True),
    ({"service_tier": "priority"}, Usage(10, 5), False),
    ({"service_tier": "auto"}, Usage(10, 5, service_tier="priority"), False),
    ({"speed": "fast"}, Usage(10, 5, service_tier="standard"), False),
    ({"web_search_options": {}}, Usage(10, 5), False),
    ({"provider": {"order": ["x"]}}, Usage(10, 5), False),
    ({"modalities": ["text", "audio"]}, Usage(10, 5), False),
    ({"tools": [SEARCH]}, Usage(10, 5), True),
    ({"tools": [SEARCH]}, Usage(10, 5, tool_calls=(("web_search", 2),)), False),
    ({}, Usage(10, 5, tool_calls=(("web_search", 0),)), True),
    ({}, Usage(10, 5, 0, 4, 0, 4), False),
    ({"max_new_tokens": 5}, Usage(10, 5), True),
)


@each(("params", "usage", "exact"), UNPRICED)
def test_a_cost_without_the_price_of_an_extra_is_an_estimate(
    params: dict[str, Any], usage: Usage, exact: bool
) -> None:
    call = Call(deployment(), chat(params=params), 0.0, whole=True, ended=1.0)
    call.note([Event(b"", usage=usage)])
    assert charge(call, PRICE).basis == ("exact" if exact else "estimated")
    full = Price(
        10**9,
        10**9,
        cache_write_1h=2,
        service_tiers=(("priority", Tariff(1, 1)), ("fast", Tariff(1, 1))),
        server_tools=(("web_search", 5), ("audio", 1), ("?provider", 1)),
    )
    assert charge(call, full).basis == "exact"


def test_priced_extras_are_allowed_and_charged(play: Play) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(service_tier="priority", max_tokens=50))
        assert row["cost_usd"] == (20 * 2 + 7 * 4) / 1_000_000

    play(Internet(a=[good(streamed=False)]), use, setting(PRIORITY))


def test_an_uncounted_search_is_charged_once(play: Play) -> None:
    async def use(rig: Rig) -> None:
        row = await rig.row(await rig.ask(web_search_options={}, max_tokens=50))
        assert row["cost_usd"] == pytest.approx((20 + 7 * 2) / 1_000_000 + 0.01)

    play(Internet(a=[good(streamed=False)]), use, setting(WEB))


# --- what is held ------------------------------------------------------------------------------------------------


def held(price: Price, **changes: Any) -> int:
    """Nano-USD that a request for 100 tokens is held for."""
    inference = chat(**{"params": {"max_tokens": 100}, "size": 1000, **changes})
    one = Model("m", (deployment(provider="openai", model="gpt-4o-mini", price=price),), ())
    whole = snapshot(one)
    ask = asking.admission_request(
        trace_of(whole, Key("key_a", "web"), inference, 0.0), inference, Chain([one]), whole, (), 5
    )
    return ask.bound.nanos(100)


def test_the_hold_covers_the_possible_service_tier() -> None:
    assert held(PRICE, params={"max_tokens": 100}) < held(PRIORITY, params={"max_tokens": 100})
    default = {"max_tokens": 100, "service_tier": "default"}
    assert held(PRIORITY, params=default) == held(PRICE, params=default)
    long = Price(10**9, 2 * 10**9, above=((200_000, Tariff(2 * 10**9, 3 * 10**9)),))
    assert held(long) == held(PRICE)
    assert held(long, size=200_000) > 2 * 200_000 * 1000


def test_the_hold_covers_searches_and_images() -> None:
    plain = held(WEB)
    searching = held(WEB, params={"max_tokens": 100, "web_search_options": {}})
    assert searching - plain >= 10 * 10**7
    far = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    pictured = held(PRICE, messages=[{"role": "user", "content": far}])
    assert pictured - held(PRICE, messages=[{"role": "user", "content": "x"}]) == 48_169 * 1000


# --- relayed requests ------------------------------------------------------------------------------------------

HOUR = {"type": "ephemeral", "ttl": "1h"}
MARKED = {"type": "text", "text": "hi", "cache_control": HOUR}
NATIVE_PLAIN: tuple[tuple[DialectName, dict[str, Any]], ...] = (
    ("messages", {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}),
    ("messages", {"service_tier": "standard_only", "speed": "standard", "inference_geo": "global"}),
    ("messages", {"max_tokens": 5, "provider": {"order": ["x"]}, "models": ["x"]}),
    ("messages", {"tools": [{"name": "f", "input_schema": {}}, {"type": "tool_search_tool_regex_20251119"}]}),
    ("responses", {"max_output_tokens": 5, "service_tier": "default", "speed": "fast"}),
    ("responses", {"tools": [{"type": "shell"}, {"type": "local_shell"}, {"type": "custom", "name": "c"}]}),
)
NATIVE_DEARER: tuple[tuple[DialectName, dict[str, Any], str], ...] = (
    ("messages", {"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management"),
    ("messages", {"cache_control": {"type": "ephemeral", "ttl": "24h"}}, "cache_control"),
    ("messages", {"service_tier": "priority"}, "service_tier"),
    ("messages", {"speed": "fast"}, "speed"),
    ("messages", {"inference_geo": "us"}, "inference_geo"),
    ("messages", {"tools": [SEARCH]}, "tools"),
    ("messages", {"tools": [{"type": "code_execution_20250825", "name": "c"}]}, "tools"),
    ("messages", {"system": [MARKED]}, "cache_control"),
    ("messages", {"messages": [{"role": "user", "content": [MARKED]}]}, "cache_control"),
    ("responses", {"service_tier": "flex"}, "service_tier"),
    ("responses", {"context_management": [{"type": "compaction"}]}, "context_management"),
    ("responses", {"tools": [{"type": "web_search"}]}, "tools"),
    ("responses", {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "tools"),
    (
        "responses",
        {"input": [{"type": "additional_tools", "tools": [{"type": "image_generation"}]}]},
        "tools",
    ),
    (
        "responses",
        {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "web_search"}]}]},
        "tools",
    ),
)


def relayed(dialect: DialectName, body: dict[str, Any]) -> InferenceRequest:
    return chat(dialect=dialect, native=Native(body, {}), needed_tool="web_search")


@each("case", NATIVE_PLAIN)
def test_relayed_options_without_extra_cost_pass(case: tuple[DialectName, dict[str, Any]]) -> None:
    assert extras.extras_of(relayed(*case)) == []


@each("case", NATIVE_DEARER)
def test_relayed_options_are_refused_or_dropped_without_a_price(
    case: tuple[DialectName, dict[str, Any], str],
) -> None:
    dialect, body, name = case
    request = relayed(dialect, body)
    assert [one.param for one in extras.extras_of(request)] == [name]
    with pytest.raises(ProxyError) as refused:
        extras.paid(request, deployment(), PRICE)
    assert refused.value.param == name
    left, dropped = extras.paid(request, deployment(drop_params=True), PRICE)
    assert dropped == (name,)
    assert extras.extras_of(left) == []


def test_the_tier_and_the_calls_of_a_relayed_request_are_its_own() -> None:
    request = relayed("messages", {"speed": "fast", "tools": [SEARCH]})._replace(
        params={"service_tier": "flex"}
    )
    assert extras.requested_tier(extras.priced_fields(request)) == "fast"
    (_, search) = extras.extras_of(request)
    assert (search.tool, search.calls) == ("web_search", 3)


def test_server_tools_that_the_answer_does_not_need_are_left_out_of_relayed_requests() -> None:
    own = {"name": "f", "input_schema": {}}
    request = relayed("messages", {"tools": [own, SEARCH]})._replace(needed_tool="")
    left, dropped = extras.paid(request, deployment(), PRICE)
    assert left.native is not None
    assert (left.native.body, dropped) == ({"tools": [own]}, ("tools",))
    priced = Price(1, 1, server_tools=(("web_search", 5),))
    assert extras.paid(request, deployment(price=priced), priced) == (request, ())
