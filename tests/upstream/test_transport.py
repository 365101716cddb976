"""HTTP to upstreams: every way to fail is a transient failure, and a request is written once."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from codellama_proxy.core.types import HttpRequest
from codellama_proxy.upstream.connection import ProtocolError
from codellama_proxy.upstream.dial import DialError, DialTimeoutError, ProxyRefusedError
from codellama_proxy.upstream.http import AddressError, TransportError
from codellama_proxy.upstream.transport import HttpTransport
from tests.support.attempt_driver import answer_text, playing, reading
from tests.support.cases import each
from tests.support.dialogues import OPENAI, chunk, sse
from tests.support.fake_internet import answer, stream

TEXT = OPENAI.answers["text"]
ROLE = sse(chunk({"role": "assistant", "content": ""}))
WORDS = sse(chunk({"content": "def "}), chunk({"content": "f"}))


def subclasses(kind: type[Any]) -> list[type[Any]]:
    return [kind, *(found for one in kind.__subclasses__() for found in subclasses(one))]


ERRORS: list[type[TransportError]] = subclasses(TransportError)
NOT_SENT = {
    AddressError: "address",
    DialError: "connect",
    DialTimeoutError: "connect_timeout",
    ProxyRefusedError: "proxy",
}


@each("streamed", [False, True])
@each("kind", ERRORS)
def test_every_transport_error_is_a_transient_failure(kind: type[TransportError], streamed: bool) -> None:
    failed, _ = playing(kind("api.example said sk-secret"), streamed=streamed)
    assert (failed.cls, failed.status) == ("transient", None)
    assert failed.sent is (kind not in NOT_SENT)
    assert failed.reason == NOT_SENT.get(kind, "broken_connection")
    assert "secret" not in failed.message
    assert (failed.code == "upstream_timeout") is (kind is DialTimeoutError)
    assert kind("x").failure == failed


@each("streamed", [False, True])
@each("kind", ERRORS)
def test_a_body_cut_before_the_first_token_fails_the_attempt(
    kind: type[TransportError], streamed: bool
) -> None:
    begun = stream(ROLE, kind("x")) if streamed else answer(TEXT.whole[:50], kind("x"))
    assert playing(begun, streamed=streamed)[0] == kind("x").failure


@each("kind", ERRORS)
def test_a_stream_cut_later_fails_after_its_events(kind: type[TransportError]) -> None:
    events, failed, _ = reading(stream(ROLE + WORDS, kind("x")))
    assert answer_text(events) == "def f"
    assert failed == kind("x").failure


# --- one attempt is one request ------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BODY = b"asked"


class Peer(threading.Thread):
    """An upstream on plain sockets: answers, then treats the connection or the next request on it as it is told."""

    def __init__(self, idle: str, answer_text: bytes, mortal: int) -> None:
        super().__init__(daemon=True)
        self._idle = idle
        self._said = answer_text
        self._mortal = mortal
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests = 0
        self.connections = 0
        self.closed = threading.Event()
        """The connection that was idle has been closed."""

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def stop(self) -> None:
        self._listener.close()

    def _serve(self, connection: socket.socket) -> None:
        first = self.connections <= self._mortal
        answered = 0
        with connection:
            while self._asked(connection):
                self.requests += 1
                if first and answered and self._idle == "stays":
                    connection.sendall(self._said)
                    return
                connection.sendall(OK)
                answered += 1
                if first and self._idle == "half-closed":
                    connection.shutdown(socket.SHUT_WR)
                    self.closed.set()
                elif first and self._idle != "stays":
                    break
            if self._idle == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.closed.set()

    @staticmethod
    def _asked(connection: socket.socket) -> bool:
        heard = b""
        while not heard.endswith(BODY):
            piece = connection.recv(65536)
            if not piece:
                return False
            heard += piece
        return True


async def ask(wire: HttpTransport, port: int, method: str = "POST") -> None:
    response = await wire.send(HttpRequest(f"http://127.0.0.1:{port}/", {}, BODY, method), 5.0)
    assert [piece async for piece in response.body] == [b"ok"]
    await response.body.aclose()


@contextlib.contextmanager
def peer(idle: str, answer_text: bytes = b"", mortal: int = 1) -> Iterator[Peer]:
    """The first `mortal` connections end when they are idle, or at their second request."""
    one = Peer(idle, answer_text, mortal)
    one.start()
    try:
        yield one
    finally:
        one.stop()


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("answer_text", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\ncontent-type: text/pl"])
def test_a_possibly_processed_request_is_never_sent_again(answer_text: bytes, method: str) -> None:
    async def use(port: int) -> None:
        async with contextlib.aclosing(HttpTransport()) as wire:
            await ask(wire, port)
            with pytest.raises(ProtocolError) as caught:
                await ask(wire, port, method)
            assert caught.value.failure.sent
            assert upstream.requests == 2
            await ask(wire, port)

    with peer("stays", answer_text) as upstream:
        asyncio.run(asyncio.wait_for(use(upstream.port), timeout=60))
    assert upstream.requests == 3


@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.parametrize("idle", ["closed", "half-closed", "reset"])
def test_a_connection_closed_while_idle_is_replaced(idle: str, noticed: bool) -> None:
    """Whether or not the event loop has been told of the end that the kernel knows of."""

    async def use(port: int) -> None:
        async with contextlib.aclosing(HttpTransport()) as wire:
            await ask(wire, port)
            assert upstream.closed.wait(30)
            if noticed:
                await asyncio.sleep(0.01)
            await ask(wire, port)

    with peer(idle) as upstream:
        asyncio.run(asyncio.wait_for(use(upstream.port), timeout=60))
    assert (upstream.requests, upstream.connections) == (2, 2)


def test_the_other_idle_connections_of_a_broken_one_are_not_tried_in_turn() -> None:
    """An upstream that restarts has closed them all: the next attempt must reach it."""

    async def use(port: int) -> None:
        async with contextlib.aclosing(HttpTransport()) as wire:
            await asyncio.gather(*[ask(wire, port) for _ in range(4)])
            assert upstream.connections == 4
            with pytest.raises(ProtocolError):
                await ask(wire, port)
            await ask(wire, port)
            assert (upstream.requests, upstream.connections) == (6, 5)

    with peer("stays", mortal=4) as upstream:
        asyncio.run(asyncio.wait_for(use(upstream.port), timeout=60))


# --- the request's head --------------------------------------------------------------------------------------


def head_of(url: str, headers: dict[str, str]) -> str:
    """The head that an upstream on loopback gets; `url` with `{}` for its port."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, contextlib.aclosing(HttpTransport()) as wire:
            response = await wire.send(HttpRequest(url.format(port), headers, b""), 5.0)
            await response.body.aclose()
        seen[0] = seen[0].replace(b"%d" % port, b"PORT")

    asyncio.run(asyncio.wait_for(main(), 10))
    return seen[0].decode()


def test_a_request_asks_for_no_compression_and_names_the_product_unless_configured_otherwise() -> None:
    lines = head_of("http://127.0.0.1:{}/v1", {"x-a": "b"}).split("\r\n")
    assert lines[:2] == ["POST /v1 HTTP/1.1", "host: 127.0.0.1:PORT"]
    assert lines[2].startswith("user-agent: codellama-proxy/")
    assert lines[3:] == ["accept-encoding: identity", "x-a: b", "content-length: 0", "", ""]
    own = head_of("http://127.0.0.1:{}/v1", {"user-agent": "own"}).split("\r\n")
    assert [line for line in own if line.startswith("user-agent")] == ["user-agent: own"]


@each(
    ("path", "target"),
    [
        ("", "/"),
        ("?a=b", "/?a=b"),
        ("/v1/models/a%2Fb:generate?x=1&y=%20", "/v1/models/a%2Fb:generate?x=1&y=%20"),
        ("/a b\r\nx: y/é?ü#part", "/a%20bx:%20y/%C3%A9?%C3%BC"),
    ],
)
def test_the_target_is_sent_as_it_is_except_for_invalid_characters(path: str, target: str) -> None:
    assert head_of("http://127.0.0.1:{}" + path, {}).split("\r\n")[0] == f"POST {target} HTTP/1.1"


@each(
    "url",
    ["", "ftp://a.example/", "https:///v1", "http://a b/", "http://[::1/", "http://a:99999/", "http://é/"],
)
def test_an_invalid_address_is_a_failure_before_anything_is_sent(url: str) -> None:
    async def main() -> None:
        with pytest.raises(AddressError):
            await HttpTransport().send(HttpRequest(url, {}, b""), 5.0)

    asyncio.run(main())
