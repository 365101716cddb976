"""Reads a stream's frames as its dialect does, and what is like the one before by heart.

Nearly every frame of a stream only says some more text: a template has the bytes around it, so that the next one
needs no parser. It is made of such a frame, and only after the same frame with another text was parsed and came out
as the template foretold. So whatever fits it means what the parser would have found, as long as what the parser knew
(its state) stays the same: then it is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event
from codellama_proxy.providers.common.json_documents import SurrogateHalves, UnreadableError

MAX_TEMPLATE_BYTES = 16 << 10
"""Larger frames are too rare for a template to pay."""
OTHER_TEXT = "@"
"""Stands for any text: JSON says it in one way only."""

_INSIDE = re.compile(rb'(?:[^"\\\x00-\x1f]|\\.)+')
"""Of a JSON string that is not empty, as far as bytes tell."""

Parse = Callable[[Any, Frame], tuple[Any, Sequence[Event]]]
"""A dialect's: a state and a frame to the state for the next frame and this one's events."""


class StreamParser:
    """One stream's."""

    def __init__(self, parse: Parse) -> None:
        self.state: Any = None
        """The dialect's, after what was read so far."""
        self._parse = parse
        self._usual: ChunkTemplate | None = None
        self._halves = SurrogateHalves()

    @property
    def complete(self) -> bool:
        """Nothing that was said is missing, as far as the dialect can tell."""
        return self.state is not None and self.state.complete and not self._halves.open

    def events_of(self, frame: Frame) -> Sequence[Event]:
        """Raises what the dialect raises."""
        usual = self._usual
        if usual is not None and (event := usual.event_of(frame)) is not None:
            return (event,)
        before = self.state
        frame, events = self._parsed(frame)
        if self.state is not before or self._halves.open:
            self._usual = None
        elif usual is None:
            self._usual = learn(frame, events, lambda other: self._parse(before, other)[1])
        return events

    def _parsed(self, frame: Frame) -> tuple[Frame, Sequence[Event]]:
        """The frame as it was read, and its events."""
        if self._halves.open or (read := self._read(frame)) is None:
            if frame.data.lstrip().startswith(b"{"):
                frame = frame._replace(data=self._halves.repaired(frame.data))
            read = self._parse(self.state, frame)
        self.state, events = read
        if self._halves.open and self.state.done:
            raise UnreadableError("half_character")
        return frame, events

    def _read(self, frame: Frame) -> tuple[Any, Sequence[Event]] | None:
        """`None`: the frame is no JSON as it came."""
        try:
            return self._parse(self.state, frame)
        except UnreadableError:
            return None


class ChunkTemplate(NamedTuple):
    """What is around the text in the frame that comes, and in the body of the event that is made of it."""

    kind: str
    before: bytes
    after: bytes
    shown_before: bytes
    shown_after: bytes
    model: str | None

    def event_of(self, frame: Frame) -> Event | None:
        """What the parser would make of it; `None` for a frame that is not like the template's."""
        kind, before, after, shown_before, shown_after, model = self
        data, event = frame
        if event != kind or not data.startswith(before) or not data.endswith(after):
            return None
        found = _INSIDE.fullmatch(data, len(before), len(data) - len(after))
        if found is None:
            return None
        inside = found[0]
        try:
            text = orjson.loads(b'"%b"' % inside) if b"\\" in inside else inside.decode()
        except ValueError:
            return None
        body = data if shown_before is before else b"%b%b%b" % (shown_before, inside, shown_after)
        return Event(body, True, text, None, None, model)


def learn(
    frame: Frame, events: Sequence[Event], parse: Callable[[Frame], Sequence[Event]]
) -> ChunkTemplate | None:
    """The template of a frame that gave these events; `parse` tells what another would give in its place."""
    if len(frame.data) > MAX_TEMPLATE_BYTES:
        return None
    if len(events) != 1 or not events[0].text or events[0].text == OTHER_TEXT:
        return None
    event = events[0]
    quoted = orjson.dumps(event.text)
    come, shown = _around(quoted, frame.data), _around(quoted, event.body)
    if come is None or shown is None:
        return None
    found = ChunkTemplate(frame.event, *come, *(come if event.body == frame.data else shown), event.model)
    other = Frame(found.before + OTHER_TEXT.encode() + found.after, frame.event)
    return found if list(parse(other)) == [found.event_of(other)] else None


def _around(quoted: bytes, data: bytes) -> tuple[bytes, bytes] | None:
    """What comes before and after the one place where a text is quoted; `None` if there is not just one."""
    if data.count(quoted) != 1:
        return None
    at = data.index(quoted)
    return data[: at + 1], data[at + len(quoted) - 1 :]
