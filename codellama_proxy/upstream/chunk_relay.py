"""Sends the usual chunks of a stream to the client as they arrive, without parsing them.

Most chunks of a stream differ from the one before in their text only: an HTTP chunk with one event that matches the
template. They are checked and written, one or several at a time; what they say is kept as bytes and becomes one event
later. Anything else is left to the parser, so this decides only what a chunk costs, never what it means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codellama_proxy.core.sse import END
from codellama_proxy.core.types import Event, WriteChunk
from codellama_proxy.openai_format.runs import Around
from codellama_proxy.upstream.chunk_template import ChunkTemplate, is_regular, padding_at
from codellama_proxy.upstream.timeouts import TaskTimeout

CHUNK_END = b"\r\n"
EVENT_END = END + CHUNK_END
"""How a chunk with one event ends."""
PADDED_END = b"}" + END
"""How a padded event ends, after the padding."""
MAX_CHUNKS = 128
"""Chunks that become one event."""
MAX_CHUNK_BYTES = 2048
"""Larger ones are parsed."""


def _size_lines() -> list[bytes]:
    """By the size of a whole HTTP chunk, the line that it begins with; impossible sizes have one that never occurs."""
    lines = [b"\n"] * (MAX_CHUNK_BYTES + 1)
    for size in range(1, MAX_CHUNK_BYTES):
        line = b"%x\r\n" % size
        whole = len(line) + size + 2
        if whole <= MAX_CHUNK_BYTES:
            lines[whole] = line
    return lines


SIZE_LINES = _size_lines()


class ChunkRelay:
    """The chunks that arrive one after another until the first unusual one; used once."""

    __slots__ = (
        "_end",
        "_end_size",
        "_frames",
        "_is_padded",
        "_left",
        "_needles",
        "_said",
        "_start",
        "_template",
        "_time",
        "_watch",
        "_write",
    )

    def __init__(
        self,
        template: ChunkTemplate,
        around: Around,
        needles: Sequence[bytes],
        write: WriteChunk,
        watch: TaskTimeout,
    ) -> None:
        """`around`: the bytes around the text in what is written. A chunk with one of the `needles` is unusual.

        `watch` is told when each chunk is written.
        """
        self._template = template
        self._start, self._end = template.event_start, template.event_end + CHUNK_END
        self._is_padded = template.is_padded
        if self._is_padded:
            self._end = template.event_end.removesuffix(PADDED_END)
        self._end_size = len(self._end)
        self._frames: Around | None = None
        """The bytes around the text in the chunks written; `None`: those that arrive are written."""
        if template.is_padded or around != (template.event_start, template.event_end):
            self._frames = around[0], around[1] + CHUNK_END
        self._needles = needles
        self._write = write
        self._watch = watch
        self._time: Callable[[], float] = watch.loop.time
        self._said: list[bytes] = []
        """What is inside the JSON strings of the chunks written."""
        self._left = MAX_CHUNKS

    def feed(self, data: bytes) -> bool:
        """Writes whole chunks; `False` if one is unusual or they cannot be written now: nothing was done."""
        inside = self._inside(data) if self._left else None
        insides = self._insides_of(data) if inside is None else (inside,)
        if insides is None:
            return False
        for needle in self._needles:
            if needle in data:
                return False
        now, frames = self._time(), self._frames
        written = data if frames is None else b"".join([_framed(one, frames) for one in insides])
        if not self._write(written, now):
            return False
        self._watch.heard_at = now
        self._said.extend(insides)
        self._left -= len(insides)
        return True

    def _insides_of(self, data: bytes) -> Sequence[bytes] | None:
        """The inside of each chunk of several that arrived together; `None` if one is unusual, or for too many."""
        if data.count(EVENT_END) > self._left or not data.endswith(EVENT_END):
            return None
        insides = []
        for chunk in data.split(EVENT_END)[:-1]:
            inside = self._inside(chunk + EVENT_END)
            if inside is None:
                return None
            insides.append(inside)
        return insides

    def _inside(self, chunk: bytes) -> bytes | None:
        """What is inside the JSON string of a whole chunk; `None` if it is unusual."""
        size = len(chunk)
        if size > MAX_CHUNK_BYTES:
            return None
        line, start = SIZE_LINES[size], self._start
        if not (chunk.startswith(line) and chunk.startswith(start, len(line))):
            return None
        end = size
        if self._is_padded and (end := _padding_at(chunk)) < 0:
            return None
        if not chunk.endswith(self._end, 0, end):
            return None
        inside = chunk[len(line) + len(start) : end - self._end_size]
        return inside if is_regular(inside) else None

    def close(self) -> Event | None:
        """Ends it. Returns the chunks written as one event, a run; `None` if there was none."""
        self._left = 0
        return self._template.run_of(self._said) if self._said else None

    @property
    def received(self) -> int:
        """Bytes of the events written, without padding."""
        around = len(self._template.event_start) + len(self._template.event_end)
        return sum([len(inside) + around for inside in self._said])


def _padding_at(data: bytes) -> int:
    """Where the padding begins in a chunk with one event; -1 if there is none."""
    if not data.endswith(EVENT_END):
        return -1
    return padding_at(data, len(data) - len(EVENT_END))


def _framed(inside: bytes, frames: Around) -> bytes:
    """A chunk with this inside of its JSON string."""
    before, after = frames
    size = len(before) + len(inside) + len(after) - len(CHUNK_END)
    return b"%x\r\n%b%b%b" % (size, before, inside, after)
