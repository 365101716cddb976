"""One HTTP/1.1 connection to a provider, with one request in progress at a time.

An `asyncio.Protocol` over httptools' (llhttp's) strict parser. It moves raw bytes: no decompression, no redirects, no
cookies. Memory is bounded: at most `MAX_HEAD_BYTES` of head, trailers or chunk framing between two pieces of a body,
and reading pauses while more than `MAX_UNREAD_BYTES` of a body are unread. Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Mapping
from enum import Enum

import httptools

from codellama_proxy.upstream.http import ReceivedHeaders, Sink, TransportError

MAX_HEAD_BYTES = 64 << 10
MAX_FIELD_BYTES = 16 << 10
MAX_FIELDS = 256
MAX_UNREAD_BYTES = 256 << 10

FRAMING = ("content-length", "transfer-encoding")
"""The fields that tell the length of a body; without them it ends with the connection."""


class ExchangeError(TransportError):
    """The exchange on a connection failed, possibly after the upstream processed the request."""


class ProtocolError(ExchangeError):
    """The upstream sent an invalid HTTP/1.1 response, or ended it too early."""


class ConnectionLostError(ExchangeError):
    """The network ended the connection."""


class _Answer(Enum):
    """How much of the response has been received."""

    NONE = 0  # no request is in progress
    AWAITED = 1  # the request was sent; no final head yet
    BODY = 2  # the head was received
    COMPLETE = 3  # the whole response was received


_NONE, _AWAITED, _BODY, _COMPLETE = _Answer


class Connection(asyncio.Protocol):
    """`send`, then `read` until it returns nothing, then `send` again while `reusable`."""

    __slots__ = (
        "_answer",
        "_error",
        "_fields",
        "_keep_alive",
        "_parser",
        "_paused",
        "_poll",
        "_received",
        "_relay",
        "_silent",
        "_sink",
        "_unread",
        "_unread_bytes",
        "_waiter",
        "headers",
        "idle_since",
        "on_body",
        "status",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        """As in `Response`."""
        self.idle_since = 0.0
        """Seconds of the event loop's clock."""
        self._answer = _NONE
        self._error: ExchangeError | None = None
        self._fields: list[tuple[bytes, bytes]] = []
        """The header fields received."""
        self._keep_alive = True
        self._paused = False
        self._poll: select.poll | None = None
        """Watches the socket for input that the event loop has not read yet."""
        self._received = b""
        """The latest input, while the sink gets its content."""
        self._relay: Sink | None = None
        """Gets input before the parser, which is between two chunks."""
        self._silent = 0
        """Bytes received since the last piece of a body or the final head."""
        self._sink: Sink | None = None
        """Set while a task waits in `pour`."""
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        """Of the pieces in `_unread`; counted while there is no sink."""
        self._waiter: asyncio.Future[None] | None = None
        self.on_body = self._unread.append
        """The parser's call for a piece of the body. No function of ours: streams arrive in many small pieces."""
        self._parser = httptools.HttpResponseParser(self)

    # --- for the pool ----------------------------------------------------------------------------------------

    async def send(self, head: bytes, body: bytes) -> None:
        """Sends a request and returns when the head of the response has arrived. Raises `ExchangeError`."""
        assert self._answer is _NONE
        self._answer = _AWAITED
        self.transport.writelines((head, body))
        while self._answer is _AWAITED:
            await self._wait_for_input()

    async def read(self) -> bytes:
        """The bytes of the body received since the last call; empty at its end. Raises `ExchangeError`."""
        while not self._unread:
            if self._answer is _COMPLETE:
                return b""
            await self._wait_for_input()
        return self._taken()

    def whole_body(self) -> bytes | None:
        """The body, if it has arrived completely; else nothing is read."""
        if self._answer is not _COMPLETE:
            return None
        return self._taken() if self._unread else b""

    def is_read(self) -> bool:
        """Whether the whole body was received and read."""
        return self._answer is _COMPLETE and not self._unread

    async def pour(self, sink: Sink) -> bool:
        """Gives the body to `sink` as it arrives, without waking the task, until `sink` takes no more.

        Returns `False` at the body's end. Raises `ExchangeError`, and what `sink` raises.
        """
        while not self._unread or sink(self._taken()):
            if self._answer is _COMPLETE and not self._unread:
                return False
            self._sink = sink
            try:
                await self._wait_for_input()
            except ExchangeError:
                if self._sink is not None:
                    raise
            finally:
                stopped, self._sink = self._sink is None, None
                self._relay = None
            if stopped:
                return True
        return True

    def ends_chunk(self, piece: bytes) -> bool:
        """As of `ResponseBody`. Input that begins with the piece may be the rest of an earlier chunk."""
        data = self._received
        return data == b"%x\r\n%b\r\n" % (len(piece), piece) and not data.startswith(piece)

    def pass_on(self, relay: Sink) -> None:
        """As of `ResponseBody`."""
        self._relay = relay

    def _taken(self) -> bytes:
        pieces = self._unread
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._unread_bytes = 0
        if self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()
        return data

    def release(self) -> bool:
        """Ends the exchange. Returns whether another request may be sent; if not, the connection is closed."""
        reusable = (
            self._answer is _COMPLETE
            and self._keep_alive
            and self._error is None
            and not self._unread
            and not self.transport.is_closing()
            and self.transport.get_write_buffer_size() == 0
        )
        self._answer = _NONE
        if not reusable:
            self.transport.abort()
        return reusable

    @property
    def complete(self) -> bool:
        """Whether the response was received whole, or failed."""
        return self._answer is _COMPLETE or self._error is not None

    def is_reusable(self) -> bool:
        """Whether another request may be sent: still open, and the kernel holds no input (or end of it)."""
        if self.transport.is_closing() or not self._keep_alive:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.transport.get_extra_info("socket"), select.POLLIN | select.POLLRDHUP)
        return not self._poll.poll(0)

    def close(self) -> None:
        self.transport.abort()

    # --- the event loop's calls ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio.Transport

    def data_received(self, data: bytes) -> None:
        relay = self._relay
        if relay is not None:
            try:
                if relay(data):
                    return
            except Exception as error:
                self._raise(error)
                return
            self._relay = None
        if self._answer is _NONE or self._answer is _COMPLETE:
            self._drop()
            return
        unread = self._unread
        before = len(unread)
        self._silent += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(ProtocolError("upgraded"))
        except httptools.HttpParserError:
            if self.complete:
                self._drop()  # the response was complete; only the bytes after it were wrong
            else:
                self._fail(ProtocolError("not_http"))
        if len(unread) > before:
            self._silent = 0
        elif self._silent > MAX_HEAD_BYTES and not self.complete:
            self._fail(ProtocolError("head_too_large"))
        if self._sink is not None:
            self._received = data
            self._pour(self._sink)
            self._received = b""
            return
        if self._answer is not _COMPLETE:  # then no more comes
            self._bound(unread[before:])
        self._wake()

    def eof_received(self) -> bool:
        self._ended(None)
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        self._ended(error)

    # --- the parser's calls ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer is _COMPLETE:
            raise ProtocolError("a second answer")  # feed_data raises it as a parser error
        self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is _AWAITED:  # later ones are trailers: read and dropped
            fields = self._fields
            if len(name) + len(value) > MAX_FIELD_BYTES or len(fields) >= MAX_FIELDS:
                raise ProtocolError("head_too_large")  # feed_data raises it as a parser error
            fields.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # below 200: an interim response (RFC 9110, 15.2)
            self.status = status
            self.headers = ReceivedHeaders(self._fields)
            self._silent = 0
            self._answer = _BODY

    def on_message_complete(self) -> None:
        if self._answer is _BODY:
            self._answer = _COMPLETE
            self._silent = 0
            self._keep_alive = self._parser.should_keep_alive()

    # --- inside ----------------------------------------------------------------------------------------------

    async def _wait_for_input(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None and not self._unread:
            raise self._error

    def _pour(self, sink: Sink) -> None:
        """Gives `sink` what has come; wakes its task if it takes no more, and at the end."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return  # its task is about to go on, or was cancelled
        if self._unread:
            try:
                if not sink(self._taken()):
                    self._sink = None
            except Exception as error:
                self._raise(error)
                return
        if self._sink is None or self._answer is _COMPLETE or self._error is not None:
            self._wake()

    def _bound(self, pieces: list[bytes]) -> None:
        """Pauses reading if these further pieces leave too much unread."""
        self._unread_bytes += sum([len(piece) for piece in pieces])
        if self._unread_bytes > MAX_UNREAD_BYTES and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _raise(self, error: Exception) -> None:
        """Raises an error of a sink where its task waits."""
        self._relay = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def _drop(self) -> None:
        """Drops the connection after unsolicited input, which must never be taken for the next response."""
        self._keep_alive = False
        self.transport.abort()

    def _fail(self, error: ExchangeError) -> None:
        self._error = error
        self._keep_alive = False
        self.transport.abort()

    def _ended(self, error: BaseException | None) -> None:
        self._keep_alive = False
        if self._error is not None or self._answer in (_NONE, _COMPLETE):
            return
        if error is not None:
            self._error = ConnectionLostError(type(error).__name__)
        elif self._answer is _BODY and not any(name in self.headers for name in FRAMING):
            self._answer = _COMPLETE  # RFC 9112 6.3, case 8: the body ends with the connection
        else:
            self._error = ProtocolError("disconnected")
        self._wake()
