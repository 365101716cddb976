"""A reverse proxy that removes a prefix, as `location /llm/ { proxy_pass http://…/; }` of nginx does."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from tests.support.forwarding import Listener, Seen, listening, pump


class PrefixRelay(Listener):
    """One request for each connection; paths outside of the prefix are 404. `host` replaces the Host header."""

    def __init__(self, to: int, prefix: str, *, host: str | None = None) -> None:
        self._to = to
        self._prefix = prefix
        self._host = host
        super().__init__()

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """The port, until the block ends."""
        with listening(self):
            yield self.port

    def serve(self, connection: socket.socket) -> None:
        found = self.head(connection)
        if found is None:
            return
        seen, body = found
        method, path, version = seen.line.split(" ")
        if not path.startswith(f"{self._prefix}/"):
            connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        line = f"{method} {path.removeprefix(self._prefix)} {version}"
        missing = int(seen.headers.get("content-length", "0")) - len(body)
        with socket.create_connection(("127.0.0.1", self._to)) as there:
            there.sendall(self._head(line, seen) + body)
            while missing > 0 and (piece := connection.recv(65536)):
                there.sendall(piece)
                missing -= len(piece)
            pump(there, connection)

    def _head(self, line: str, seen: Seen) -> bytes:
        headers = {**seen.headers, "connection": "close"}
        if self._host is not None:
            headers["host"] = self._host
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{line}\r\n{fields}\r\n".encode("latin-1")
