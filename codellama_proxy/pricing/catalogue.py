"""Looks up prices in the bundled catalogue, offline; the only module that uses it.

A model that is not in the catalogue has no price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any

from codellama_proxy.core.money import NANOS
from codellama_proxy.core.snapshot import Deployment, Price, Tariff

# Our name of a provider -> the catalogue's. Self-hosted models have no price.
PROVIDERS: Mapping[str, str] = {
    "openai": "openai",
    "together": "together",
    "anthropic": "anthropic",
    "azure": "azure",
    "cohere": "cohere",
    "gemini": "google",
    "bedrock": "aws",
    "groq": "groq",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "fireworks": "fireworks",
    "openrouter": "openrouter",
    "xai": "x-ai",
    "cerebras": "cerebras",
    "perplexity": "perplexity",
}


CLASSES = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok")
KILO = 1000
"""The catalogue's prices of server tools are per 1 000 calls."""
CACHE_WRITE_PERCENT: Mapping[str, int] = {"anthropic": 125}
"""What a cache write costs, relative to input, at providers where it costs more."""
FREE = Price(0, 0)
"""The price of the built-in mock."""


def price_of(deployment: Deployment) -> Price | None:
    """The configured price, else the catalogue's, else `None`.

    The first lookup in the catalogue takes 0.25 s; `warm` keeps that off the request path.
    """
    if deployment.price is not None:
        return deployment.price
    if deployment.provider == "mock":
        return FREE
    return look_up(deployment.provider, deployment.base_model or deployment.model)


def usual_cache_write(provider: str, paid_in: int) -> int | None:
    """The price of cache writes for this price of input, where the provider charges more for them; else `None`."""
    percent = CACHE_WRITE_PERCENT.get(provider)
    return None if percent is None else -(-paid_in * percent // 100)


def warm(deployments: Iterable[Deployment]) -> None:
    """Look up all prices once; called on a separate thread."""
    for deployment in deployments:
        price_of(deployment)


@lru_cache(maxsize=4096)
def look_up(provider: str, model: str) -> Price | None:
    known, name = _named(provider, model)
    if known is None:
        return None
    from genai_prices import Usage, calc_price  # noqa: PLC0415 - it takes 0.2 s, which a start has not got

    try:
        found = calc_price(Usage(input_tokens=1, output_tokens=1), name, provider_id=known).model_price
    except LookupError:
        return None
    return _price(found)


def _named(provider: str, model: str) -> tuple[str | None, str]:
    """The catalogue's provider and model: Hugging Face appends the serving partner after a colon."""
    if provider == "huggingface":
        name, _, partner = model.partition(":")
        return (f"huggingface_{partner}" if partner else None), name
    return PROVIDERS.get(provider), model


def _price(found: Any) -> Price | None:
    base = _rates(found, 0)
    if base is None:
        return None
    starts = {tier.start for name in CLASSES for tier in getattr(getattr(found, name), "tiers", ())}
    above = [(start, rates) for start in sorted(starts) if (rates := _rates(found, start)) is not None]
    searches = found.web_searches_kcount
    return Price(
        base.input,
        base.output,
        base.cached_input,
        base.cache_write,
        base.cache_write_1h,
        above=tuple(above),
        server_tools=() if searches is None else (("web_search", (_nanos(searches) or 0) * KILO),),
    )


def _rates(found: Any, start: int) -> Tariff | None:
    """The catalogue's rates for prompts of more than `start` tokens."""
    paid_in, paid_out, cached, written, hour = (
        _nanos(_tier(getattr(found, name), start)) for name in CLASSES
    )
    if paid_in is None:
        return None
    return Tariff(
        paid_in, paid_in if paid_out is None else paid_out, cached, written, hour
    )  # vectors: no output


def _tier(price: Any, start: int) -> Any:
    reached = [tier.price for tier in getattr(price, "tiers", ()) if start and tier.start <= start]
    return reached[-1] if reached else price


def _nanos(usd: Any) -> int | None:
    """Nano-USD from a catalogue price, rounded to ten places to remove floating-point noise."""
    if usd is None:
        return None
    base = usd if isinstance(usd, Decimal) else Decimal(usd.base)
    return int((round(base, 10) * NANOS).to_integral_value(ROUND_CEILING))
