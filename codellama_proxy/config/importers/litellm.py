"""Convert a LiteLLM proxy configuration to a proxy.yaml; list what has no counterpart, with line and column. Pure.

LiteLLM falls back only where configured, so every model gets explicit `fallbacks`. Unknown settings are listed,
never guessed. `check` always accepts the result, once its variables are set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from codellama_proxy.config.importers import litellm_entries
from codellama_proxy.config.importers import litellm_fields as words
from codellama_proxy.config.importers.litellm_entries import mapping, put
from codellama_proxy.config.importers.litellm_yaml import body, written
from codellama_proxy.config.importers.without_faults import without_faults
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.validate.messages import described
from codellama_proxy.config.yaml.document import MAX_BYTES, Document, Path, parse
from codellama_proxy.routing.selection import WILDCARDS


@dataclass(frozen=True, slots=True)
class Imported:
    text: str
    """The proxy.yaml."""
    models: int
    """How many entries it has."""
    lost: tuple[str, ...]
    """What could not be converted, as `config.yaml:LINE:COL: what and why`."""


def imported(content: bytes, source: str = "config.yaml") -> Imported:
    """Convert the file. Raises `ConfigError` if it is not YAML or cannot become a configuration."""
    document = parse(content, lambda name: f"${{{name}}}", source=source, legacy=True)
    if not isinstance(document.root, dict):
        raise ConfigError((Problem(1, 1, "expected a mapping with `model_list:`", source=source),))
    reading = _Reading(document)
    found = reading.file()
    try:
        text = without_faults(found, body, reading.take_back)
    except ConfigError:
        raise ConfigError((Problem(1, 1, "no configuration can be made of this", source=source),)) from None
    lost = tuple(reading.lost_lines(source))
    whole = written(text, lost)
    if len(whole.encode()) > MAX_BYTES:
        raise ConfigError((Problem(1, 1, "what is made of it is larger than 1 MiB", source=source),))
    return Imported(whole, len(found["models"]), lost)


@dataclass(slots=True)
class _Reading:
    """Reads the known settings of the document; the others are listed in `lost`, by line and column."""

    document: Document
    lost: list[tuple[int, int, str]] = field(default_factory=list)
    origins: list[Path] = field(default_factory=list)
    """The source path of each generated entry."""

    def file(self) -> dict[str, Any]:
        root: dict[str, Any] = self.document.root
        self.lost += [(*position, message) for position, message in self.document.problems]
        entries = []
        for index, item in enumerate(_list(root, "model_list")):
            made_of = litellm_entries.entry(("model_list", index), item, self.lose)
            if made_of is not None:
                entries.append(made_of)
                self.origins.append(("model_list", index))
        made: dict[str, Any] = {"models": entries, "routing": {}, "cache": {"enabled": False}, "limits": {}}
        general, router = mapping(root.get("litellm_settings")), mapping(root.get("router_settings"))
        self._fallbacks(entries, {"litellm_settings": general, "router_settings": router})
        self._settings(made, "litellm_settings", general)
        self._settings(made, "router_settings", router)
        self._general(made, mapping(root.get("general_settings")))
        known = {"model_list", "litellm_settings", "router_settings", "general_settings"}
        for name in root.keys() - known:
            self.lose((name,), "has no counterpart")
        for name in known & root.keys():
            if root[name] is not None and not isinstance(root[name], list if name == "model_list" else dict):
                self.lose((name,), "is not understood")
        return {name: value for name, value in made.items() if value or name == "models"}

    def lose(self, path: Path, why: str) -> None:
        line, column = self.document.keys.get(path) or self.document.position(path)
        self.lost.append((line, column, f"{described(path)}: {why}"))

    def take_back(self, path: Path, why: str) -> None:
        """List a generated value that is not valid."""
        if path[:1] == ("models",) and len(path) > 1 and isinstance(path[1], int):
            origin = self.origins[path[1]]
            if len(path) == 2:
                del self.origins[path[1]]
            self.lose(origin, f"{described(path[2:])}: {why}" if len(path) > 2 else why)
        else:
            self.lose((), f"{described(path)}: {why}")

    def lost_lines(self, source: str) -> list[str]:
        """One line for each, in file order."""
        lines = dict.fromkeys(sorted(self.lost, key=lambda found: found[:2]))
        return [_printable(f"{source}:{line}:{column}: {why}") for line, column, why in lines]

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
            for name, others in mapping(item).items():
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
            path: Path = (section, name)
            if value is None or name in words.FALLBACKS:
                if name == "content_policy_fallbacks" and value:
                    put(made, ("routing", "fallback_on"), ["context_length", "content_filter"])
            elif name in words.SETTINGS:
                self._setting(made, path, words.SETTINGS[name], value)
            elif name == "model_group_alias":
                self._aliases(made, path, value)
            elif name in ("drop_params", "cache"):
                self._switch(made, path, value)
            elif name == "cache_params":
                self._cache(made, path, mapping(value))
            elif name in words.CALLBACKS:
                self._callbacks(made, path, value)
            elif not (name == "routing_strategy" and value == "simple-shuffle"):
                self.lose(path, words.WHY.get(name, "has no counterpart"))

    def _setting(self, made: dict[str, Any], path: Path, to: tuple[str, ...], value: Any) -> None:
        number = words.number(value)
        if words.writable(value):
            put(made, to, words.substituted(value) if number is None else number)
        else:
            self.lose(path, litellm_entries.UNWRITABLE)

    def _aliases(self, made: dict[str, Any], path: Path, value: Any) -> None:
        """Other names of models: each is a model's name, or `{model, hidden}`."""
        if not isinstance(value, dict):
            self.lose(path, "is not understood")
        names = {entry["name"] for entry in made["models"]}
        for alias, given in mapping(value).items():
            target = given.get("model") if isinstance(given, dict) else given
            why = _why_no_alias(alias, target, names)
            if why:
                self.lose((*path, alias), why)
                continue
            put(made, ("aliases", alias), target)
            if mapping(given).get("hidden"):
                self.lose((*path, alias, "hidden"), "aliases are listed by /models")

    def _switch(self, made: dict[str, Any], path: Path, value: Any) -> None:
        flag = words.flag(value)
        if flag is None:
            self.lose(path, "is neither true nor false")
        elif path[-1] == "cache":
            made["cache"]["enabled"] = flag
        elif flag:
            for entry in made["models"]:
                entry.setdefault("drop_params", True)

    def _cache(self, made: dict[str, Any], path: Path, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name == "ttl" and value is not None:
                self._setting(made, (*path, name), ("cache", "ttl"), value)
            elif name == "type":
                if value not in ("local", "disk"):
                    self.lose((*path, name), "answers are kept in memory and in the database here")
            else:
                self.lose((*path, name), "has no counterpart")

    def _callbacks(self, made: dict[str, Any], path: Path, value: Any) -> None:
        """Callbacks: PromptLayer is enabled once, whichever lists it; metrics are always enabled."""
        for index, one in enumerate(value if isinstance(value, list) else [value]):
            if one == "promptlayer":
                if path[-1] != "failure_callback":
                    put(made, ("tracking", "promptlayer", "api_key"), "${PROMPTLAYER_API_KEY}")
            elif one != "prometheus":
                where = (*path, index) if isinstance(value, list) else path
                self.lose(where, "has no counterpart; promptlayer and prometheus have")

    def _general(self, made: dict[str, Any], values: Mapping[str, Any]) -> None:
        scopes = {"global_max_parallel_requests": "global", "max_parallel_requests": "key"}
        for name, value in values.items():
            number = words.number(value)
            if name in scopes and number is not None:
                put(made, ("limits", scopes[name], "max_parallel_requests"), number)
            elif value is not None:
                self.lose(("general_settings", name), words.WHY.get(name, "has no counterpart"))


def _why_no_alias(alias: Any, target: Any, names: Collection[str]) -> str:
    """Why it cannot be an alias of `target` here; empty if it can."""
    if not isinstance(alias, str) or set(alias) & WILDCARDS:
        return "is a pattern here; write it under aliases"
    if alias in names:
        return "a model has this name, and its own name comes first"
    return "" if isinstance(target, str) and target in names else "names a model that is not carried over"


def _printable(line: str) -> str:
    """The line without control characters, so that it can be a comment."""
    return "".join(char if char.isprintable() else "?" for char in line)


def _list(root: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = root.get(name)
    return found if isinstance(found, list) else []
