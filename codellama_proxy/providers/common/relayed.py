"""Answers that are passed on as the upstream sent them: the events of their frames, with the frames themselves."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event
from codellama_proxy.providers.common.json_reading import is_done


def with_frame(frame: Frame, events: Sequence[Event]) -> Sequence[Event]:
    """The events of a frame, the first of them with the frame as `raw`.

    The beginning of a block of any kind is content: the answer is committed there.
    """
    if is_done(frame):  # neither dialect has it
        return events
    first, *rest = events or (Event(b""),)
    begins = first.content or any(event.alive for event in events)
    return [first._replace(raw=_encoded(frame), content=begins), *rest]


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
