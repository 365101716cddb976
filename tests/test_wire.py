"""Whatever can break on the wire, in httpx2's words or aiohttp's, is a transient failure."""

import asyncio
import contextlib
import ssl
from typing import Any

import aiohttp
import httpx2
import pytest

from codellama_proxy.upstream import failure_of
from codellama_proxy.wire import AiohttpWire, translated
from tests.attempts import playing, reading, said
from tests.dialogues import OPENAI, chunk, sse
from tests.scripted import answer, stream

TEXT = OPENAI.answers["text"]
ROLE = sse(chunk({"role": "assistant", "content": ""}))
WORDS = sse(chunk({"content": "def "}), chunk({"content": "f"}))


def subclasses(kind: type[Any]) -> list[type[Any]]:
    return [kind, *(found for one in kind.__subclasses__() for found in subclasses(one))]


ERRORS: list[type[httpx2.TransportError]] = subclasses(httpx2.TransportError)
NOT_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError"}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_of_a_transport_is_a_transient_failure(
    kind: type[httpx2.TransportError], streamed: bool
) -> None:
    failed, _ = playing(kind("api.example said sk-secret"), streamed=streamed)
    assert (failed.cls, failed.status) == ("transient", None)
    assert failed.sent is (kind.__name__ not in NOT_SENT)
    assert "secret" not in failed.message
    slow = issubclass(kind, httpx2.TimeoutException) and kind is not httpx2.PoolTimeout
    assert (failed.code == "upstream_timeout") is slow
    assert failure_of(kind("x")) == failed


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ERRORS)
def test_a_body_that_breaks_before_the_first_token_fails_the_attempt(
    kind: type[httpx2.TransportError], streamed: bool
) -> None:
    begun = stream(ROLE, kind("x")) if streamed else answer(TEXT.whole[:50], kind("x"))
    assert playing(begun, streamed=streamed)[0] == failure_of(kind("x"))


@pytest.mark.parametrize("kind", ERRORS)
def test_a_stream_that_breaks_later_fails_after_what_it_said(kind: type[httpx2.TransportError]) -> None:
    events, failed, _ = reading(stream(ROLE + WORDS, kind("x")))
    assert said(events) == "def f"
    assert failed == failure_of(kind("x"))


# --- aiohttp's words -----------------------------------------------------------------------------------------

NEVER_CONNECTED = {
    "ClientConnectorError",
    "ClientConnectorSSLError",
    "ClientConnectorCertificateError",
    "ClientConnectorDNSError",
    "ClientProxyConnectionError",
    "ClientSSLError",
    "UnixClientConnectorError",
    "ServerFingerprintMismatch",
    "ConnectionTimeoutError",
}
NO_ADDRESS = {
    "InvalidURL",
    "InvalidUrlClientError",
    "InvalidUrlRedirectClientError",
    "NonHttpUrlClientError",
    "NonHttpUrlRedirectClientError",
}


@pytest.mark.parametrize("kind", sorted(set(subclasses(aiohttp.ClientError)), key=str))
def test_every_error_of_aiohttp_says_whether_anything_was_sent(kind: type[BaseException]) -> None:
    error = translated(kind.__new__(kind))
    assert str(error) == kind.__name__, "its text may hold addresses"
    failure = failure_of(error)
    assert failure.cls == "transient"
    assert failure.sent is (kind.__name__ not in NEVER_CONNECTED | NO_ADDRESS)
    assert isinstance(error, httpx2.UnsupportedProtocol) is (kind.__name__ in NO_ADDRESS)


@pytest.mark.parametrize(
    ("error", "to"),
    [
        (aiohttp.ServerTimeoutError(), httpx2.ReadTimeout),
        (aiohttp.SocketTimeoutError(), httpx2.ReadTimeout),
        (aiohttp.ConnectionTimeoutError(), httpx2.ConnectTimeout),
        (aiohttp.ClientPayloadError(), httpx2.RemoteProtocolError),
        (aiohttp.ServerDisconnectedError(), httpx2.RemoteProtocolError),
        (aiohttp.ClientOSError(), httpx2.ReadError),
        (ssl.SSLError(), httpx2.ConnectError),
        (TimeoutError(), httpx2.ReadTimeout),
        (ConnectionResetError(), httpx2.ReadError),
        (RuntimeError(), httpx2.TransportError),
    ],
)
def test_errors_keep_their_meaning(error: BaseException, to: type[httpx2.TransportError]) -> None:
    assert type(translated(error)) is to


@pytest.mark.parametrize(
    ("said", "sent"),
    [(b"", 2), (b"HTTP/1.1 2", 1), (b"HTTP/1.1 200 OK\r\ncontent-type: text/pl", 1)],
)
def test_a_request_is_sent_again_only_if_nothing_was_heard_of_it(said: bytes, sent: int) -> None:
    """Its connection was idle and is closed, at once or when an answer has begun."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while len(heard) != 1:
                heard.append(await reader.readuntil(b"asked"))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            heard.append(await reader.readuntil(b"asked"))
            writer.write(said)
            await writer.drain()
        writer.close()

    async def ask(wire: AiohttpWire, port: int) -> None:
        url, length = f"http://127.0.0.1:{port}/", {"content-length": "5"}
        request = httpx2.Request("POST", url, headers=length, stream=httpx2.ByteStream(b"asked"))
        response = await wire.handle_async_request(request)
        await response.aread()
        await response.aclose()

    async def use() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, AiohttpWire() as wire:
            port = server.sockets[0].getsockname()[1]
            await ask(wire, port)
            if sent == 1:
                with pytest.raises(httpx2.RemoteProtocolError):
                    await ask(wire, port)
            else:
                await ask(wire, port)

    asyncio.run(asyncio.wait_for(use(), timeout=10))
    assert len(heard) == 1 + sent
