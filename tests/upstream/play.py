"""Plays one step of a script onto a connection: the right answer, and every wrong way to give it."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.upstream import answers
from tests.upstream.script import Step
from tests.upstream.wire import Connection, Received

JSON = "application/json"
SSE = "text/event-stream"
SETTLE = 0.15
"""Seconds before a reset, so that what was sent before it arrives."""

CODES = {400: "invalid_value", 401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


class EndedError(Exception):
    """The script ended the connection itself."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and what is to be done about it."""

    number: int
    request: Received
    body: Mapping[str, Any]
    step: Step
    connection: Connection
    gate: asyncio.Event

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def asked_usage(self) -> bool:
        return bool((self.body.get("stream_options") or {}).get("include_usage"))


async def play(call: Call) -> None:
    """The whole answer. Raises `EndedError` when nothing more may follow on this connection."""
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
        return await whole(call, error(step), status=int(step.number("status")), headers=_retry(step))
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


def error(step: Step) -> dict[str, Any]:
    """OpenAI's error body."""
    status = int(step.number("status", 500))
    kind = step.text("type", "server_error" if status >= 500 else "invalid_request_error")
    code = step.text("code", CODES.get(status, "")) or None
    message = step.text("message", f"{step.label} failed with {status}.")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _retry(step: Step) -> dict[str, str]:
    names = {"retry_after": "retry-after", "retry_after_ms": "retry-after-ms"}
    return {header: step.text(word) for word, header in names.items() if word in step}


def head(step: Step, status: int, headers: Mapping[str, str]) -> bytes:
    """A status line and headers, odd ones included."""
    lines = [f"HTTP/{'1.0' if 'http10' in step else '1.1'} {status} Scripted"]
    given = {"x-request-id": f"up-{step.label}", **headers}
    if "no_content_type" in step:
        given.pop("content-type", None)
    if "close" in step:
        given["connection"] = "close"
    if "huge_header" in step:
        given["x-huge"] = "h" * 65536
    lines += [f"{name}: {value}" for name, value in given.items()]
    if "bad_headers" in step:
        lines += ["set-cookie: session=stolen", "x-goog-api-key: leaked-secret", "x-debug: internal"]
        lines += ["keep-alive: timeout=1", "proxy-authenticate: Basic", "server: secret-server"]
    if "many_headers" in step:
        lines += [f"x-many-{i}: {i}" for i in range(1000)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


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
        await _break_off(call)
    await connection.send(data, byte_by_byte="byte_by_byte" in step)
    connection.journal.write("finished", request=call.number, status=status, usage=usage)
    if "http10" in step:
        raise EndedError


async def _break_off(call: Call) -> None:
    if "stall" in call.step:
        await call.connection.hang()
    await asyncio.sleep(SETTLE)
    if "cut" in call.step:
        await call.connection.reset()
    raise EndedError


# --- streams -------------------------------------------------------------------------------------------


async def stream(call: Call, chunks: Iterable[tuple[Mapping[str, Any], bool]], usage: Any) -> None:
    """A stream of events, with whatever the script does between them."""
    step = call.step
    await open_stream(call)
    await call.connection.sleep(step.number("first"))
    sent = 0
    for chunk, token in chunks:
        if token and await _interrupt(call, sent):
            return
        await send_event(call, json.dumps(chunk, ensure_ascii=False))
        if token:
            call.connection.journal.write("sent", request=call.number, token=sent)
            sent += 1
            await call.connection.sleep(step.number("every"))
    if await _interrupt(call, sent):
        return
    if "no_done" not in step:
        await send_event(call, "[DONE]")
    shown = usage if call.asked_usage else None
    await end_stream(call, usage=shown)


async def _interrupt(call: Call, sent: int) -> bool:
    """What the script does after so many tokens; true: the stream is over."""
    step = call.step
    if step.count("gate") == sent:
        await call.connection.wait_for(call.gate)
    if step.count("bad_line") == sent:
        await send_event(call, '{"choices": [{"delta": {"content"')
    if step.count("big_line") is not None and sent == 1:
        size = int(step.number("big_line"))
        await send_event(call, json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * size}}]}))
    if sent in (step.count("cut"), step.count("cut_open"), step.count("stall")):
        await _break_off(call)
    if step.count("error_event_after") == sent:
        await send_event(call, json.dumps(error(step)))
        await end_stream(call)
        return True
    if step.count("cut_clean") == sent:
        await end_stream(call)
        return True
    return False


async def open_stream(call: Call) -> None:
    headers = {"content-type": SSE, "cache-control": "no-cache"}
    if "http10" not in call.step:
        headers["transfer-encoding"] = "chunked"
    if "trailers" in call.step:
        headers["trailer"] = "x-trailing"
    await call.connection.send(head(call.step, 200, headers))
    if "bom" in call.step:
        await _send_chunk(call, b"\xef\xbb\xbf")


async def send_event(call: Call, data: str) -> None:
    """One server-sent event, formatted as oddly as the script wants."""
    step = call.step
    end = "\r\n" if "crlf" in step else "\r" if "cr" in step else "\n"
    field = "data:" if "tight" in step else "data: "
    lines = [field + data]
    if "multiline" in step and data.startswith("{"):
        lines = [field + line for line in json.dumps(json.loads(data), indent=1).split("\n")]
    if "comments" in step:
        lines = [": keep-alive", "event: message", "id: 7", "retry: 3000", *lines]
    text = end.join(lines) + end * 2
    if "comments" in step:
        text = f": ping{end}{end}" + text
    await _send_chunk(call, text.encode())


async def _send_chunk(call: Call, data: bytes) -> None:
    step = call.step
    if "http10" in step:
        await call.connection.send(data, byte_by_byte="byte_by_byte" in step)
        return
    parts = [data[i : i + 1] for i in range(len(data))] if "byte_by_byte" in step else [data]
    for part in parts:
        await call.connection.send(b"%x\r\n%s\r\n" % (len(part), part))
        if "byte_by_byte" in step:
            await asyncio.sleep(0)


async def end_stream(call: Call, usage: Any = None) -> None:
    if "http10" not in call.step:
        trailers = b"x-trailing: 1\r\n" if "trailers" in call.step else b""
        await call.connection.send(b"0\r\n" + trailers + b"\r\n")
    call.connection.journal.write("finished", request=call.number, status=200, usage=usage)
    if "http10" in call.step:
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
    bomb = gzip.compress(b"\0" * 50_000_000)
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
        await _send_chunk(call, b": keep-alive\n\n")
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
    "error_event_first": error_event_first,
    "role_then_fail": role_then_fail,
}
