"""Sends an answer to the client: a plain one in one piece, a stream as it arrives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from codellama_proxy.cache.reply import Reply
from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.header_lines import HeaderLines
from codellama_proxy.core.money import usd_text
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.core.types import ChunkOutlet, Event, Take, Usage, WriteChunk
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.gateway.accounting import Accounting
from codellama_proxy.gateway.response_headers import STREAM_LINES, response_headers
from codellama_proxy.inbound.dialect import Encoder
from codellama_proxy.inbound.registry import DIALECTS
from codellama_proxy.openai_format import completion
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.request.charge import total_charge
from codellama_proxy.request.context import RequestContext

TIMER_TOLERANCE_SECONDS = 0.02
"""How much earlier than the clock a timer may fire: event loops round to milliseconds."""


class Client(Protocol):
    """The interface of the web layer to one client."""

    begun: bool
    """The status line has been sent."""

    def credential(self) -> str | None:
        """The secret in the request's headers. Raises `ProxyError` if there are two."""

    def cache_control(self) -> str:
        """Its `Cache-Control` header; empty for none."""

    def request_headers(self) -> Mapping[str, str]:
        """Its headers, names in lower case."""

    def session(self) -> tuple[str | None, str | None]:
        """Its ids of the session and of the agent, from its headers, as `openai_format.request.label` bounds them."""

    def hints(self) -> dict[str, str]:
        """Its headers with tracking metadata."""

    def is_arriving(self) -> bool:
        """Whether part of the body has not arrived yet."""

    def address(self) -> str:
        """Its IP address."""

    def whole_body(self, limit: int) -> bytes | None:
        """The request body, if it is in memory as a whole; else `body` reads it. Raises `ProxyError` as that does."""

    async def body(self, limit: int, grew: Callable[[int], None]) -> bytes:
        """The whole request body; `grew` is called with the size of each piece in bytes and may raise.

        Raises `ClientDisconnectedError`, or `ProxyError`: too large, wrong content type, too slow.
        """

    def stay(self, left: Callable[[], None]) -> None:
        """From now on a disconnect only calls `left`; later writes raise `ClientDisconnectedError`."""

    async def begin(self, status: int, headers: Mapping[str, str], *, stream: bool = False) -> None:
        """The status and the headers of the response. In a stream, heartbeats are sent after a long silence."""

    async def write(self, data: bytes, *, last: bool) -> None:
        """Sends part of the body. Raises `ClientDisconnectedError` if the client does not read it in time."""

    async def answer(self, headers: HeaderLines, body: bytes) -> None:
        """The whole of a response with status 200, as `begin` and `write` do; `headers` have the length of the body."""

    def is_ready(self) -> bool:
        """Whether `put` may be called now; else `write` waits for the client."""

    def put(self, data: bytes) -> None:
        """Writes a part of a stream at once."""

    def chunk_writer(self) -> WriteChunk | None:
        """Writes parts of a stream in the form of HTTP chunks; `None` if it has to frame them itself."""


class ClientDisconnectedError(Exception):
    """The client has disconnected."""


class Responder:
    """Writes answers and errors, as a JSON response or as stream events."""

    def __init__(self, accounting: Accounting, time: Time) -> None:
        self._accounting = accounting
        self._time = time

    def deliver(
        self,
        context: RequestContext,
        request: InferenceRequest,
        reply: Reply,
        client: Client,
        snapshot: Snapshot,
        encoder: Encoder,
    ) -> Awaitable[None]:
        """Sends the whole answer. Raises `ProxyError` if the upstream fails before its end."""
        if request.stream:
            return self._deliver_stream(context, reply, client, snapshot, encoder)
        return self._deliver_whole(context, reply, client, encoder)

    async def _deliver_whole(
        self, context: RequestContext, reply: Reply, client: Client, encoder: Encoder
    ) -> None:
        """Sends a plain answer: one event, with which its reply has ended."""
        context.note(reply.first)
        event = reply.first[0]
        if (booked := await self._booked(context)) is not None:
            event = completion.with_estimate(event, booked)
        data = encoder.whole(event)
        before = f"content-type: application/json\r\ncontent-length: {len(data)}\r\n"
        cost = usd_text(0 if context.kept is not None else total_charge(context).cost_nanos)
        if cost is not None:
            before += f"x-proxy-cost-usd: {cost}\r\n"
        now = context.first_at = self._time.monotonic()
        await client.answer(response_headers(context, now, self._time.wall, before), data)
        context.complete = True

    async def _deliver_stream(
        self, context: RequestContext, reply: Reply, client: Client, snapshot: Snapshot, encoder: Encoder
    ) -> None:
        deadline = context.started + snapshot.routing.deadline
        events = reply.first

        def take(batch: Sequence[Event]) -> bool:
            if not client.is_ready():
                return False
            client.put(encoder.events(batch, ended=False))
            context.note(batch)
            return True

        try:
            while True:
                ended = reply.ended
                context.note(events)
                if ended and (booked := await self._booked(context)) is not None:
                    events = _with_usage(reply.first, events, booked)
                data = encoder.events(events, ended=ended)
                if not client.begun:
                    now = context.first_at = self._time.monotonic()
                    headers = response_headers(context, now, self._time.wall, STREAM_LINES)
                    await client.begin(200, headers, stream=True)
                await client.write(data, last=ended)
                if ended:
                    break
                outlet = _outlet(context, client, encoder)
                events = await self._more(context, reply, deadline, take, outlet)
        except AttemptError as failed:
            raise ProxyError(failed.failure.code, failed.failure.message) from None
        context.complete = True

    async def _more(
        self,
        context: RequestContext,
        reply: Reply,
        deadline: float,
        take: Take,
        outlet: ChunkOutlet | None,
    ) -> Sequence[Event]:
        """`Reply.more` until the deadline."""
        started = self._time.monotonic()
        try:
            left = max(deadline - started, 0.0)
            return await reply.more(left, take, outlet)
        except AttemptError:
            if self._time.monotonic() >= deadline - TIMER_TOLERANCE_SECONDS:
                message = "The answer was not complete at the deadline."
                raise ProxyError("deadline_exceeded", message) from None
            raise
        finally:
            context.waited += self._time.monotonic() - started

    async def _booked(self, context: RequestContext) -> Usage | None:
        """The usage that is booked for an answer that has ended; `None` if that is the reported one."""
        if context.kept is None:
            charge = await self._accounting.charge(context)
            return None if charge is None or charge.basis == "exact" else charge.usage
        return await self._accounting.estimated(context.kept) if context.kept.usage is None else None

    async def refuse(
        self, context: RequestContext, client: Client, error: ProxyError, encoder: Encoder | None
    ) -> None:
        """Sends an error: as a JSON response, or as the end of a stream."""
        if client.begun:
            assert encoder is not None
            await client.write(encoder.broken(error), last=True)
            return
        body = DIALECTS[context.endpoint].error_body(error, context.id)
        headers = response_headers(context, self._time.monotonic(), self._time.wall)
        whole = {**headers, **error.wire_headers(), "content-length": str(len(body))}
        await client.begin(error.status, whole)
        await client.write(body, last=True)


def _with_usage(first: Sequence[Event], last: Sequence[Event], booked: Usage) -> Sequence[Event]:
    """The last events of a stream with the booked usage, marked as an estimate. `first`: its first events."""
    begun = next(event for event in first if event.body)
    kept = [event for event in last if not event.usage_only]
    return [*kept, completion.estimated_chunk(begun, booked)]


def _outlet(context: RequestContext, client: Client, encoder: Encoder) -> ChunkOutlet | None:
    """Where the chunks of a stream may be sent without the encoder; `None`: nowhere."""
    write = client.chunk_writer() if encoder.form is not None else None
    return None if write is None else ChunkOutlet(write, context.note, raw=encoder.form == "raw")
