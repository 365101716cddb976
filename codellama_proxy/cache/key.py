"""The rules of the cache: scopes, keys, freshness, and which answers may be stored. Pure.

A key is a digest of everything that can change an answer: the scope, and the request as each deployment of the
requested model would receive it (guardrail, messages, the client's parameters over the entry's). An answer of a
fallback is stored under the fallback's name, so that it is not served after an outage. Parameters set to OpenAI's
defaults are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.snapshot import Json, Model, Snapshot
from codellama_proxy.core.types import Event, Key
from codellama_proxy.openai_format.fields import invalid_type, invalid_value
from codellama_proxy.openai_format.parameters import BOOKKEEPING, DEFAULTS, MAX_TOKENS_FIELDS
from codellama_proxy.openai_format.request import InferenceRequest, Message
from codellama_proxy.policy.deployment_request import DeploymentRequests
from codellama_proxy.policy.guardrail import apply_guardrail

KEY_VERSION = 3
"""Changes with the meaning of a key's parts, so that older answers are not found."""
MAX_CACHED_BYTES = 1 << 20
"""Maximum size of a stored completion."""
CHUNK_OVERHEAD_BYTES = 256
"""Bytes of a chunk in memory besides its body."""
COMPLETE = frozenset({"stop", "tool_calls", "function_call"})
"""The finish reasons of complete answers."""


class CachedAnswer(NamedTuple):
    """One stored answer. Times are unix seconds."""

    event: Event
    """The whole completion."""
    deployment: str
    """The ID of the deployment that generated it."""
    dropped: tuple[str, ...]
    created_at: float
    expires_at: float
    chunks: Sequence[Event] = ()
    """The same as the events of a stream, once a request has asked for one; in memory only."""

    @property
    def size(self) -> int:
        size = len(self.event.body)
        for chunk in self.chunks:
            size += len(chunk.body) + CHUNK_OVERHEAD_BYTES
        return size


class CacheScope(NamedTuple):
    """Who shares answers. A request never gets an answer from another scope."""

    kind: str
    """`project`, `key` or `global`."""
    name: str
    project: str
    """The caller's project: for statistics and purging, not part of the key."""


class CacheDirectives(NamedTuple):
    """A client's restrictions on cache use; they never extend what the configuration permits."""

    read: bool = True
    write: bool = True
    ttl: float | None = None
    """Maximum lifetime of its answer, in seconds."""
    max_age: float | None = None
    """Maximum age of an answer for this client, in seconds."""

    def fresh(self, answer: CachedAnswer, ttl: float, now: float) -> bool:
        """Whether the answer is fresh enough for this client and the present `ttl` (seconds)."""
        age = now - answer.created_at
        oldest = ttl if self.max_age is None else min(ttl, self.max_age)
        return age < oldest and now < answer.expires_at

    def expiry(self, ttl: float, now: float) -> float:
        return now + (ttl if self.ttl is None else min(ttl, self.ttl))


NO_DIRECTIVES = CacheDirectives()


# --- the client's directives ---------------------------------------------------------------------------------


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
    """The scope of a request. `key`: `None` without authentication."""
    kind = snapshot.cache.scope
    if kind == "global":
        return _scope("global", "", project)
    if kind == "key" and key is not None:
        return CacheScope("key", key.key_id, project)
    return _scope("project", project, project)


@lru_cache(maxsize=4096)
def _scope(kind: str, name: str, project: str) -> CacheScope:
    return CacheScope(kind, name, project)


def key_of(kind: str, name: str, requests: DeploymentRequests, model: Model) -> bytes:
    """The key of `model`'s answers to a request in the scope `kind`, `name`: a SHA-256 digest."""
    request, policy = requests.request, requests.rules.guardrail.client_system
    messages = request.messages if policy != "drop" else apply_guardrail(request.messages, "", policy)
    parts = [KEY_VERSION, kind, name, request.endpoint, model.name, request.needed_tool, messages]
    own: Any = canonical_params(request.params)
    if len(model.deployments) > 1:
        own = orjson.Fragment(_serialized(own))  # serialized once for all
    digests = [b""]
    for deployment in model.deployments:
        parts.append(canonical_params(requests.at(deployment).params) if deployment.params else own)
        digests.append(requests.rules.candidate(deployment).settings_digest)
    digests[0] = _serialized(parts)
    return hashlib.sha256(b"".join(digests)).digest()


def _serialized(value: Any) -> bytes:
    """JSON; entries' parameters are frozen mappings."""
    return orjson.dumps(value, default=dict, option=orjson.OPT_SORT_KEYS)


def canonical_params(params: Json) -> dict[str, Any]:
    """The parameters that can change an answer, in canonical form."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        if name in BOOKKEEPING or value is None:
            continue
        canonical = _canonical_value(name, value)
        if name not in DEFAULTS or DEFAULTS[name] != canonical:
            found["max_tokens" if name in MAX_TOKENS_FIELDS else name] = canonical
    return found


def _canonical_value(name: str, value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if name == "stop" and isinstance(value, str):
        return [value]
    return list(value) if isinstance(value, tuple) else value  # an entry's arrays are tuples


# --- similar requests ----------------------------------------------------------------------------------------


def last_turn(request: InferenceRequest) -> str | None:
    """The text that may differ between similar requests; `None` if only an identical request may match."""
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
    """The request with an empty last turn, which is identical for requests that may be similar."""
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


# --- what may be stored --------------------------------------------------------------------------------------


def storable(completion: Json) -> bool:
    """Whether an answer is complete and not empty, so neither cut off nor filtered."""
    choices = completion.get("choices")
    if not choices:
        return False
    for one in choices:
        if one.get("finish_reason") not in COMPLETE or not _has_content(one.get("message")):
            return False
    return True


def _has_content(message: Json | None) -> bool:
    message = message or {}
    return bool(message.get("content") or message.get("tool_calls") or message.get("function_call"))
