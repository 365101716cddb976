"""Chunks of a chat's answer, and what the encoder makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Event
from codellama_proxy.inbound.dialect import Encoder
from codellama_proxy.inbound.responses import RESPONSES
from codellama_proxy.inbound.sealed import Seals
from codellama_proxy.openai_format.folding import as_whole
from codellama_proxy.openai_format.usage import usage_in
from tests.support.frames import frames

PLAIN = {"model": "m", "stream": True, "input": "Hi"}


def chunk(finish: str | None = None, usage: dict[str, Any] | None = None, **delta: Any) -> Event:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    found: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "upstream-model",
        "choices": [] if usage else [choice],
    }
    if usage:
        found["usage"] = usage
    return Event(orjson.dumps(found), usage=usage_in(found), finish_reason=finish, usage_only=bool(usage))


def call(index: int, call_id: str, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": call_id, "type": "function", "function": function}


def more(index: int, arguments: str) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}}


def encoder(body: dict[str, Any], seals: Seals | None = None) -> Encoder:
    request = RESPONSES.parse(orjson.dumps(body), dict, "req_1", 1_700_000_000, seals)
    return RESPONSES.encoder(request, seals)


def stream(body: dict[str, Any], *chunks: Event, broken: ProxyError | None = None) -> bytes:
    """The bytes of a stream whose chunks come one by one."""
    writer = encoder(body)
    written = b"".join([writer.events([one], ended=False) for one in chunks])
    return written + (writer.events([], ended=True) if broken is None else writer.broken(broken))


def events_in(written: bytes) -> list[dict[str, Any]]:
    """The events of a stream; each has its type as its name, too."""
    found = []
    for frame in frames(written):
        event = orjson.loads(frame.data)
        assert frame.event == event["type"]
        found.append(event)
    return found


def encoded(body: dict[str, Any], *chunks: Event, broken: ProxyError | None = None) -> list[dict[str, Any]]:
    return events_in(stream(body, *chunks, broken=broken))


def whole(body: dict[str, Any], *chunks: Event) -> dict[str, Any]:
    """The plain answer that these chunks add up to."""
    found: dict[str, Any] = orjson.loads(encoder(body).whole(as_whole(chunks)))
    return found


def of_type(events: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == f"response.{name}"]
