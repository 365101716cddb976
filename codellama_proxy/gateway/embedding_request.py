"""The request for vectors that the semantic cache makes in order to answer another request."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson

from codellama_proxy.cache.semantic.embeddings import PATIENCE
from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Model, Snapshot
from codellama_proxy.gateway.accounting import Accounting
from codellama_proxy.gateway.attempts import AttemptRunner
from codellama_proxy.inbound.openai import parse_embedding
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.request.context import RequestContext


class Embedder:
    """Asks a model of this proxy for vectors: a request of its own, on the bill of the one that it is asked for."""

    def __init__(self, walk: AttemptRunner, accounts: Accounting, time: Time) -> None:
        self._walk = walk
        self._accounts = accounts
        self._time = time

    async def ask(self, text: str, model: Model, asker: RequestContext, snapshot: Snapshot) -> bytes | None:
        """An answer of /embeddings; `None` if the ledger does not admit it. Raises `ProxyError`."""
        routing = replace(snapshot.routing, deadline=PATIENCE, max_attempts=2)
        snapshot = replace(snapshot, routing=routing)
        trace = self._trace(asker)
        wanted = {"model": model.name, "input": text, "encoding_format": "float"}
        chat = parse_embedding(orjson.dumps(wanted), trace.id, int(trace.created_at))
        trace.chat = chat = chat._replace(user=asker.chat.user if asker.chat else None)
        try:
            async with asyncio.timeout(PATIENCE):
                if not await self._admitted(trace, chat, model, snapshot):
                    return None
                reply = await self._walk.open(trace, chat, [model], snapshot)
                try:
                    trace.note(reply.first)
                    trace.complete = True
                    return reply.first[0].body
                finally:
                    await reply.close()
        except ProxyError as error:
            trace.error = error
            raise
        except TimeoutError:
            trace.error = ProxyError("deadline_exceeded", "No vector before the deadline.")
            raise trace.error from None
        finally:
            counting = self._accounts.settle(trace)
            if counting is not None:
                await asyncio.shield(counting)  # it is over before the request runs that it is asked for

    async def _admitted(
        self, trace: RequestContext, chat: InferenceRequest, model: Model, snapshot: Snapshot
    ) -> bool:
        try:
            await self._accounts.admit(trace, chat, [model], snapshot)
        except ProxyError as refusal:
            trace.error = refusal
            return False
        return True

    def _trace(self, asker: RequestContext) -> RequestContext:
        now, wall = self._time.monotonic(), self._time.wall()
        trace = RequestContext(f"emb_{asker.id.removeprefix('req_')}", now, wall, "embeddings", asker.config)
        trace.key, trace.settings = asker.key, asker.settings
        trace.counts = False
        return trace
