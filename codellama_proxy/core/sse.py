"""Server-sent events, in both directions, without I/O.

The decoder follows the WHATWG algorithm as far as providers use it: lines end in LF, CRLF or a lone CR, an
event ends at an empty line, `data` lines are joined by LF, one space after the colon is dropped, comments and
`id`/`retry` are ignored, a leading byte order mark too. Two departures: an event still open when the stream
ends is delivered by `flush` (several providers leave out the last empty line), and an event larger than
`MAX_EVENT_BYTES` bytes is an error, so that memory stays bounded whatever is sent.

Bytes are never decoded here, so a UTF-8 character split between two reads cannot break.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from typing import NamedTuple

MAX_EVENT_BYTES = 4 << 20
"""Bytes: an event may contain an image."""
MAX_LINES = 10_000
"""Of one event."""
DONE = b"[DONE]"
HEARTBEAT = b": ping\n\n"


class Frame(NamedTuple):
    data: bytes
    event: str = ""


class EventTooLargeError(ValueError):
    """An event exceeds `MAX_EVENT_BYTES` or `MAX_LINES`; `data` is the part received."""

    def __init__(self, message: str, data: bytes) -> None:
        super().__init__(message)
        self.data = data


def encode(*bodies: bytes) -> bytes:
    """An event for each body, whose lines become `data` lines (JSON has one)."""
    if not bodies:
        return b""
    if b"\n" in b"".join(bodies):
        bodies = tuple([body.replace(b"\n", b"\ndata: ") for body in bodies])
    return b"data: " + b"\n\ndata: ".join(bodies) + b"\n\n"


class Decoder:
    """Bytes in, whole frames out, in any chunking."""

    __slots__ = ("_after_cr", "_at_start", "_buffer", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0  # no event ends before this offset: long events are not scanned twice
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes. Raises `EventTooLargeError`."""
        buffer = self._buffer
        if not buffer and not self._at_start and chunk.endswith(b"\n\n") and b"\r" not in chunk:
            self._after_cr = False
            return _frames(chunk)  # only whole events: the common case
        buffer += self._unify_line_ends(chunk)
        if self._at_start and not self._skip_bom():
            return []
        end = buffer.rfind(b"\n\n", self._searched)
        whole = bytes(buffer[: end + 2]) if end >= 0 else b""
        del buffer[: len(whole)]
        if (
            len(buffer) > MAX_EVENT_BYTES and not whole
        ):  # else return the whole events first; the next read raises
            raise EventTooLargeError(f"an event larger than {MAX_EVENT_BYTES} bytes", bytes(buffer))
        self._searched = max(len(buffer) - 1, 0)
        return _frames(whole)

    def flush(self) -> list[Frame]:
        """The frame left open at the end of the stream, if there is one. Raises `EventTooLargeError`."""
        frame = _parse(bytes(self._buffer))
        self._buffer.clear()
        self._searched = 0
        return [frame] if frame is not None else []

    def _unify_line_ends(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _skip_bom(self) -> bool:
        """Remove a byte order mark. `False` while too few bytes have arrived to decide."""
        buffer = self._buffer
        if len(buffer) < len(BOM_UTF8) and BOM_UTF8.startswith(buffer):
            return False
        if buffer.startswith(BOM_UTF8):
            del buffer[: len(BOM_UTF8)]
        self._at_start = False
        return True


_USUAL = re.compile(rb"^data: ([^\n]++)\n\n", re.MULTILINE)
"""Linear time: possessive, so each line is scanned once."""


def _frames(whole: bytes) -> list[Frame]:
    """The frames of bytes that end at the end of an event."""
    usual = _USUAL.findall(whole)
    if sum(map(len, usual)) + len(b"data: \n\n") * len(usual) == len(whole):  # nothing else: the common case
        return [Frame(data) for data in usual]
    return [frame for frame in map(_parse, whole.split(b"\n\n")) if frame is not None]


def _parse(block: bytes) -> Frame | None:
    """One event's lines; `None` if they have no data. Raises `EventTooLargeError`."""
    if len(block) > MAX_LINES and block.count(b"\n") > MAX_LINES:
        raise EventTooLargeError(f"an event of more than {MAX_LINES} lines", block)
    data: list[bytes] = []
    event = ""
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value.decode("utf-8", "replace")
    return Frame(b"\n".join(data), event) if data else None
