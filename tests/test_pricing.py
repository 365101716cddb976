"""Prices: exact integers, rounded up once; nonsense from upstream never lowers a charge."""

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy import catalogue, pricing
from codellama_proxy.types import Deployment, Price, Usage

counts = st.integers(-(10**6), 10**9)
units = st.integers(0, 10**13)
prices = st.builds(Price, units, units, st.none() | units, st.none() | units)
usages = st.builds(Usage, counts, counts, counts, counts, counts)
NONSENSE: tuple[Any, ...] = (None, -1, 1.5, 10**12, "100", True, [], {}, float("nan"))


@given(st.integers(0, 10**9), st.integers(0, 10**9), prices)
def test_a_cost_is_the_exact_sum_rounded_up_once(prompt: int, completion: int, price: Price) -> None:
    exact = Fraction(prompt * price.input + completion * price.output, 1_000_000)
    assert pricing.cost(Usage(prompt, completion), price) == ceil(exact)


@given(usages, prices)
def test_a_cost_is_never_negative(usage: Usage, price: Price) -> None:
    assert pricing.cost(usage, price) >= 0


@given(usages, prices)
def test_parts_larger_than_the_whole_never_lower_the_charge(usage: Usage, price: Price) -> None:
    if usage.cached_tokens > usage.prompt_tokens:
        plain = Usage(usage.prompt_tokens, usage.completion_tokens, 0, usage.cache_write_tokens)
        assert pricing.cost(usage, price) == pricing.cost(plain, price)


def test_each_class_has_its_own_price() -> None:
    price = Price(3_000_000_000, 15_000_000_000, 300_000_000, 3_750_000_000)
    usage = Usage(10_000, 500, cached_tokens=8000, cache_write_tokens=1000)
    assert pricing.cost(usage, price) == (1000 * 3000 + 8000 * 300 + 1000 * 3750 + 500 * 15000)


def test_a_class_without_price_costs_what_input_costs() -> None:
    assert pricing.cost(Usage(100, 0, 50, 50), Price(7_000_000, 0)) == 700


def test_a_million_tiny_charges_add_up_exactly() -> None:
    one = pricing.cost(Usage(1, 0), Price(1, 0))
    assert one == 1
    assert sum(pricing.cost(Usage(1, 1), Price(500_000, 500_000)) for _ in range(10_000)) == 10_000


def test_plain_input_costs_the_same_either_way() -> None:
    assert pricing.input_cost(123, Price(777, 1)) == pricing.cost(Usage(123), Price(777, 1))


# --- what upstreams say --------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_totals_that_cannot_be_true_are_no_usage(nonsense: Any) -> None:
    assert pricing.sane({"prompt_tokens": nonsense, "completion_tokens": 5}) is None
    assert pricing.sane({"prompt_tokens": 5, "completion_tokens": nonsense}) is None


@pytest.mark.parametrize("nonsense", [*NONSENSE, 6])
def test_details_that_cannot_be_true_are_dropped(nonsense: Any) -> None:
    reported = {
        "prompt_tokens": 5,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": nonsense, "cache_write_tokens": nonsense},
        "completion_tokens_details": {"reasoning_tokens": nonsense},
    }
    assert pricing.sane(reported) == Usage(5, 5)


def test_an_explicit_nothing_stays_nothing() -> None:
    assert pricing.sane({"prompt_tokens": 0, "completion_tokens": 0}) == Usage()


@pytest.mark.parametrize("missing", [None, {}, {"total_tokens": 5}, [], "usage"])
def test_missing_usage_is_no_usage(missing: Any) -> None:
    assert pricing.sane(missing) is None


def test_details_are_kept_where_they_fit() -> None:
    reported = {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert pricing.sane(reported) == Usage(10, 4, 6, 4, 3)
    assert pricing.sane(reported | {"prompt_tokens_details": None}) == Usage(10, 4, 0, 0, 3)


def test_parts_may_not_be_more_than_the_whole_together() -> None:
    assert pricing.checked(Usage(10, 0, 6, 5)) == Usage(10, 0, 6, 0)


@given(usages, prices)
def test_checked_usage_never_costs_less_than_reported(usage: Usage, price: Price) -> None:
    dearest = max(price.input, price.cached_input or 0, price.cache_write or 0)
    checked = pricing.checked(usage)
    if checked is not None and dearest == price.input:
        assert pricing.cost(checked, price) >= pricing.cost(usage, price)


# --- the catalogue -------------------------------------------------------------------------------------------


def deployment(provider: str, model: str, **given: Any) -> Deployment:
    return Deployment("m#1", "m", provider, model, **given)


def test_the_configured_price_wins() -> None:
    price = Price(1, 2)
    assert catalogue.price_of(deployment("openai", "gpt-4.1", price=price)) is price


def test_known_models_have_the_catalogues_price() -> None:
    assert catalogue.price_of(deployment("openai", "gpt-4.1")) == Price(2 * 10**9, 8 * 10**9, 5 * 10**8)
    codellama = deployment("together", "codellama/CodeLlama-34b-Instruct-hf")
    assert catalogue.price_of(codellama) == Price(776_000_000, 776_000_000)


def test_a_base_model_stands_in_for_a_name_of_ones_own() -> None:
    assert catalogue.price_of(deployment("azure", "our-gpt")) is None
    assert catalogue.price_of(deployment("azure", "our-gpt", base_model="gpt-4.1")) is not None


@pytest.mark.parametrize("provider", ["vllm", "ollama", "openai_compatible", "huggingface"])
def test_what_nobody_knows_has_no_price(provider: str) -> None:
    assert catalogue.price_of(deployment(provider, "gpt-4.1")) is None


def test_the_mock_is_free_unless_it_has_a_price() -> None:
    assert catalogue.price_of(deployment("mock", "mock")) == Price(0, 0)
    assert catalogue.price_of(deployment("mock", "mock", price=Price(1, 2))) == Price(1, 2)


def test_an_unknown_model_of_a_known_provider_has_no_price() -> None:
    assert catalogue.price_of(deployment("openai", "gpt-99-nonsense")) is None


def test_hugging_face_names_the_partner_after_a_colon() -> None:
    assert catalogue.look_up("huggingface", "meta-llama/Llama-3.3-70B-Instruct:together") is not None


def test_tiers_are_charged_at_their_base() -> None:
    assert catalogue.look_up("gemini", "gemini-2.5-pro") == Price(1_250_000_000, 10 * 10**9, 125_000_000)
