"""What may be answered from the cache: whose, for which request, how old, and which answers are worth keeping.

A key is a digest of everything that can change an answer: who shares it, and the request as each deployment of
the asked model would get it (guardrail, messages, the entry's parameters under the client's). An answer that a
fallback gave is an answer of the fallback and is kept under its name, so an outage does not outlive itself.
Parameters that say what OpenAI's API does anyway are left out. Pure: knows no clock, no disk, no network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Json, Model, Snapshot
from codellama_proxy.core.types import Event, Key
from codellama_proxy.openai_format.fields import invalid_type, invalid_value
from codellama_proxy.openai_format.parameters import BOOKKEEPING, DEFAULTS, MAX_TOKENS_FIELDS
from codellama_proxy.openai_format.request import InferenceRequest, Message
from codellama_proxy.policy.deployment_request import DeploymentRequest, DeploymentRequests
from codellama_proxy.policy.guardrail import apply_guardrail

MAX_CACHED_BYTES = 1 << 20
"""Bytes of a completion; what is longer is not kept."""
COMPLETE = frozenset({"stop", "tool_calls", "function_call"})


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """One kept answer. Times are unix seconds."""

    event: Event
    """The whole completion."""
    deployment: str
    """Who gave it: an id of the asked model's deployments."""
    dropped: tuple[str, ...]
    created_at: float
    expires_at: float

    @property
    def size(self) -> int:
        return len(self.event.body)


@dataclass(frozen=True, slots=True)
class CacheScope:
    """Who shares an answer. No request is answered from another's."""

    kind: str
    """`project`, `key` or `global`."""
    name: str
    project: str
    """Who asked: for statistics and for purging, not part of the key."""


@dataclass(frozen=True, slots=True)
class CacheDirectives:
    """What the client wants of the cache: less than the configuration gives, never more."""

    read: bool = True
    write: bool = True
    ttl: float | None = None
    """Seconds its answer may be kept."""
    max_age: float | None = None
    """Seconds since the answer it gets was made."""

    def fresh(self, answer: CachedAnswer, ttl: float, now: float) -> bool:
        """Whether this answer is still good for this client, under the configuration's `ttl` of today."""
        age = now - answer.created_at
        oldest = ttl if self.max_age is None else min(ttl, self.max_age)
        return age < oldest and now < answer.expires_at

    def expiry(self, ttl: float, now: float) -> float:
        return now + (ttl if self.ttl is None else min(ttl, self.ttl))


NO_DIRECTIVES = CacheDirectives()


# --- the client's wishes -------------------------------------------------------------------------------------


def directives_of(cache: Json, cache_control: str) -> CacheDirectives:
    """From the body's `cache` object and the `Cache-Control` header. Raises `ProxyError`."""
    if not cache and not cache_control:
        return NO_DIRECTIVES
    words = [word.strip().lower() for word in cache_control.split(",")] if cache_control else []
    ages = [age for age in (_max_age(word) for word in words) if age is not None]
    age = _seconds(cache, "s-maxage")
    return CacheDirectives(
        read=not (_flag(cache, "no-cache") or "no-cache" in words),
        write=not (_flag(cache, "no-store") or "no-store" in words),
        ttl=_seconds(cache, "ttl"),
        max_age=min([*ages, *([] if age is None else [age])], default=None),
    )


def _flag(cache: Json, name: str) -> bool:
    found = cache.get(name)
    if found is not None and not isinstance(found, bool):
        raise invalid_type(f"cache.{name}", "boolean")
    return bool(found)


def _seconds(cache: Json, name: str) -> float | None:
    found = cache.get(name)
    if found is None:
        return None
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise invalid_type(f"cache.{name}", "number")
    if found < 0:
        raise invalid_value(f"cache.{name}", f"'cache.{name}' must not be negative.")
    return float(found)


def _max_age(word: str) -> float | None:
    name, _, value = word.partition("=")
    return float(value) if name == "max-age" and value.isascii() and value.isdigit() else None


# --- the key -------------------------------------------------------------------------------------------------


def scope_of(snapshot: Snapshot, project: str, key: Key | None) -> CacheScope:
    match snapshot.cache.scope:
        case "global":
            return CacheScope("global", "", project)
        case "key" if key is not None:
            return CacheScope("key", key.key_id, project)
    return CacheScope("project", project, project)


def key_of(kind: str, name: str, requests: DeploymentRequests, model: Model) -> bytes:
    """The digest under which answers of `model` to a request are shared in the scope `kind`, `name`."""
    request, policy = requests.request, requests.guardrail.client_system
    # Most entries have no parameters of their own: the client's are then the same for all, and serialised once.
    params = orjson.Fragment(_serialised(canonical_params(request.params)))
    whole = {
        "version": 1,
        "scope": [kind, name],
        "mode": request.mode,
        "model": model.name,
        "messages": apply_guardrail(request.messages, "", policy),
        "deployments": [_addressed(requests.at(one), params) for one in model.deployments],
    }
    return hashlib.sha256(_serialised(whole)).digest()


def _serialised(value: Any) -> bytes:
    """JSON; entries' parameters are frozen mappings."""
    return orjson.dumps(value, default=dict, option=orjson.OPT_SORT_KEYS)


def _addressed(here: DeploymentRequest, own: orjson.Fragment) -> list[Any]:
    """What, beside the client's messages, makes the request that this deployment would get."""
    to = here.deployment
    params = canonical_params(here.params) if to.params else own
    where = [to.id, to.provider, to.base_url, to.model, to.drop_params, to.extra]
    return [*where, here.guardrail_text, params]


def canonical_params(params: Json) -> dict[str, Any]:
    """The parameters that can change an answer, one spelling for each meaning."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        if name in BOOKKEEPING or value is None:
            continue
        plain = _plain(name, value)
        if name not in DEFAULTS or DEFAULTS[name] != plain:
            found["max_tokens" if name in MAX_TOKENS_FIELDS else name] = plain
    return found


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if name == "stop" and isinstance(value, str):
        return [value]
    return list(value) if isinstance(value, tuple) else value  # as entries have arrays


# --- similar requests ----------------------------------------------------------------------------------------


def last_turn(request: InferenceRequest) -> str | None:
    """The text that similar requests may differ in; `None` where nothing but an equal one will do."""
    if (
        request.params.get("tools")
        or request.params.get("functions")
        or request.messages[-1]["role"] != "user"
    ):
        return None
    if not all(_only_text(message) for message in request.messages):
        return None
    return _text(request.messages[-1]) or None


def without_last_turn(request: InferenceRequest) -> InferenceRequest:
    """The request with its last turn left blank: the same for all that may be similar."""
    *earlier, last = request.messages
    return request._replace(messages=[*earlier, {**last, "content": ""}])


def _only_text(message: Message) -> bool:
    if message.get("tool_calls") or message.get("function_call") or message["role"] in ("tool", "function"):
        return False
    content = message.get("content")
    return isinstance(content, str) or (
        isinstance(content, list) and all(part["type"] == "text" for part in content)
    )


def _text(message: Message) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


# --- what is worth keeping -----------------------------------------------------------------------------------


def storable(completion: Json) -> bool:
    """Whether it is a whole answer that says something: never one cut, filtered or empty."""
    choices = completion.get("choices")
    return bool(choices) and all(
        choice.get("finish_reason") in COMPLETE and _says_something(choice.get("message") or {})
        for choice in choices or ()
    )


def _says_something(message: Json) -> bool:
    return any(message.get(name) for name in ("content", "tool_calls", "function_call"))
