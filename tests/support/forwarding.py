"""A forward proxy as companies have one, and an upstream behind TLS with a certificate authority of its own."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"


@dataclass(frozen=True, slots=True)
class Seen:
    """The head of one request."""

    line: str
    headers: dict[str, str]


class Listener:
    """Accepts connections on loopback, each served by a thread, until it is stopped."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen: list[Seen] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(
                    target=self._guarded, args=(self._listener.accept()[0],), daemon=True
                ).start()

    def _guarded(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self.serve(connection)

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        self._listener.close()

    def head(self, connection: socket.socket) -> tuple[Seen, bytes] | None:
        """The next request's head, noted, and what came behind it; `None` at the end."""
        raw = b""
        while b"\r\n\r\n" not in raw:
            piece = connection.recv(65536)
            if not piece:
                return None
            raw += piece
        head, _, rest = raw.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        pairs = (field.partition(":") for field in fields)
        seen = Seen(line, {name.lower(): value.strip() for name, _, value in pairs})
        self.seen.append(seen)
        return seen, rest


class Origin(Listener):
    """Answers every request with `ok`, behind TLS if it has a certificate.

    `closes`: ends each connection after an answer, without having said so.
    """

    def __init__(self, certificate: tuple[Path, Path] | None = None, *, closes: bool = False) -> None:
        self._context = None
        self._closes = closes
        self.closed = threading.Event()
        if certificate is not None:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(*certificate)
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
        with connection:
            while (found := self.head(connection)) is not None:
                seen, rest = found
                missing = int(seen.headers.get("content-length", "0")) - len(rest)
                while missing > 0:
                    missing -= len(connection.recv(65536))
                connection.sendall(ANSWER)
                if self._closes:
                    break
        self.closed.set()


class ForwardProxy(Listener):
    """Takes CONNECT and absolute addresses, and leads all of them to a port on loopback: one, or one for each host."""

    def __init__(self, to: int | Mapping[str, int], *, refuses: int | None = None) -> None:
        self._to = to
        self._refuses = refuses
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        found = self.head(connection)
        if found is None:
            return
        seen, rest = found
        if self._refuses is not None:
            connection.sendall(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % self._refuses)
            return
        to = self._to if isinstance(self._to, int) else self._to[seen.headers["host"].partition(":")[0]]
        with socket.create_connection(("127.0.0.1", to)) as there:
            if seen.line.startswith("CONNECT "):
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                there.sendall(rest)
            else:
                there.sendall(forwarded(seen) + rest)
            back = threading.Thread(target=pump, args=(there, connection), daemon=True)
            back.start()
            pump(connection, there)
            back.join(5)


def forwarded(seen: Seen) -> bytes:
    """One request for the server itself; the connection ends with it."""
    method, address, version = seen.line.split(" ")
    path = "/" + address.partition("://")[2].partition("/")[2]
    kept = {name: value for name, value in seen.headers.items() if not name.startswith("proxy-")}
    fields = "".join(f"{name}: {value}\r\n" for name, value in kept.items())
    return f"{method} {path} {version}\r\n{fields}\r\n".encode("latin-1")


def pump(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            to.sendall(piece)
        to.shutdown(socket.SHUT_WR)


def certified(directory: Path, host: str) -> tuple[Path, tuple[Path, Path]]:
    """A certificate authority's certificate, and a chain and key for `host` that it signed."""
    ca, ca_key, chain, key = (directory / name for name in ("ca.pem", "ca.key", "host.pem", "host.key"))
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run([*new, "-days", "2", "-subj", "/CN=test authority", "-keyout", str(ca_key), "-out", str(ca)])
    named = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host},DNS:localhost"]
    signed = ["-CA", str(ca), "-CAkey", str(ca_key), "-keyout", str(key), "-out", str(chain)]
    run([*new, "-days", "2", *named, "-addext", "basicConstraints=critical,CA:false", *signed])
    return ca, (chain, key)


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def listening(*listeners: Listener) -> Iterator[None]:
    try:
        yield
    finally:
        for one in listeners:
            one.stop()
