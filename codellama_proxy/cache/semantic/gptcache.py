"""A GPTCache server as a back end for similar requests: its HTTP /get and /put, and nothing else of it.

GPTCache knows no scopes, no ages and no models, and what it holds can be written by others. So the prompt it is
given begins with the bucket and the hour, and what it answers is believed only if it is our envelope, of the
same bucket, and not too old. (github.com/zilliztech/GPTCache, gptcache_server)
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx2
import orjson

from codellama_proxy.cache.key import MAX_CACHED_BYTES, CachedAnswer
from codellama_proxy.cache.semantic.embeddings import PATIENCE, CircuitBreaker, SemanticMatch, SemanticQuery
from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.openai_format.completion import whole_event
from codellama_proxy.request.context import RequestContext

VERSION = 1
MAX_BODY = 4 * MAX_CACHED_BYTES
"""Bytes of its answer: ours inside a JSON string."""
MAX_TEXT = 32_000
"""Characters of a last turn that is sent there."""


class GptCache:
    """Asks a server. Its failure is a miss."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        ttl: float,
        wire: httpx2.AsyncBaseTransport,
        troubles: Counter[str],
        time: Time,
    ) -> None:
        self._url: str = settings["url"].rstrip("/")
        self._ttl = ttl
        self._wire = wire
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
        """It deletes nothing and prefers the oldest, so each stretch of `ttl` has prompts of its own."""
        epoch = int(now // self._ttl)
        return f"codellama-proxy:{question.bucket.hex()[:16]}:{epoch}\n{question.text}"

    async def _post(self, path: str, body: Mapping[str, Any], question: SemanticQuery) -> Any:
        if self._circuit.open or len(question.text) > MAX_TEXT:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                return orjson.loads(await self._exchange(path, orjson.dumps(body)))
        except (httpx2.TransportError, TimeoutError, ValueError):
            self._circuit.failed()
            self._troubles["gptcache"] += 1
            return None

    async def _exchange(self, path: str, body: bytes) -> bytes:
        """Raises `ValueError` for an answer that is none."""
        request = httpx2.Request(
            "POST",
            self._url + path,
            headers={"content-type": "application/json", "accept-encoding": "identity"},
            content=body,
            extensions={"timeout": {"connect": PATIENCE}},
        )
        response = await self._wire.handle_async_request(request)
        try:
            found = b""
            async for piece in response.stream:  # type: ignore[union-attr]  # always an async stream here
                found += piece
                if len(found) > MAX_BODY:
                    raise ValueError("too large")
        finally:
            await response.aclose()
        if response.status_code != 200:
            raise ValueError("not a 200")
        return found


# --- the envelope --------------------------------------------------------------------------------------------


def envelope(answer: CachedAnswer, question: SemanticQuery) -> str:
    """An answer with all that is needed to believe it."""
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
    """What is in an envelope, if it is of this bucket and still good. Raises `ValueError` when it is not ours."""
    found = orjson.loads(text)
    try:
        if (found["v"], found["ns"]) != (VERSION, question.bucket.hex()):
            raise ValueError("another's")
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
