"""Prices: exact integers, rounded up once; nonsense from upstream never lowers a charge."""

from dataclasses import asdict
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Deployment, Price, Tariff
from codellama_proxy.core.types import Usage
from codellama_proxy.pricing import catalogue
from codellama_proxy.pricing import cost as pricing
from tests.support.cases import each

counts = st.integers(-(10**6), 10**9)
units = st.integers(0, 10**13)
prices = st.builds(Price, units, units, st.none() | units, st.none() | units)
usages = st.builds(Usage, counts, counts, counts, counts, counts)


@given(st.integers(0, 10**9), st.integers(0, 10**9), prices)
def test_a_cost_is_an_exact_sum_rounded_up_once(prompt: int, completion: int, price: Price) -> None:
    exact = Fraction(prompt * price.input + completion * price.output, 1_000_000)
    assert pricing.cost(Usage(prompt, completion), price) == ceil(exact)


@given(usages, prices)
def test_a_cost_is_never_negative(usage: Usage, price: Price) -> None:
    assert pricing.cost(usage, price) >= 0


@given(usages, prices)
def test_parts_above_the_total_never_lower_the_charge(usage: Usage, price: Price) -> None:
    if usage.cached_tokens > usage.prompt_tokens:
        plain = usage._replace(cached_tokens=0)
        assert pricing.cost(usage, price) == pricing.cost(plain, price)


def test_each_class_has_its_own_price() -> None:
    price = Price(3_000_000_000, 15_000_000_000, 300_000_000, 3_750_000_000)
    usage = Usage(10_000, 500, cached_tokens=8000, cache_write_tokens=1000)
    assert pricing.cost(usage, price) == (1000 * 3000 + 8000 * 300 + 1000 * 3750 + 500 * 15000)


def test_a_token_class_without_price_has_the_input_price() -> None:
    assert pricing.cost(Usage(100, 0, 50, 50), Price(7_000_000, 0)) == 700


def test_a_million_tiny_charges_add_up_exactly() -> None:
    one = pricing.cost(Usage(1, 0), Price(1, 0))
    assert one == 1
    assert sum(pricing.cost(Usage(1, 1), Price(500_000, 500_000)) for _ in range(10_000)) == 10_000


def test_plain_input_costs_the_same_either_way() -> None:
    assert pricing.input_cost(123, Price(777, 1)) == pricing.cost(Usage(123), Price(777, 1))


# --- the catalogue -------------------------------------------------------------------------------------------


def deployment(provider: str, model: str, **given: Any) -> Deployment:
    return Deployment("m#1", "m", provider, model, **given)


def test_the_configured_price_overrides_the_catalogue() -> None:
    price = Price(1, 2)
    assert catalogue.price_of(deployment("openai", "gpt-4.1", price=price)) is price


def test_known_models_have_the_catalogue_price() -> None:
    price = catalogue.price_of(deployment("openai", "gpt-4.1"))
    assert price is not None
    assert (price.input, price.output, price.cached_input) == (2 * 10**9, 8 * 10**9, 5 * 10**8)
    codellama = deployment("together", "codellama/CodeLlama-34b-Instruct-hf")
    assert catalogue.price_of(codellama) == Price(776_000_000, 776_000_000)


def test_base_model_determines_the_price_of_a_custom_name() -> None:
    assert catalogue.price_of(deployment("azure", "our-gpt")) is None
    assert catalogue.price_of(deployment("azure", "our-gpt", base_model="gpt-4.1")) is not None


@pytest.mark.parametrize("provider", ["vllm", "ollama", "openai_compatible", "huggingface"])
def test_an_unknown_model_has_no_price(provider: str) -> None:
    assert catalogue.price_of(deployment(provider, "gpt-4.1")) is None


def test_the_mock_is_free_unless_it_has_a_price() -> None:
    assert catalogue.price_of(deployment("mock", "mock")) == Price(0, 0)
    assert catalogue.price_of(deployment("mock", "mock", price=Price(1, 2))) == Price(1, 2)


def test_an_unknown_model_of_a_known_provider_has_no_price() -> None:
    assert catalogue.price_of(deployment("openai", "gpt-99-nonsense")) is None


def test_a_hugging_face_partner_suffix_is_ignored() -> None:
    assert catalogue.look_up("huggingface", "meta-llama/Llama-3.3-70B-Instruct:together") is not None


@pytest.mark.parametrize(
    ("provider", "name", "tokens", "short", "long"),
    [
        ("gemini", "gemini-2.5-pro", 200_000, (1.25, 10), (2.5, 15)),
        ("openai", "gpt-5.4", 272_000, (2.5, 15), (5, 22.5)),
        ("anthropic", "claude-sonnet-4-5", 200_000, (3, 15), (6, 22.5)),
    ],
)
def test_long_prompts_have_the_catalogues_long_prompt_price(
    provider: str, name: str, tokens: int, short: tuple[float, float], long: tuple[float, float]
) -> None:
    price = catalogue.look_up(provider, name)
    assert price is not None
    for prompt, (paid_in, paid_out) in ((tokens, short), (tokens + 1, long)):
        expected = round((prompt * paid_in + 1000 * paid_out) * 1000)
        assert pricing.cost(Usage(prompt, 1000), price) == expected


def test_one_hour_cache_writes_have_their_own_price() -> None:
    price = catalogue.look_up("anthropic", "claude-sonnet-4-5")
    assert price is not None
    usage = Usage(1000, 0, 0, 1000, 0, cache_write_1h_tokens=400)
    assert pricing.cost(usage, price) == 400 * 6000 + 600 * 3750
    assert pricing.cost(usage, Price(3 * 10**9, 0, None, 3_750_000_000)) == 400 * 6000 + 600 * 3750


TIERED = Price(
    10**6,
    2 * 10**6,
    above=((100, Tariff(2 * 10**6, 3 * 10**6)),),
    service_tiers=(("priority", Tariff(5 * 10**6, 7 * 10**6)), ("flex", Tariff(10**5, 10**5))),
    server_tools=(("web_search", 10**10),),
)


@each(
    ("usage", "asked", "nanos"),
    [
        (Usage(10, 10), "", 30),
        (Usage(10, 10), "priority", 120),
        (Usage(10, 10, service_tier="default"), "priority", 30),
        (Usage(10, 10, service_tier="priority"), "", 120),
        (Usage(10, 10, service_tier="flex"), "flex", 2),
        (Usage(10, 10), "flex", 30),
        (Usage(10, 10), "unheard", 30),
        (Usage(200, 10), "", 430),
        (Usage(200, 10, service_tier="priority"), "", 1070),
        (Usage(200, 10, service_tier="flex"), "", 430),
        (Usage(10, 10, tool_calls=(("web_search", 2), ("web_fetch", 9))), "", 30 + 20_000),
    ],
)
def test_the_service_tier_is_the_reported_or_the_most_expensive_possible_one(
    usage: Usage, asked: str, nanos: int
) -> None:
    assert pricing.cost(usage, TIERED, asked) == nanos


@given(usages, st.sampled_from(["", "auto", "priority", "flex", "default"]), st.data())
def test_no_possible_price_exceeds_the_hold(usage: Usage, asked: str, data: st.DataObject) -> None:
    reported = data.draw(
        st.sampled_from(["", asked, *(["priority", "flex"] if asked in ("", "auto") else [])])
    )
    usage = usage._replace(service_tier=reported)
    rates = pricing.reachable(TIERED, max(usage.prompt_tokens, 0), asked)
    assert pricing.cost(usage, TIERED, asked) <= pricing.cost(usage, Price(**asdict(rates)))


@given(prices, st.integers(0, 10**9), st.sampled_from(["", "auto", "priority"]))
def test_the_rates_of_a_price_without_tiers_do_not_depend_on_the_request(
    price: Price, bound: int, asked: str
) -> None:
    assert pricing.reachable(price, bound, asked) == pricing.reachable(price, 0)
