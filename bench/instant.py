"""An upstream that answers at once: raw bytes over asyncio, so that it is never what is measured.

    python -m bench.instant PORT

Answers any POST with a short completion, or, if the body asks to stream, with 51 chunks. The first part of the path
says otherwise: `/failing` answers 400, `/uncounted` streams without usage, `/cut` breaks every other stream off in the
middle, `/endless` begins a stream and says no more.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys

import uvloop

MODEL = "instant"
TEXT = "def hello():\n    print('hello')\n"
WORDS = [f"word{i} " for i in range(50)]
USAGE = {"prompt_tokens": 20, "completion_tokens": 50, "total_tokens": 70}


def _whole(status: str, body: object) -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def _answer() -> bytes:
    message = {"role": "assistant", "content": TEXT}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1795340000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    return _whole("200 OK", body)


def _chunk(choices: list[object], **more: object) -> bytes:
    event = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1795340000,
        "model": MODEL,
        "choices": choices,
        **more,
    }
    data = b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def spoken(word: str) -> bytes:
    return _chunk([{"index": 0, "delta": {"content": word}, "finish_reason": None}])


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BODY = b"".join(spoken(word) for word in WORDS) + _chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"

ANSWER, STREAM = _answer(), HEAD + BODY + _chunk([], usage=USAGE) + END
OTHERWISE = {
    b"failing": _whole("400 Bad Request", {"error": {"message": "out of order"}}),
    b"uncounted": HEAD + BODY + END,
    b"cut": HEAD + BODY[: len(BODY) // 2],
    b"endless": HEAD + spoken(WORDS[0]),
}
CUT_IN_TURN = itertools.cycle((False, True))
"""Every other stream of `/cut` is whole: a deployment that only breaks off would be in cooldown soon."""


class Instant(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"post /v1/"):
            streamed = b'"stream":true' in body or b'"stream": true' in body
            self.transport.write(STREAM if streamed else ANSWER)  # type: ignore[attr-defined]
            return
        kind = head.split(b"/", 2)[1]
        if kind == b"cut" and next(CUT_IN_TURN):
            self.transport.write(STREAM)  # type: ignore[attr-defined]
            return
        self.transport.write(OTHERWISE[kind])  # type: ignore[attr-defined]
        if kind == b"cut":
            self.transport.close()


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
