"""A LiteLLM proxy configuration to a proxy.yaml, and what of it has no counterpart, with line and column. Pure.

LiteLLM falls back only where told to, so every model gets its `fallbacks` written down. What is not understood
is listed, never guessed at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from codellama_proxy.config import litellm_words as words
from codellama_proxy.config.document import Document, Path, parse, resolve
from codellama_proxy.config.entry_checks import NEEDS_NO_KEY
from codellama_proxy.config.explain import described


@dataclass(frozen=True, slots=True)
class Imported:
    text: str
    """The proxy.yaml."""
    models: int
    """How many entries it has."""
    lost: tuple[str, ...]
    """What could not be carried over, as `config.yaml:LINE:COL: what and why`."""


def imported(content: bytes, source: str = "config.yaml") -> Imported:
    """Raises `ConfigError` for what is not YAML."""
    document = parse(content, lambda name: f"${{{name}}}", source=source)
    reading = _Reading(document, source)
    found = reading.file()
    return Imported(_written(found, reading.lost), len(found["models"]), tuple(reading.lost))


@dataclass(slots=True)
class _Reading:
    """Takes what it understands out of the document; `lost` gets the rest."""

    document: Document
    source: str
    lost: list[str] = field(default_factory=list)

    def file(self) -> dict[str, Any]:
        root = _mapping(self.document.root)
        for position, message in self.document.problems:
            self.lost.append(f"{self.source}:{position[0]}:{position[1]}: {message}")
        entries = [
            entry
            for index, item in enumerate(_list(root, "model_list"))
            for entry in self._entry(index, item)
        ]
        made: dict[str, Any] = {"models": entries, "routing": {}, "cache": {"enabled": False}, "limits": {}}
        general = _mapping(root.get("litellm_settings"))
        router = _mapping(root.get("router_settings"))
        self._fallbacks(entries, {"litellm_settings": general, "router_settings": router})
        self._settings(made, "litellm_settings", general)
        self._settings(made, "router_settings", router)
        self._general(made, _mapping(root.get("general_settings")))
        known = {"model_list", "litellm_settings", "router_settings", "general_settings"}
        for name in root.keys() - known:
            self.lose((name,), "has no counterpart")
        self.lost.sort(key=_place)
        return {name: value for name, value in made.items() if value or name == "models"}

    def lose(self, path: Path, why: str) -> None:
        line, column = self.document.keys.get(path) or self.document.position(path)
        self.lost.append(f"{self.source}:{line}:{column}: {described(path)}: {why}")

    # --- models ----------------------------------------------------------------------------------------------

    def _entry(self, index: int, item: Any) -> Iterator[dict[str, Any]]:
        path: Path = ("model_list", index)
        params, info = (
            _mapping(_mapping(item).get("litellm_params")),
            _mapping(_mapping(item).get("model_info")),
        )
        name, full = _mapping(item).get("model_name"), params.get("model")
        if not isinstance(name, str) or not isinstance(full, str):
            self.lose(path, "model_name and litellm_params.model are needed")
        elif "*" in name or "*" in full:
            self.lose(path, "wildcards have no counterpart: write each model down")
        else:
            provider, model = self._provider(path, full, params)
            if provider is not None:
                entry = {"name": name, "provider": provider, "model": model}
                entry |= self._params(path, provider, params) | self._info(path, params, info)
                self._reached((*path, "litellm_params"), entry)
                yield entry

    def _provider(self, path: Path, full: str, params: Mapping[str, Any]) -> tuple[str | None, str]:
        custom = params.get("custom_llm_provider")
        prefix, slash, model = full.partition("/")
        if isinstance(custom, str):
            prefix, model = custom, full.removeprefix(f"{custom}/")
        elif not slash:
            prefix, model = (
                next((p for start, p in words.KNOWN_NAMES.items() if full.startswith(start)), ""),
                full,
            )
        elif prefix not in words.PREFIXES and params.get("api_base"):
            prefix, model = "custom_openai", full
        provider = words.PREFIXES.get(prefix)
        if provider is None:
            self.lose((*path, "litellm_params", "model"), "its provider has no counterpart")
        elif provider == "openai" and params.get("api_base"):
            provider = "openai_compatible"
        return provider, model.removeprefix("converse/") if provider == "bedrock" else model

    def _params(self, path: Path, provider: str, params: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for name, value in params.items():
            if value is None or name in words.ELSEWHERE:
                continue
            if name in words.PARAMS:
                own[name] = words.substituted(value)
            elif name in words.RENAMED:
                _put(made, words.RENAMED[name], words.substituted(value))
            elif name == "api_version" and provider == "azure":
                made["api_version"] = str(words.substituted(value))
            else:
                self.lose((*path, "litellm_params", name), words.WHY.get(name, "has no counterpart"))
        if own:
            made["params"] = own
        return made

    def _reached(self, path: Path, entry: dict[str, Any]) -> None:
        """Where the entry's provider is, and whether it has the key it needs."""
        provider, url = entry["provider"], entry.get("base_url")
        if provider == "huggingface" and words.is_url(entry["model"]):
            url, entry["model"] = entry["model"], "tgi"  # an endpoint serves one model, by whatever name
        if isinstance(url, str):
            entry["base_url"] = words.address(provider, url)
            if provider == "huggingface" and url.startswith("$"):
                self.lose(
                    (*path, "api_base"), f"became {entry['base_url']}: leave /v1 out if the variable has it"
                )
        keyless = entry.get("api_key") is None and provider not in NEEDS_NO_KEY
        if keyless and (url is None or provider == "azure"):
            self.lose(
                path,
                "has no api_key; LiteLLM takes it from the environment by itself, here write api_key: ${NAME}",
            )

    def _info(self, path: Path, params: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        prices = {**info, **params}
        per_token = {to: prices[of] for of, to in words.PRICES.items() if words.is_number(prices.get(of))}
        price = {to: words.per_million(cost) for to, cost in per_token.items()}
        if {"input", "output"} <= price.keys() or ("input" in price and info.get("mode") == "embedding"):
            made["price"] = price
        for name, to in (("base_model", "base_model"), ("max_input_tokens", "context_window")):
            if info.get(name) is not None:
                made[to] = words.base_model(info[name]) if isinstance(info[name], str) else info[name]
        mode = info.get("mode")
        if str(params.get("model", "")).startswith("text-completion-"):
            mode = "completion"
        if mode in words.MODES and mode != "chat":
            made["mode"] = words.MODES[mode]
        elif mode not in (None, "chat"):
            self.lose((*path, "model_info", "mode"), "is not one of chat, completion and embedding")
        for name in info.keys() - words.INFO - words.PRICES.keys():
            self.lose((*path, "model_info", name), "has no counterpart")
        return made

    # --- fallbacks -------------------------------------------------------------------------------------------

    def _fallbacks(self, entries: list[dict[str, Any]], settings: Mapping[str, Mapping[str, Any]]) -> None:
        names = {entry["name"] for entry in entries}
        wanted: dict[str, list[str]] = {name: [] for name in names}
        for section, values in settings.items():
            for kind in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
                self._wanted((section, kind), values.get(kind), wanted)
                if values.get(kind) and kind != "fallbacks":
                    self.lose((section, kind), "became fallbacks, which are tried after every failure")
            default = [one for one in _list(values, "default_fallbacks") if isinstance(one, str)]
            for name in names:
                wanted[name] += [other for other in default if other in names]
        for entry in entries:
            entry["fallbacks"] = [n for n in dict.fromkeys(wanted[entry["name"]]) if n != entry["name"]]

    def _wanted(self, path: Path, written: Any, wanted: dict[str, list[str]]) -> None:
        for index, item in enumerate(written if isinstance(written, list) else []):
            for name, others in _mapping(item).items():
                if name not in wanted:
                    self.lose((*path, index), "is for a model that is not carried over")
                    continue
                for other in others if isinstance(others, list) else [others]:
                    if isinstance(other, str) and other in wanted:
                        wanted[name].append(other)
                    else:
                        self.lose((*path, index, name), "names a model that is not carried over")

    # --- settings --------------------------------------------------------------------------------------------

    def _settings(self, made: dict[str, Any], section: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if value is None or name in words.FALLBACKS:
                if name == "content_policy_fallbacks":
                    _put(made, ("routing", "fallback_on"), ["context_length", "content_filter"])
            elif name in words.SETTINGS:
                _put(made, words.SETTINGS[name], words.substituted(value))
            elif name == "drop_params":
                for entry in made["models"]:
                    entry["drop_params"] = bool(value)
            elif name == "cache":
                made["cache"]["enabled"] = bool(value)
            elif name == "cache_params":
                self._cache(made, (section, name), _mapping(value))
            elif not (name == "routing_strategy" and value == "simple-shuffle"):
                self._callbacks(made, (section, name), value)

    def _cache(self, made: dict[str, Any], path: Path, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name == "ttl":
                made["cache"]["ttl"] = words.substituted(value)
            elif name == "type":
                if value not in ("local", "disk"):
                    self.lose((*path, name), "answers are kept in memory and in the database here")
            else:
                self.lose((*path, name), "has no counterpart")

    def _callbacks(self, made: dict[str, Any], path: Path, value: Any) -> None:
        told = value if isinstance(value, list) else [value]
        if path[-1] in ("success_callback", "callbacks") and "promptlayer" in told:
            _put(made, ("tracking", "promptlayer", "api_key"), "${PROMPTLAYER_API_KEY}")
            if told == ["promptlayer"]:
                return
        self.lose(path, words.WHY.get(str(path[-1]), "has no counterpart"))

    def _general(self, made: dict[str, Any], values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name == "global_max_parallel_requests" and isinstance(value, int):
                _put(made, ("limits", "global", "max_parallel_requests"), value)
            elif name == "max_parallel_requests" and isinstance(value, int):
                _put(made, ("limits", "key", "max_parallel_requests"), value)
            else:
                self.lose(("general_settings", name), words.WHY.get(name, "has no counterpart"))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(root: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = root.get(name)
    return found if isinstance(found, list) else []


def _put(made: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        made = made.setdefault(name, {})
    made[path[-1]] = value


def _place(line: str) -> tuple[int, int]:
    _, row, column, _ = line.split(":", 3)
    return int(row), int(column)


# --- writing -------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Block style, with exact decimals."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Quoted where proxy.yaml's rules, which are YAML 1.2's, would read something else."""
    style = "'" if not isinstance(resolve(text), str) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(
    Decimal,
    # A whole number must not be called a float: the writer would have to say so with a tag.
    lambda dumper, number: dumper.represent_scalar(
        f"tag:yaml.org,2002:{'int' if number == number.to_integral_value() else 'float'}", f"{number:f}"
    ),
)


def _written(file: Mapping[str, Any], lost: Sequence[str]) -> str:
    head = ["# yaml-language-server: $schema=proxy.schema.json", "# Made from a LiteLLM configuration."]
    if lost:
        head += ["#", "# Not carried over:", *(f"#   {line}" for line in lost)]
    body = yaml.dump(dict(file), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return "\n".join(head) + "\n\n" + body
