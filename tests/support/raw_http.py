"""HTTP by hand, for what no client library would send, and for seeing bytes as they arrive."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, or `status` 0 when the peer closed without any."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def error(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert isinstance(found, dict), self.body
        error: dict[str, Any] = found["error"]
        return error


class Wire:
    """One connection."""

    def __init__(self, port: int, *, timeout: float = 30.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Self:
        # The server may refuse and close while we still send: its answer is what counts.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)
        return self

    def reply(self, method: str = "POST") -> Reply:
        answer = http.client.HTTPResponse(self.socket, method=method)
        try:
            answer.begin()
            body = answer.read()
        except (http.client.HTTPException, ConnectionError):
            return Reply(0, {}, b"")
        finally:
            answer.close()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, headers, body)

    def lines(self) -> Iterator[bytes]:
        """The lines of a streamed body, each as soon as it is there."""
        answer = http.client.HTTPResponse(self.socket, method="POST")
        answer.begin()
        assert answer.status == 200, answer.read()
        try:
            while line := answer.readline():
                yield line
        finally:
            answer.close()

    def reset(self) -> None:
        """Leaves with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def request(
    path: str, body: bytes | Mapping[str, Any] = b"", *, method: str = "POST", **headers: str
) -> bytes:
    """A well-formed request; `_` in a header's name stands for `-`, an empty value leaves the header out."""
    data = json.dumps(body).encode() if isinstance(body, Mapping) else body
    given = {"host": "proxy", "content-type": "application/json", "content-length": str(len(data))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data


def exchange(port: int, data: bytes, *, method: str = "POST") -> Reply:
    """Sends bytes on a connection of their own; what came back."""
    with Wire(port) as wire:
        return wire.send(data).reply(method)


def refused(reply: Reply, status: int, *codes: str, param: str | None = None) -> None:
    """An error of the documented table, in its only form."""
    assert reply.status == status, reply
    assert reply.headers["content-type"].startswith("application/json")
    assert reply.headers["x-request-id"]
    assert reply.headers["x-should-retry"] == "false"
    error = reply.error()
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert not codes or error["code"] in codes, error
    if param is not None:
        assert error["param"] == param, error
