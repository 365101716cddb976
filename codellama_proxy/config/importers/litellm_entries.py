"""One entry of LiteLLM's `model_list` as one of ours. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from codellama_proxy.config.importers import litellm_fields as words
from codellama_proxy.config.validate.entries import NEEDS_NO_KEY
from codellama_proxy.config.yaml.document import Path

Lose = Callable[[Path, str], None]
"""Receives the path of what could not be converted, and the reason."""
UNWRITABLE = "holds a number that JSON does not have, or a ${ without an end"
ONLY_MODES = "only chat, completion and embedding models are served here, so the model is left out"


def entry(path: Path, item: Any, lose: Lose) -> dict[str, Any] | None:
    """The value at `path`; `None` if it cannot be converted, which is reported to `lose`."""
    written = mapping(item)
    params, info = mapping(written.get("litellm_params")), mapping(written.get("model_info"))
    name, full = written.get("model_name"), params.get("model")
    if not isinstance(name, str) or not isinstance(full, str) or not name or not full:
        lose(path, "model_name and litellm_params.model are needed")
        return None
    if not words.writable(name) or not words.writable(full):
        lose(path, UNWRITABLE)
        return None
    if "*" in name or "*" in full:
        lose(path, "wildcards have no counterpart: write each model down")
        return None
    mode = _mode(path, full, params, info, lose)
    if mode is None:
        return None
    provider, model = _provider(path, full, params, lose)
    if provider is None:
        return None
    made: dict[str, Any] = {"name": name, "provider": provider, "model": model}
    made |= _params(path, provider, params, lose) | _info(path, params, info, lose)
    if mode != "chat":
        made["mode"] = mode
    made |= _price(path, params, info, mode, lose)
    _reached((*path, "litellm_params"), made, lose)
    for name in written.keys() - {"model_name", "litellm_params", "model_info"}:
        lose((*path, name), "has no counterpart")
    return made


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def put(made: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        made = made.setdefault(name, {})
    made[path[-1]] = value


# --- which model, whose ----------------------------------------------------------------------------------------


def _mode(
    path: Path, full: str, params: Mapping[str, Any], info: Mapping[str, Any], lose: Lose
) -> str | None:
    """The mode; `None` for a model that is not a text model."""
    written = info.get("mode", params.get("mode"))
    if full.startswith("text-completion-"):
        return "completion"
    if written is None and words.OTHER_KINDS.search(full):
        lose(path, ONLY_MODES)
        return None
    if written is None:
        return "embedding" if words.EMBEDDINGS.search(full) else "chat"
    if not isinstance(written, str) or written not in words.MODES:
        lose((*path, "model_info", "mode") if "mode" in info else path, ONLY_MODES)
        return None
    return words.MODES[written]


def _provider(path: Path, full: str, params: Mapping[str, Any], lose: Lose) -> tuple[str | None, str]:
    custom, own_address = params.get("custom_llm_provider"), _address(params)
    prefix, slash, model = full.partition("/")
    if isinstance(custom, str):
        prefix, model = custom, full.removeprefix(f"{custom}/")
    elif not slash:
        prefix, model = (
            next((p for start, p in words.KNOWN_NAMES.items() if full.startswith(start)), ""),
            full,
        )
    if prefix not in words.PREFIXES and own_address:
        prefix, model = "custom_openai", full
    provider = words.PREFIXES.get(prefix)
    if provider is None:
        lose((*path, "litellm_params", "model"), "its provider has no counterpart")
        return None, model
    if prefix == "azure_ai":
        provider = _foundry(model, own_address or "")
    model = words.routed(provider, model)
    if provider == "openai" and own_address:
        provider = "openai_compatible"
    if provider == "huggingface":
        model = _on_router(model)
    return provider, model


def _address(params: Mapping[str, Any]) -> str | None:
    """The address of the entry; `None` if it is empty."""
    found = params.get("api_base") or params.get("base_url")
    return found if isinstance(found, str) and found.strip() else None


def _foundry(model: str, url: str) -> str:
    """Azure AI serves several APIs: Claude's, its own, and that of single deployments."""
    if "claude" in model.lower():
        return "anthropic"
    own = (
        not url
        or url.startswith(words.ENVIRONMENT)
        or ".services.ai.azure." in url
        or ".openai.azure." in url
    )
    return "azure" if own else "openai_compatible"


def _on_router(model: str) -> str:
    """`PROVIDER/ORGANISATION/MODEL` in the format of Hugging Face's router."""
    parts = model.split("/")
    return f"{parts[1]}/{parts[2]}:{parts[0]}" if len(parts) == 3 and not words.is_url(model) else model


def _reached(path: Path, made: dict[str, Any], lose: Lose) -> None:
    """The address of the entry's provider, and its key."""
    provider, url = made["provider"], made.get("base_url")
    if provider == "huggingface" and words.is_url(made["model"]):
        url, made["model"] = made["model"], "tgi"  # an endpoint serves one model, by whatever name
    if isinstance(url, str) and url.strip():
        made["base_url"] = words.address(provider, url)
        if provider == "huggingface" and url.startswith("$"):
            lose((*path, "api_base"), f"became {made['base_url']}: leave /v1 out if the variable has it")
    else:
        made.pop("base_url", None)
    if made.get("api_key") or provider in NEEDS_NO_KEY:
        return
    made.pop("api_key", None)
    if "base_url" not in made or provider in ("azure", "anthropic"):
        made["api_key"] = f"${{{words.KEYS[provider]}}}"


# --- its parameters --------------------------------------------------------------------------------------------


def _params(path: Path, provider: str, params: Mapping[str, Any], lose: Lose) -> dict[str, Any]:
    made: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, value in params.items():
        here = (*path, "litellm_params", name)
        if value is None or value == "" or name in words.ELSEWHERE or is_price(name):
            continue
        if not words.writable(value):
            lose(here, UNWRITABLE)
        elif name in words.PARAMS:
            own[name] = words.substituted(value)
        elif name == "extra_body" and isinstance(value, dict):
            own |= {key: words.substituted(inner) for key, inner in value.items()}
        elif name == "drop_params" or name in words.RENAMED:
            _renamed(made, here, name, value, lose)
        elif name == "api_version" and provider == "azure":
            made["api_version"] = str(words.substituted(value))
        elif not (name == "api_version" and provider != "azure"):
            lose(here, words.WHY.get(name, "has no counterpart"))
    return {**made, "params": own} if own else made


def _renamed(made: dict[str, Any], here: Path, name: str, value: Any, lose: Lose) -> None:
    if name == "drop_params":
        drops = words.flag(value)
        if drops is None:
            lose(here, "is neither true nor false")
        else:
            made["drop_params"] = drops
        return
    found = words.substituted(value)
    if name in ("weight", "timeout", "stream_timeout"):
        number = words.number(value)
        found = found if number is None else number
    put(made, words.RENAMED[name], found)


def _info(path: Path, params: Mapping[str, Any], info: Mapping[str, Any], lose: Lose) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, to in (("base_model", "base_model"), ("max_input_tokens", "context_window")):
        value = info.get(name, params.get(name) if name == "base_model" else None)
        if value is not None and words.writable(value):
            made[to] = words.base_model(value) if isinstance(value, str) else value
    for name in info.keys() - words.INFO:
        if not is_price(name):
            lose((*path, "model_info", name), "has no counterpart")
    return made


# --- what it costs ---------------------------------------------------------------------------------------------


def is_price(name: str) -> bool:
    return name in words.PRICES or name == words.HOURLY or bool(words.LONG.fullmatch(name))


def _price(
    path: Path, params: Mapping[str, Any], info: Mapping[str, Any], mode: str, lose: Lose
) -> dict[str, Any]:
    """`price`, if the entry has enough data for one."""
    found: dict[str, Decimal] = {}
    section = {**dict.fromkeys(info, "model_info"), **dict.fromkeys(params, "litellm_params")}
    for name, value in {**info, **params}.items():
        if not is_price(name) or value is None:
            continue
        cost = words.number(value)
        if cost is None or not 0 <= cost <= 1:
            lose((*path, section[name], name), "is no number of USD per token")
        else:
            found[name] = words.per_million(cost)
    price: dict[str, Any] = {to: found[of] for of, to in words.PRICES.items() if of in found}
    if words.HOURLY in found:
        price["cache_write_1h"] = found[words.HOURLY]
    if not price and not found:
        return {}
    if "input" not in price or ("output" not in price and mode != "embedding"):
        lose(path, "has a price for input or output alone, which is none here")
        return {}
    return {"price": {**price, **_above(found)}}


def _above(found: Mapping[str, Decimal]) -> dict[str, Any]:
    """Prices of long prompts; of LiteLLM's thresholds, the lowest is used."""
    tiers: dict[int, dict[str, Decimal]] = {}
    for name, cost in found.items():
        if (match := words.LONG.fullmatch(name)) and match[1] in words.PRICES:
            tiers.setdefault(int(match[2]) * 1000, {})[words.PRICES[match[1]]] = cost
    if not tiers:
        return {}
    tokens = min(tiers)
    return {"above": {"tokens": tokens, **tiers[tokens]}}
