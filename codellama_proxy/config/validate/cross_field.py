"""Checks across the keys of a well-formed proxy.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from codellama_proxy.config.model_schema import Entry
from codellama_proxy.config.network_types import is_loopback, is_private
from codellama_proxy.config.problems import did_you_mean
from codellama_proxy.config.schema import File, Limits
from codellama_proxy.config.validate import aliases
from codellama_proxy.config.validate import entries as entry_checks
from codellama_proxy.config.validate.finding import Entries, Finding
from codellama_proxy.config.yaml.document import Path
from codellama_proxy.providers.openai.completions_profiles import COMPLETION_PROFILES

_NEEDS_URL = frozenset({"azure", "vllm", "openai_compatible"})
_ONLY_FOR = {
    "deployment": "azure",
    "api_version": "azure",
    "input_map": "replicate",
    "prompt_format": "replicate",
    "mock": "mock",
}


def findings(file: File, entries: Entries) -> Iterator[Finding]:
    for index, entry in entries.by_index.items():
        path: Path = ("models", index)
        yield from _provider(entry, path, entries)
        yield from entry_checks.findings(entry, path, entries)
        yield from _url(entry, path)
        yield from _price(entry, path, entries)
        yield from _fallbacks(entry, path, entries)
        yield from _completions(entry, path, entries)
    yield from _agreement(entries)
    yield from aliases.findings(file.aliases, entries)
    yield from _limits(file, entries)
    yield from _projects(file, entries)
    yield from _semantic(file, entries)
    yield from _promptlayer(file, entries)


UNAUTHENTICATED = (
    "no key is required and the server listens beyond this machine: "
    "anyone who can reach it may use every model"
)


def unauthenticated_access(file: File, host: str) -> Iterator[Finding]:
    """Warn if no key is required and `host` is not loopback. `host`: the listening address."""
    if not file.auth.required and not is_loopback(host):
        yield Finding(("auth", "required"), UNAUTHENTICATED, "warning")


def _completions(entry: Entry, path: Path, entries: Entries) -> Iterator[Finding]:
    if not entry.completions or {(*path, "mode"), (*path, "provider")} & entries.unknown:
        return
    here: Path = (*path, "completions")
    if entry.mode != "chat":
        yield Finding(here, "only for mode chat", "warning")
    elif entry.provider not in COMPLETION_PROFILES:
        yield Finding(here, f"provider {entry.provider} has no /completions")
    else:
        yield Finding(here, "/completions sends requests to this model without a guardrail", "warning")


def _provider(entry: Entry, path: Path, entries: Entries) -> Iterator[Finding]:
    if (*path, "provider") in entries.unknown:
        return
    for key, provider in _ONLY_FOR.items():
        if entry.provider != provider and getattr(entry, key) is not None:
            yield Finding((*path, key), f"only for provider {provider}")
    if entry.provider in _NEEDS_URL and not entry.base_url and (*path, "base_url") not in entries.unknown:
        yield Finding(path, f"base_url is required for provider {entry.provider}")


def _url(entry: Entry, path: Path) -> Iterator[Finding]:
    url = entry.base_url
    if url and url.startswith("http:") and not is_private(url) and not entry.allow_insecure:
        danger = "http:// would expose the key and the prompts to the network"
        yield Finding((*path, "base_url"), f"{danger}; use https, or allow_insecure: true")


def _price(entry: Entry, path: Path, entries: Entries) -> Iterator[Finding]:
    known = not {(*path, "mode"), (*path, "price", "output")} & entries.unknown
    if entry.price and entry.price.output is None and entry.mode != "embedding" and known:
        yield Finding((*path, "price"), "output is required")


def _fallbacks(entry: Entry, path: Path, entries: Entries) -> Iterator[Finding]:
    modes = {other.name: entries.mode(index) for index, other in entries.by_index.items()}
    mode = modes[entry.name]
    for place, name in enumerate(entry.fallbacks or ()):
        here: Path = (*path, "fallbacks", place)
        if name == entry.name:
            yield Finding(here, "a model cannot be its own fallback")
        elif name not in entries.names:
            yield Finding(here, _no_model(name, here, entries))
        elif mode is not None and (other := modes.get(name)) is not None and other != mode:
            yield Finding(here, f"its mode is {other}, not {mode}", "warning")


def _no_model(name: str, path: Path, entries: Entries) -> str:
    if path in entries.hidden:
        return "there is no such model"
    return f'there is no model "{name}"{did_you_mean(name, entries.names)}'


def _agreement(entries: Entries) -> Iterator[Finding]:
    """Entries with the same name are one model and must agree on its mode and fallbacks."""
    mode: dict[str, str] = {}
    fallbacks: dict[str, tuple[str, ...]] = {}
    for index, entry in entries.by_index.items():
        path: Path = ("models", index)
        own = entries.mode(index)
        if own is not None and mode.setdefault(entry.name, own) != own:
            yield Finding((*path, "mode"), "entries that share a name must have the same mode")
        chain = entry.fallbacks
        if chain is not None and fallbacks.setdefault(entry.name, chain) != chain:
            yield Finding((*path, "fallbacks"), "entries that share a name must have the same fallbacks")


def _limits(file: File, entries: Entries) -> Iterator[Finding]:
    scopes: list[tuple[Path, Limits]] = [
        (("limits", "global"), file.limits.everything),
        (("limits", "project"), file.limits.project),
        (("limits", "key"), file.limits.key),
        (("limits", "user"), file.limits.user),
    ]
    for path, limits in scopes:
        yield from _budget(path, limits, None, entries)
    inherited = file.limits.project.max_budget
    for name, project in file.projects.items():
        yield from _budget(("projects", name, "limits"), project.limits, inherited, entries)


def _budget(path: Path, limits: Limits, inherited: int | None, entries: Entries) -> Iterator[Finding]:
    known = not {(*path, "max_budget"), ("limits", "project", "max_budget")} & entries.unknown
    budget = limits.max_budget if "max_budget" in limits.model_fields_set else inherited
    if limits.budget_duration is not None and budget is None and known:
        yield Finding((*path, "budget_duration"), "without max_budget it does nothing", "warning")


def _projects(file: File, entries: Entries) -> Iterator[Finding]:
    for name, project in file.projects.items():
        for place, pattern in enumerate(project.models or ()):
            path: Path = ("projects", name, "models", place)
            if not any(fnmatchcase(model, pattern) for model in entries.names):
                message = "matches no model" if path in entries.hidden else f'"{pattern}" matches no model'
                yield Finding(path, message, "warning")


def _semantic(file: File, entries: Entries) -> Iterator[Finding]:
    semantic = file.cache.semantic
    if semantic is None:
        return
    path: Path = ("cache", "semantic")
    if {(*path, "model"), (*path, "url")} & entries.unknown:
        return
    modes = {entries.mode(index) for index, e in entries.by_index.items() if e.name == semantic.model}
    if semantic.backend == "gptcache":
        yield from _gptcache(semantic.url, path)
    elif semantic.model is None:
        yield Finding(path, "model is required for backend embeddings")
    elif semantic.model not in entries.names:
        yield Finding((*path, "model"), _no_model(semantic.model, (*path, "model"), entries))
    elif not modes & {"embedding", None}:
        yield Finding((*path, "model"), "its mode is not embedding")


def _gptcache(url: str | None, path: Path) -> Iterator[Finding]:
    if url is None:
        yield Finding(path, "url is required for backend gptcache")
    elif url.startswith("http:") and not is_private(url):
        yield Finding((*path, "url"), "http:// would expose the prompts to the network; use https")


def _promptlayer(file: File, entries: Entries) -> Iterator[Finding]:
    key, path = file.tracking.promptlayer.api_key, ("tracking", "promptlayer", "api_key")
    if key is not None and path not in entries.hidden:
        yield from entry_checks.of_key(key.reveal(), path, None, "PROMPTLAYER_API_KEY")
