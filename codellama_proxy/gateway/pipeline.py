"""The way of a request, stage after stage, and the only place that knows the whole of it.

    bytes -> authenticate -> parse -> chain -> cache? -> admit -> walk (attempt* -> next_step ->) -> first event
                                                                                  deliver -> settle -> log <-'

Streams and plain answers take the same way: a plain answer is a stream of one event. One request is one call
of `Gateway.answer`; whatever happens in it, its `finally` settles, once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from codellama_proxy.auth.keys import Keys
from codellama_proxy.cache.answer_source import AnswerSource
from codellama_proxy.cache.lookup import CacheLookup
from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.offload import off_loop
from codellama_proxy.core.snapshot import Model, Snapshot
from codellama_proxy.gateway.accounting import Accounting
from codellama_proxy.gateway.arrivals import Arrivals, room_of
from codellama_proxy.gateway.attempts import AttemptRunner
from codellama_proxy.gateway.respond import Client, ClientDisconnectedError, Responder
from codellama_proxy.inbound.openai import PARSERS
from codellama_proxy.openai_format.request import Endpoint, InferenceRequest
from codellama_proxy.policy.guardrail import check_client_system
from codellama_proxy.policy.permissions import permission
from codellama_proxy.request.context import ANONYMOUS, RequestContext
from codellama_proxy.request.transcript import Transcript


class Gateway:
    """Holds what outlives requests; never a setting."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        keys: Keys,
        walk: AttemptRunner,
        accounts: Accounting,
        recall: CacheLookup,
        time: Time,
    ) -> None:
        self._snapshot = snapshot
        self._keys = keys
        self._walk = walk
        self._accounts = accounts
        self._recall = recall
        self._delivery = Responder(accounts, time)
        self._time = time
        self._running: dict[asyncio.Task[None], RequestContext] = {}
        self._arriving: dict[asyncio.Task[None], RequestContext] = {}
        self._arrivals = Arrivals()

    @property
    def running(self) -> int:
        """Requests in flight, whose bodies have come."""
        return len(self._running)

    async def answer(self, endpoint: Endpoint, client: Client) -> None:
        """Answers one request, whatever it takes. Only bugs, cancellation and `ClientDisconnectedError` get out."""
        snapshot = self._snapshot()
        trace = self._trace(endpoint, client, snapshot)
        task = asyncio.current_task()
        assert task is not None
        place: AnswerSource | None = None
        models: Sequence[Model] = ()
        try:
            await self._authenticate(trace, client, snapshot)
            body = await self._body(task, trace, client, snapshot)
            self._enter(task, trace, snapshot)
            chat = trace.chat = await off_loop(len(body), parsed, trace, endpoint, body, snapshot)
            models = self._chain(trace, chat, snapshot)
            chat = await self._accounts.in_words(chat, models)
            place = await self._recall.find_source(trace, chat, models, snapshot, client.cache_control())
            self._walk.plan(trace, models)
            models = await self._accounts.admit(trace, chat, models, snapshot)
            client.stay(lambda: _client_left(task, trace, chat))
            reply = await place.reply(lambda: self._walk.open(trace, chat, models, snapshot))
            await self._delivery.deliver(trace, chat, reply, client, snapshot)
        except ProxyError as error:
            trace.error = error
            await self._delivery.refuse(trace, client, error)
        except asyncio.CancelledError:
            if trace.error is None:
                trace.gone = True
                raise
            task.uncancel()  # `interrupt` cancelled it, and left word why
            await self._delivery.refuse(trace, client, trace.error)
        except ClientDisconnectedError:
            trace.gone = True
            raise
        finally:
            self._running.pop(task, None)
            if trace.following:
                await self._accounts.admit_follower(trace, models, snapshot)
            await self._end(trace, place)

    async def _end(self, trace: RequestContext, place: AnswerSource | None) -> None:
        """Settles, once, when what there is to pay is known: a flight goes on while others need it."""
        try:
            if place is not None:
                await place.leave()
        finally:
            self._accounts.settle(trace)
            if place is not None:
                await place.close()

    def interrupt(self, code: str, message: str) -> None:
        """Ends every request in flight with an error: the drain is over."""
        for task, trace in {**self._running, **self._arriving}.items():
            trace.error = ProxyError(code, message)
            task.cancel()

    # --- the stages before the ledger ------------------------------------------------------------------------

    def _trace(self, endpoint: str, client: Client, snapshot: Snapshot) -> RequestContext:
        now, wall = self._time.monotonic(), self._time.wall()
        trace = RequestContext(request_id(wall), now, wall, endpoint, snapshot.digest)
        trace.tracking = snapshot.tracking
        if snapshot.tracking.promptlayer_key is not None or self._accounts.traced:
            trace.hints = client.hints()
        if snapshot.tracking.content and endpoint != "embeddings":  # nobody says anything in vectors
            trace.transcript = Transcript()
        return trace

    async def _body(
        self, task: asyncio.Task[None], trace: RequestContext, client: Client, snapshot: Snapshot
    ) -> bytes:
        most = snapshot.server.max_body
        self._check_room(snapshot)  # whoever would be refused need not send all of it first
        if not client.is_arriving():
            return await client.body(most, _any_size)
        who = trace.key.key_id if trace.key else client.address()
        self._arriving[task] = trace
        try:
            with self._arrivals.one(who, room_of(snapshot, trace.settings, trace.key)) as grew:
                return await client.body(most, grew)
        finally:
            del self._arriving[task]

    def _enter(self, task: asyncio.Task[None], trace: RequestContext, snapshot: Snapshot) -> None:
        self._check_room(snapshot)
        self._running[task] = trace

    def _check_room(self, snapshot: Snapshot) -> None:
        if len(self._running) >= snapshot.server.max_parallel_requests:
            raise ProxyError("overloaded", "Too many requests in flight; retry shortly.", retry_after=1.0)

    async def _authenticate(self, trace: RequestContext, client: Client, snapshot: Snapshot) -> None:
        trace.key = await self._keys.caller(client.credential(), required=snapshot.auth_required)
        trace.settings = snapshot.project(trace.key.project if trace.key else ANONYMOUS)

    def _chain(self, trace: RequestContext, chat: InferenceRequest, snapshot: Snapshot) -> Sequence[Model]:
        """The asked model and its fallbacks, as far as the key and its project may use them."""
        return self._walk.chain(chat, permission(trace.settings, trace.key, chat.endpoint), snapshot)


def _client_left(task: asyncio.Task[None], trace: RequestContext, request: InferenceRequest) -> None:
    """A plain answer is finished without its client; a stream ends, unless other requests wait for it, too."""
    trace.leave()
    if request.stream and not trace.others():
        task.cancel()


def parsed(trace: RequestContext, endpoint: Endpoint, body: bytes, snapshot: Snapshot) -> InferenceRequest:
    """The request in `body`. Raises `ProxyError`."""
    chat = PARSERS[endpoint](body, trace.id, int(trace.created_at))
    check_client_system(chat.messages, snapshot.guardrail.client_system)
    return chat


def request_id(wall: float) -> str:
    """Unique, and in the order of time: a ledger's index of such ids grows at its end only."""
    return f"req_{int(wall * 1000):011x}{random.getrandbits(52):013x}"


def _any_size(_: int) -> None:
    """A body that is here already is bounded by what one read takes."""
