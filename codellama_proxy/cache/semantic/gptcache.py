"""A GPTCache server as a semantic backend, used through its HTTP `/get` and `/put`.

GPTCache has no scopes, ages or models, and other clients may write to it. So each prompt begins with the bucket and
a time period, and an answer is accepted only if it is our envelope, of the same bucket, and not expired.
Source: github.com/zilliztech/GPTCache, gptcache_server.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.cache.key import MAX_CACHED_BYTES, CachedAnswer
from codellama_proxy.cache.semantic.embeddings import (
    LOOKUP_SECONDS,
    CircuitBreaker,
    SemanticMatch,
    SemanticQuery,
)
from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.openai_format.completion import whole_event
from codellama_proxy.request.context import RequestContext
from codellama_proxy.upstream.http import Transport, TransportError

VERSION = 1
MAX_BODY_BYTES = 4 * MAX_CACHED_BYTES
"""Maximum size of a response, which is our envelope inside a JSON string."""
MAX_TEXT_CHARACTERS = 32_000
"""Maximum length of a last turn that is sent."""


class GptCache:
    """A backend on a GPTCache server. A failure of the server is a miss."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        ttl: float,
        transport: Transport,
        troubles: Counter[str],
        time: Time,
    ) -> None:
        self._url: str = settings["url"].rstrip("/")
        self._ttl = ttl
        self._transport = transport
        self._troubles = troubles
        self._time = time
        self._circuit = CircuitBreaker(time.monotonic)

    async def find(self, question: SemanticQuery, asker: RequestContext, snapshot: Snapshot) -> SemanticMatch:
        del asker, snapshot
        now = self._time.wall()
        found = await self._post("/get", {"prompt": self._prompt(question, now)}, question)
        answer = found.get("answer") if isinstance(found, dict) else None
        if not isinstance(answer, str):
            return SemanticMatch()
        try:
            return opened(answer, question, now)
        except ValueError:
            self._troubles["envelope"] += 1
            return SemanticMatch()

    async def keep(self, question: SemanticQuery, memo: Any, key: bytes, answer: CachedAnswer) -> None:
        del memo, key
        wanted = {"prompt": self._prompt(question, self._time.wall()), "answer": envelope(answer, question)}
        await self._post("/put", wanted, question)

    async def close(self) -> None:
        return

    def _prompt(self, question: SemanticQuery, now: float) -> str:
        """The prompt; it changes every `ttl` seconds, because GPTCache deletes nothing and prefers old entries."""
        epoch = int(now // self._ttl)
        return f"codellama-proxy:{question.bucket.hex()[:16]}:{epoch}\n{question.text}"

    async def _post(self, path: str, body: Mapping[str, Any], question: SemanticQuery) -> Any:
        if self._circuit.open or len(question.text) > MAX_TEXT_CHARACTERS:
            return None
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                return orjson.loads(await self._exchange(path, orjson.dumps(body)))
        except (TransportError, TimeoutError, ValueError):
            self._circuit.failed()
            self._troubles["gptcache"] += 1
            return None

    async def _exchange(self, path: str, body: bytes) -> bytes:
        """The body of the response. Raises `ValueError` unless it is a 200 of acceptable size."""
        request = HttpRequest(self._url + path, {"content-type": "application/json"}, body)
        response = await self._transport.send(request, LOOKUP_SECONDS)
        try:
            found = b""
            async for piece in response.body:
                found += piece
                if len(found) > MAX_BODY_BYTES:
                    raise ValueError("too large")
        finally:
            await response.body.aclose()
        if response.status != 200:
            raise ValueError("not a 200")
        return found


# --- the envelope --------------------------------------------------------------------------------------------


def envelope(answer: CachedAnswer, question: SemanticQuery) -> str:
    """An answer as JSON, with everything that is needed to verify it."""
    whole = {
        "v": VERSION,
        "ns": question.bucket.hex(),
        "text": _digest(question.text),
        "created": answer.created_at,
        "exp": answer.expires_at,
        "deployment": answer.deployment,
        "dropped": answer.dropped,
        "response": answer.event.body.decode(),
    }
    return orjson.dumps(whole).decode()


def opened(text: str, question: SemanticQuery, now: float) -> SemanticMatch:
    """The match in an envelope; empty if expired. Raises `ValueError` if it is invalid or of another bucket."""
    found = orjson.loads(text)
    try:
        if (found["v"], found["ns"]) != (VERSION, question.bucket.hex()):
            raise ValueError("another version or bucket")
        if found["exp"] <= now:
            return SemanticMatch()
        names = tuple([str(name) for name in found["dropped"]])
        event = whole_event(found["response"].encode())
        answer = CachedAnswer(
            event, str(found["deployment"]), names, float(found["created"]), float(found["exp"])
        )
        same = found["text"] == _digest(question.text)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("not an envelope") from error
    return SemanticMatch(answer, 1.0 if same else None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
