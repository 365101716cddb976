"""Plays one step of a script onto a connection: the right answer, and every wrong way to give it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.upstream import answers
from tests.support.upstream.call import JSON, SSE, Call, EndedError, break_off, error, head, retry_headers
from tests.support.upstream.streams import end_stream, open_stream, send_chunk, send_event, stream


async def play(call: Call) -> None:
    """The whole answer. Raises `EndedError` when nothing more may follow on this connection."""
    await _answer(call)
    if "junk" in call.step:
        await call.connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    if "then_close" in call.step:
        await call.connection.sleep(call.step.number("then_close"))
        raise EndedError


async def _answer(call: Call) -> None:
    step, connection = call.step, call.connection
    await connection.sleep(step.number("delay"))
    if "hang" in step:
        await connection.hang()
    if "reset" in step:
        await connection.reset()
    if "reset" in step or "drop" in step:
        raise EndedError
    if "continue100" in step:
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
    for word, fault in BEHIND_200.items():
        if word in step:
            await fault(call)
            return None
    if "status" in step:
        return await whole(call, error(step), status=int(step.number("status")), headers=retry_headers(step))
    if call.request.path.endswith("/embeddings"):
        made = answers.embeddings(call.body, step)
        return await whole(call, made, usage=made["usage"])
    return await _generate(call)


async def _generate(call: Call) -> None:
    step = call.step
    answer = answers.answer(call.body, step, call.number)
    legacy = not call.request.path.endswith("/chat/completions")
    if call.stream:
        chunks = answers.text_chunks if legacy else answers.chat_chunks
        return await stream(call, chunks(answer, step, call.asked_usage), answer.usage)
    made = answers.text(answer) if legacy else answers.chat(answer)
    if "no_choices" in step:
        made["choices"] = []
    return await whole(call, made, usage=answer.usage)


async def whole(
    call: Call, body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None, usage: Any = None
) -> None:
    """A JSON answer with its length."""
    step, connection = call.step, call.connection
    data = json.dumps(body).encode()
    if "bom" in step:
        data = b"\xef\xbb\xbf" + data
    framing = {} if "http10" in step else {"content-length": str(len(data))}
    await connection.send(head(step, status, {"content-type": JSON, **framing, **(headers or {})}))
    if "stall" in step or "cut" in step or "cut_open" in step:
        await connection.send(data[: len(data) // 2])
        await break_off(call)
    await connection.send(data, byte_by_byte="byte_by_byte" in step)
    connection.journal.write("finished", request=call.number, status=status, usage=usage)
    if "http10" in step:
        raise EndedError


# --- faults behind a 200 -------------------------------------------------------------------------------


async def _raw(call: Call, data: bytes, headers: Mapping[str, str], status: int = 200) -> None:
    length = {"content-length": str(len(data))}
    await call.connection.send(head(call.step, status, {**length, **headers}) + data)
    call.connection.journal.write("finished", request=call.number, status=status, usage=None)


async def html(call: Call) -> None:
    page = b"<!doctype html><html><body><h1>Secret gateway at 10.0.0.7</h1></body></html>"
    await _raw(call, page, {"content-type": "text/html"})


async def empty(call: Call) -> None:
    await _raw(call, b"", {"content-type": SSE if call.stream else JSON})


async def truncated(call: Call) -> None:
    await _raw(call, b'{"id": "x", "choices": [{"index": 0, "mess', {"content-type": JSON})


async def error_200(call: Call) -> None:
    await _raw(call, json.dumps(error(call.step)).encode(), {"content-type": JSON})


async def redirect(call: Call) -> None:
    await _raw(call, b"", {"location": call.step.text("redirect")}, status=302)


async def gzip_bomb(call: Call) -> None:
    bomb = gzip.compress(b"\0" * 1_000_000) * 50  # members of one file: quick to make, long to unpack
    await _raw(call, bomb, {"content-type": JSON, "content-encoding": "gzip"})


async def endless(call: Call) -> None:
    headers = {"content-type": SSE if call.stream else JSON, "transfer-encoding": "chunked"}
    await call.connection.send(head(call.step, 200, headers))
    block = b'{"filler": "' + b"x" * 65000
    while True:
        await call.connection.send(b"%x\r\n%s\r\n" % (len(block), block))


async def empty_stream(call: Call) -> None:
    await open_stream(call)
    await end_stream(call)


async def comments_only(call: Call) -> None:
    await open_stream(call)
    while True:
        await send_chunk(call, b": keep-alive\n\n")
        await call.connection.sleep(0.05)


async def roles_only(call: Call) -> None:
    await open_stream(call)
    while True:
        choices = [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
        await send_event(call, json.dumps({"id": "up-roles", "model": "roles", "choices": choices}))
        await call.connection.sleep(0.05)


async def error_event_first(call: Call) -> None:
    await open_stream(call)
    await send_event(call, json.dumps(error(call.step)))
    await end_stream(call)


async def role_then_fail(call: Call) -> None:
    await open_stream(call)
    for delta in ({"role": "assistant", "content": ""}, {}):
        choices = [{"index": 0, "delta": delta, "finish_reason": None}]
        await send_event(call, json.dumps({"id": "up-failing", "model": "failing", "choices": choices}))
    await send_event(call, json.dumps(error(call.step)))
    await end_stream(call)


BEHIND_200: Mapping[str, Callable[[Call], Any]] = {
    "html": html,
    "empty": empty,
    "truncated": truncated,
    "error_200": error_200,
    "redirect": redirect,
    "gzip_bomb": gzip_bomb,
    "endless": endless,
    "empty_stream": empty_stream,
    "comments_only": comments_only,
    "roles_only": roles_only,
    "error_event_first": error_event_first,
    "role_then_fail": role_then_fail,
}
