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

    def __init__(self, attempts: AttemptRunner, accounting: Accounting, time: Time) -> None:
        self._attempts = attempts
        self._accounting = accounting
        self._time = time

    async def ask(self, text: str, model: Model, asker: RequestContext, snapshot: Snapshot) -> bytes | None:
        """An answer of /embeddings; `None` if the ledger does not admit it. Raises `ProxyError`."""
        routing = replace(snapshot.routing, deadline=PATIENCE, max_attempts=2)
        snapshot = replace(snapshot, routing=routing)
        context = self._new_context(asker)
        wanted = {"model": model.name, "input": text, "encoding_format": "float"}
        request = parse_embedding(orjson.dumps(wanted), context.id, int(context.created_at))
        context.request = request = request._replace(user=asker.request.user if asker.request else None)
        try:
            async with asyncio.timeout(PATIENCE):
                if not await self._admitted(context, request, model, snapshot):
                    return None
                reply = await self._attempts.open(context, request, [model], snapshot)
                try:
                    context.note(reply.first)
                    context.complete = True
                    return reply.first[0].body
                finally:
                    await reply.close()
        except ProxyError as error:
            context.error = error
            raise
        except TimeoutError:
            context.error = ProxyError("deadline_exceeded", "No vector before the deadline.")
            raise context.error from None
        finally:
            counting = self._accounting.settle(context)
            if counting is not None:
                await asyncio.shield(counting)  # it is over before the request runs that it is asked for

    async def _admitted(
        self, context: RequestContext, request: InferenceRequest, model: Model, snapshot: Snapshot
    ) -> bool:
        try:
            await self._accounting.admit(context, request, [model], snapshot)
        except ProxyError as refusal:
            context.error = refusal
            return False
        return True

    def _new_context(self, asker: RequestContext) -> RequestContext:
        now, wall = self._time.monotonic(), self._time.wall()
        context = RequestContext(
            f"emb_{asker.id.removeprefix('req_')}", now, wall, "embeddings", asker.config
        )
        context.key, context.settings = asker.key, asker.settings
        context.counts = False
        return context
