"""Server-sent events as scripts want them: oddly formatted, slow, held at a gate, cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

from tests.support.upstream.call import SSE, Call, EndedError, break_off, error, head


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
        await break_off(call)
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
        await send_chunk(call, b"\xef\xbb\xbf")


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
    await send_chunk(call, text.encode())


async def send_chunk(call: Call, data: bytes) -> None:
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
