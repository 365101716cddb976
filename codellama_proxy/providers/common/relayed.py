"""Answers that are passed on as the upstream sent them: the events of their frames, with the frames themselves."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Sequence

import orjson

from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event
from codellama_proxy.providers.common import json_documents
from codellama_proxy.providers.common.json_reading import KEEPALIVE_EVENTS, is_done


def with_frame(frame: Frame, events: Sequence[Event]) -> Sequence[Event]:
    """The events of a frame, the first of them with the frame as `raw`.

    The beginning of a block of any kind is content: the answer is committed there.
    """
    if is_done(frame):  # neither dialect has it
        return events
    if not frame.data.strip() or (frame.event.lower() in KEEPALIVE_EVENTS and not _is_json(frame.data)):
        return events  # such data have not been parsed, and SDKs fail on data that are no JSON
    first, *rest = events or (Event(b""),)
    begins = first.content or any(event.alive for event in events)
    return [first._replace(raw=_encoded(frame), content=begins), *rest]


def readable(body: bytes) -> bytes:
    """A plain answer in UTF-8 without a byte order mark, as JSON has to be (RFC 8259, section 8.1).

    Raises `UnreadableError`.
    """
    if body.startswith(BOM_UTF8):
        return json_documents.repaired(body)
    try:
        body.decode()
    except UnicodeDecodeError:
        return json_documents.repaired(body)
    return body


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _encoded(frame: Frame) -> bytes:
    """The frame as an event, with its type as its name: clients skip events without a name."""
    name = frame.event.encode() or _type_in(frame.data)
    data = frame.data.replace(b"\n", b"\ndata: ")
    return b"event: %b\ndata: %b\n\n" % (name, data) if name else b"data: %b\n\n" % data


def _type_in(data: bytes) -> bytes:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return b""
    kind = found.get("type") if isinstance(found, dict) else None
    return kind.encode() if isinstance(kind, str) and kind.isprintable() else b""
