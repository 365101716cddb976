"""The embedding request that the semantic cache sends on behalf of another request."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson

from codellama_proxy.cache.semantic.embeddings import LOOKUP_SECONDS
from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Model, Snapshot
from codellama_proxy.gateway.accounting import Accounting
from codellama_proxy.gateway.attempts import AttemptRunner
from codellama_proxy.inbound.openai import parse_embedding
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing.chain import Chain


class Embedder:
    """Gets embeddings from a model of this proxy, as a request of its own, charged to the caller's key."""

    def __init__(self, attempts: AttemptRunner, accounting: Accounting, time: Time) -> None:
        self._attempts = attempts
        self._accounting = accounting
        self._time = time

    async def ask(self, text: str, model: Model, asker: RequestContext, snapshot: Snapshot) -> bytes | None:
        """The body of an `/embeddings` response; `None` if a limit refuses the request. Raises `ProxyError`."""
        routing = replace(snapshot.routing, deadline=LOOKUP_SECONDS, max_attempts=2)
        snapshot = replace(snapshot, routing=routing)
        context = self._new_context(asker)
        wanted = {"model": model.name, "input": text, "encoding_format": "float"}
        request = parse_embedding(orjson.dumps(wanted), context.id, int(context.created_at))
        context.request = request = request._replace(user=asker.request.user if asker.request else None)
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                if not await self._admitted(context, request, model, snapshot):
                    return None
                reply = await self._attempts.run(context, request, Chain([model]), snapshot)
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
                await asyncio.shield(counting)  # the ledger must include it before the caller is admitted

    async def _admitted(
        self, context: RequestContext, request: InferenceRequest, model: Model, snapshot: Snapshot
    ) -> bool:
        try:
            await self._accounting.admit(context, request, Chain([model]), snapshot)
        except ProxyError as refusal:
            context.error = refusal
            return False
        return True

    def _new_context(self, asker: RequestContext) -> RequestContext:
        now, wall = self._time.monotonic(), self._time.wall()
        context = RequestContext(
            f"emb_{asker.id.removeprefix('req_')}", now, wall, "embeddings", asker.config
        )
        context.key, context.settings, context.rules = asker.key, asker.settings, asker.rules
        context.session, context.agent = asker.session, asker.agent
        context.counts = False
        return context
