"""The stages of a request, in order; the only module that knows all of them.

    bytes -> authenticate -> parse -> chain -> cache -> admit -> attempt* -> deliver -> settle -> log

Streams and plain answers take the same path: a plain answer is a stream of one event. One request is one call of
`Gateway.answer`, whose `finally` settles it, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from codellama_proxy.auth.keys import Keys
from codellama_proxy.cache.answer_source import AnswerSource
from codellama_proxy.cache.lookup import CacheLookup
from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.offload import LARGE_BODY_BYTES
from codellama_proxy.core.request_id import new_request_id
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.gateway.accounting import Accounting
from codellama_proxy.gateway.arrivals import Arrivals, room_of
from codellama_proxy.gateway.attempts import AttemptRunner
from codellama_proxy.gateway.prepared import LatestPrepared, PreparedSnapshot
from codellama_proxy.gateway.respond import Client, ClientDisconnectedError, Responder
from codellama_proxy.inbound.dialect import Dialect, Encoder
from codellama_proxy.inbound.registry import DIALECTS
from codellama_proxy.inbound.sealed import Seals
from codellama_proxy.openai_format.request import InferenceRequest, label
from codellama_proxy.policy.guardrail import check_client_system
from codellama_proxy.policy.permissions import permission
from codellama_proxy.request.context import ANONYMOUS, RequestContext
from codellama_proxy.request.transcript import Transcript
from codellama_proxy.routing.chain import Chain


class Gateway:
    """Holds what outlives requests; settings come from the snapshot of each request."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        keys: Keys,
        attempts: AttemptRunner,
        accounting: Accounting,
        cache: CacheLookup,
        time: Time,
        seal_key: bytes,
    ) -> None:
        """`seal_key`: the installation's, for reasoning that clients keep."""
        self._prepared = LatestPrepared(snapshot)
        self._keys = keys
        self._attempts = attempts
        self._accounting = accounting
        self._cache = cache
        self._responder = Responder(accounting, time)
        self._time = time
        self._seal_key = seal_key
        self._running: dict[asyncio.Task[None], RequestContext] = {}
        self._arriving: dict[asyncio.Task[None], RequestContext] = {}
        self._arrivals = Arrivals()

    @property
    def running(self) -> int:
        """The number of requests in flight whose bodies have been received."""
        return len(self._running)

    async def answer(self, endpoint: str, client: Client, key: Key | None = None) -> None:
        """Answers one request, with an error response if need be. Raises `ClientDisconnectedError`.

        `key`: already authenticated; without it, the client's credential decides.
        """
        dialect = DIALECTS[endpoint]
        encoder: Encoder | None = None
        prepared = self._prepared()
        snapshot = prepared.snapshot
        context = self._new_context(endpoint, client, snapshot)
        task = asyncio.current_task()
        assert task is not None
        source: AnswerSource | None = None
        chain: Chain | None = None
        try:
            await self._authenticate(context, client, prepared, key)
            self._check_room(snapshot)  # refuse before the body is received
            body = client.whole_body(snapshot.server.max_body)
            if body is None:
                body = await self._body(task, context, client, snapshot)
            self._running[task] = context
            seals = Seals(self._seal_key, context.settings.name)
            given = context, dialect, client, body, seals, snapshot
            request = context.request = (
                parsed(*given) if len(body) < LARGE_BODY_BYTES else await asyncio.to_thread(parsed, *given)
            )
            encoder = dialect.encoder(request, seals)
            permitted = permission(context.settings, context.key, context.endpoint)
            chain = self._attempts.chain(request, permitted, prepared)
            request = await self._accounting.with_text(request, chain)
            source = await self._cache.find_source(context, request, chain, snapshot, client.cache_control())
            self._attempts.plan(context, request, chain, snapshot)
            payable = chain = await self._accounting.admit(context, request, chain, snapshot)
            client.stay(lambda: _client_left(task, context, request))
            reply = await source.reply(lambda: self._attempts.run(context, request, payable, snapshot))
            await self._responder.deliver(context, request, reply, client, snapshot, encoder)
        except ProxyError as error:
            context.error = error
            await self._responder.refuse(context, client, error, encoder)
        except asyncio.CancelledError:
            if context.error is None:
                context.gone = True
                raise
            task.uncancel()  # `interrupt` cancelled it and set the error
            await self._responder.refuse(context, client, context.error, encoder)
        except ClientDisconnectedError:
            context.gone = True
            raise
        finally:
            self._running.pop(task, None)
            if context.following:
                assert chain is not None
                await self._accounting.admit_follower(context, chain, snapshot)
            await self._end(context, source)

    async def _end(self, context: RequestContext, source: AnswerSource | None) -> None:
        """Settles once the charge is known: the owner of a shared call waits while other requests need it."""
        try:
            if source is not None:
                await source.leave()
        finally:
            self._accounting.settle(context)
            if source is not None:
                await source.close()
            if context.error is not None:  # its traceback would keep the answer until a garbage collection
                context.error.__traceback__ = context.error.__context__ = None

    def interrupt(self, code: str, message: str) -> None:
        """Ends every request in flight with this error; called when the drain time is over."""
        for task, context in {**self._running, **self._arriving}.items():
            context.error = ProxyError(code, message)
            task.cancel()

    # --- the stages before the ledger ------------------------------------------------------------------------

    def _new_context(self, endpoint: str, client: Client, snapshot: Snapshot) -> RequestContext:
        now, wall = self._time.monotonic(), self._time.wall()
        context = RequestContext(new_request_id(wall), now, wall, endpoint, snapshot.digest)
        context.tracking = snapshot.tracking
        context.session, context.agent = client.session()
        if snapshot.tracking.promptlayer_key is not None or self._accounting.traced:
            context.hints = client.hints()
        if snapshot.tracking.content and endpoint != "embeddings":  # embeddings have no text to record
            context.transcript = Transcript()
        return context

    async def _body(
        self, task: asyncio.Task[None], context: RequestContext, client: Client, snapshot: Snapshot
    ) -> bytes:
        """A body that is not in memory as a whole. Raises as `client.body`, and `ProxyError` overloaded."""
        limit = snapshot.server.max_body
        if client.is_arriving():
            who = context.key.key_id if context.key else client.address()
            self._arriving[task] = context
            try:
                with self._arrivals.one(who, room_of(snapshot, context.settings, context.key)) as grew:
                    body = await client.body(limit, grew)
            finally:
                del self._arriving[task]
        else:
            body = await client.body(limit, _any_size)
        self._check_room(snapshot)
        return body

    def _check_room(self, snapshot: Snapshot) -> None:
        if len(self._running) >= snapshot.server.max_parallel_requests:
            raise ProxyError("overloaded", "Too many requests in flight; retry shortly.", retry_after=1.0)

    async def _authenticate(
        self, context: RequestContext, client: Client, prepared: PreparedSnapshot, key: Key | None
    ) -> None:
        required = prepared.snapshot.auth_required
        context.key = key or await self._keys.caller(client.credential(), required=required)
        context.rules = prepared.rules(context.key.project if context.key else ANONYMOUS)
        context.settings = context.rules.settings


def _client_left(task: asyncio.Task[None], context: RequestContext, request: InferenceRequest) -> None:
    """Handles a disconnect: a plain answer is completed; a stream is cancelled unless other requests need it."""
    context.leave()
    if request.stream and not context.others():
        task.cancel()


def parsed(
    context: RequestContext, dialect: Dialect, client: Client, body: bytes, seals: Seals, snapshot: Snapshot
) -> InferenceRequest:
    """The request in `body`, checked. Raises `ProxyError`."""
    request = dialect.parse(body, client.request_headers, context.id, int(context.created_at), seals)
    context.session = context.session or label(request.params.get("prompt_cache_key"))
    check_client_system(request.messages, snapshot.guardrail.client_system)
    return request


def _any_size(_: int) -> None:
    """A body that has already arrived is bounded by the size of one read."""
