"""Server-sent events, in both directions, without I/O.

The decoder follows the WHATWG algorithm as far as providers use it: lines end in LF, CRLF or a lone CR, an
event ends at an empty line, `data` lines are joined by LF, one space after the colon is dropped, comments and
`id`/`retry` are ignored, a leading byte order mark too. Two departures: an event still open when the stream
ends is delivered by `flush` (several providers leave out the last empty line), and an event larger than
the limit (`MAX_EVENT_BYTES` bytes by default) is an error, so that memory stays bounded whatever is sent.

Bytes are never decoded here, so a UTF-8 character split between two reads cannot break.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import NamedTuple

MAX_EVENT_BYTES = 4 << 20
"""Bytes: an event may contain an image."""
MAX_LINES = 10_000
"""Of one event."""
DONE = b"[DONE]"
HEARTBEAT = b": ping\n\n"
START = b"data: "
END = b"\n\n"
BETWEEN = END + START
"""Between the data of two events that have one `data` line each."""


class Frame(NamedTuple):
    data: bytes
    event: str = ""


class EventTooLargeError(ValueError):
    """An event exceeds `MAX_EVENT_BYTES` or `MAX_LINES`; `data` is the part received."""

    def __init__(self, message: str, data: bytes) -> None:
        super().__init__(message)
        self.data = data


def encode(*bodies: bytes) -> bytes:
    """An event for each body: one line of JSON. A body of several events has them joined by `BETWEEN`."""
    return START + BETWEEN.join(bodies) + END if bodies else b""


class Decoder:
    """Finds where events end, in any chunking. `frame_at` reads them."""

    __slots__ = ("_after_cr", "_at_start", "_buffer", "_max_event_bytes", "_searched", "is_between_events")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._buffer = bytearray()
        self._searched = 0  # no event ends before this offset: long events are not scanned twice
        self._after_cr = False
        self._at_start = True
        self.is_between_events = False
        """Whether all bytes so far were whole events, so that whole events may be left out."""

    def feed(self, chunk: bytes) -> bytes:
        """The bytes of the events that `chunk` completes, lines ended by LF. Raises `EventTooLargeError`."""
        buffer = self._buffer
        begins = not (self._at_start and chunk.startswith(BOM_UTF8[:1]))
        if begins and not buffer and chunk.endswith(END) and b"\r" not in chunk:
            self._after_cr = self._at_start = False
            self.is_between_events = True
            return chunk  # only whole events: the common case
        self.is_between_events = False
        buffer += self._unify_line_ends(chunk)
        if self._at_start and not self._skip_bom():
            return b""
        end = buffer.rfind(END, self._searched)
        whole = bytes(buffer[: end + 2]) if end >= 0 else b""
        del buffer[: len(whole)]
        if (
            len(buffer) > self._max_event_bytes and not whole
        ):  # else return the whole events first; the next read raises
            received = bytes(buffer)
            buffer.clear()  # the error's traceback keeps it
            raise EventTooLargeError(f"an event larger than {self._max_event_bytes} bytes", received)
        self._searched = max(len(buffer) - 1, 0)
        return whole

    def flush(self) -> bytes:
        """The bytes of the event left open at the end of the stream, ended; empty if there is none."""
        left = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return left + END if left else b""

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


def frame_at(events: bytes, at: int) -> tuple[Frame | None, int]:
    """The event that begins at `at`, `None` if it has no data, and where the next one begins.

    Raises `EventTooLargeError`.
    """
    end = events.find(END, at)
    if end < 0:  # an odd number of line ends
        end = len(events)
    if events.startswith(START, at) and events.find(b"\n", at, end) < 0:
        return Frame(events[at + len(START) : end]), end + len(END)
    return _parse(events[at:end]), end + len(END)


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
