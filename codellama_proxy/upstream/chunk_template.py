"""Parses a stream's frames as its dialect does, and matches frames that only add text against a template.

A template is the bytes around the text of a frame. It is learned from one frame, after the same frame with another text
was parsed and gave what the template predicts. A frame that matches it means what the parser would find, as long as the
parser's state stays the same; the template is dropped when the state changes. Frames that arrive together and match are
a run: one event, whose body is the bytes that arrived.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.sse import BETWEEN, END, START, Frame
from codellama_proxy.core.types import Event
from codellama_proxy.providers.common.json_documents import SurrogateHalves, UnreadableError

MAX_TEMPLATE_BYTES = 16 << 10
"""Larger frames are too rare for a template to be worthwhile."""
OTHER_TEXT = "@"
"""A sample text, chosen because it has only one spelling in JSON."""

_INSIDE = re.compile(rb'(?:[^"\\\x00-\x1f]|\\.)+')
"""The inside of a JSON string that is not empty."""
_INSIDE_RUN = re.compile(rb'(?:[^"\\\x00-\x1f\x80-\xbf]|\\["\\/bfnrt])(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])*+')
"""The same in a run: no escape, surrogate pair or UTF-8 character may begin in one frame and end in the next."""
_UNUSUAL = bytes([*range(0x20), *b'"\\', *range(0x80, 0x100)])
"""What is left to `_INSIDE_RUN`: everything but printable ASCII text."""

Parse = Callable[[Any, Frame], tuple[Any, Sequence[Event]]]
"""A dialect's parser: from a state and a frame to the next state and the frame's events."""


class StreamParser:
    """Parses the frames of one stream."""

    def __init__(self, parse: Parse) -> None:
        self.state: Any = None
        """The state of the dialect's parser."""
        self.template: ChunkTemplate | None = None
        """Matches the next frames that only add text."""
        self._parse = parse
        self._halves = SurrogateHalves()

    @property
    def complete(self) -> bool:
        """Whether the answer is complete, as far as the dialect can tell."""
        return self.state is not None and self.state.complete and not self._halves.open

    def events_of(self, frame: Frame) -> Sequence[Event]:
        """The events of the next frame. Raises what the dialect's parser raises."""
        template = self.template
        if template is not None and (event := template.event_of(frame)) is not None:
            return (event,)
        before = self.state
        frame, events = self._parsed(frame)
        if self.state is not before or self._halves.open:
            self.template = None
        elif template is None:
            self.template = learn(frame, events, lambda other: self._parse(before, other)[1])
        return events

    def _parsed(self, frame: Frame) -> tuple[Frame, Sequence[Event]]:
        """The frame, with split surrogates repaired, and its events."""
        if self._halves.open or (read := self._read(frame)) is None:
            if frame.data.lstrip().startswith(b"{"):
                frame = frame._replace(data=self._halves.repaired(frame.data))
            read = self._parse(self.state, frame)
        self.state, events = read
        if self._halves.open and self.state.done:
            raise UnreadableError("half_character")
        return frame, events

    def _read(self, frame: Frame) -> tuple[Any, Sequence[Event]] | None:
        """The next state and the events; `None` if the frame is not valid JSON."""
        try:
            return self._parse(self.state, frame)
        except UnreadableError:
            return None


class ChunkTemplate(NamedTuple):
    """The bytes around the text in a frame, and in the body of its event."""

    kind: str
    before: bytes
    after: bytes
    event_before: bytes
    event_after: bytes
    model: str | None
    start: bytes | None
    """How an event of a run begins; `None` if clients are not sent what arrives."""
    raw_before: bytes = b""
    raw_after: bytes = b""
    """The bytes around the text in the event's `raw`; empty if it has none."""

    def run_at(self, events: bytes, at: int) -> tuple[Event, int] | None:
        """The events that begin at `at` and match, as one event, and where the next one begins.

        `events` are whole. `None`: the first one does not match.
        """
        _, before, after, _, _, model, start, *_ = self
        if start is None or not events.startswith(start, at):
            return None
        at += len(START)
        begin, end = len(before), -len(after)
        texts: list[bytes] = []
        for data in events[at : -len(END)].split(BETWEEN):
            if not data.startswith(before):
                break
            texts.append(data[begin:end])
        body = self._joined(texts)
        if not events.startswith(body + END, at):  # one of them ends in another way
            del texts[1:]
            body = self._joined(texts)
            if not events.startswith(body + END, at):
                return None
        count = len(texts)
        text = _text_of(texts)
        if text is None:
            return None
        if len(texts) < count:
            body = self._joined(texts)
        return Event(body, True, text, None, None, model), at + len(body) + len(END)

    def single(self, events: bytes) -> Event | None:
        """The event of bytes that are nothing but one event that matches; `None` for any others."""
        _, before, after, _, _, model, start, *_ = self
        if start is None or not events.startswith(start) or not events.endswith(END):
            return None
        data = events[len(START) : -len(END)]
        inside = data[len(before) : -len(after)]
        if not inside or not data.endswith(after):
            return None
        if inside.translate(None, _UNUSUAL) != inside and not _INSIDE_RUN.fullmatch(inside):
            return None
        text = _decoded(inside)
        return Event(data, True, text, None, None, model) if text else None

    def _joined(self, texts: Sequence[bytes]) -> bytes:
        """The body of a run with these texts, as they stand in JSON."""
        return self.before + (self.after + BETWEEN + self.before).join(texts) + self.after

    def event_of(self, frame: Frame) -> Event | None:
        """The event that the parser would return; `None` if the frame does not match."""
        kind, before, after, event_before, event_after, model, _, raw_before, raw_after = self
        data, event = frame
        if event != kind or not data.startswith(before) or not data.endswith(after):
            return None
        found = _INSIDE.fullmatch(data, len(before), len(data) - len(after))
        if found is None:
            return None
        inside = found[0]
        text = _decoded(inside)
        if text is None:
            return None
        body = data if event_before is before else b"%b%b%b" % (event_before, inside, event_after)
        found_event = Event(body, True, text, None, None, model)
        if not raw_before:
            return found_event
        return found_event._replace(raw=b"%b%b%b" % (raw_before, inside, raw_after))


def learn(
    frame: Frame, events: Sequence[Event], parse: Callable[[Frame], Sequence[Event]]
) -> ChunkTemplate | None:
    """A template of a frame that gave these events; `parse` parses another frame in the same state."""
    if len(frame.data) > MAX_TEMPLATE_BYTES:
        return None
    if len(events) != 1 or not events[0].text or events[0].text == OTHER_TEXT:
        return None
    event = events[0]
    quoted = orjson.dumps(event.text)
    in_frame, in_event = _around(quoted, frame.data), _around(quoted, event.body)
    in_raw = _around(quoted, event.raw) if event.raw else (b"", b"")
    if in_frame is None or in_event is None or in_raw is None:
        return None
    relayed = event.body == frame.data
    start = START + in_frame[0] if relayed and not frame.event else None
    around = in_frame if relayed else in_event
    template = ChunkTemplate(frame.event, *in_frame, *around, event.model, start, *in_raw)
    other = Frame(template.before + OTHER_TEXT.encode() + template.after, frame.event)
    return template if list(parse(other)) == [template.event_of(other)] else None


def _text_of(texts: list[bytes]) -> str | None:
    """What the JSON strings with these insides say together; those from the first irregular one on are removed.

    `None` if none is left.
    """
    said = b"".join(texts)
    if b"" in texts or len(said.translate(None, _UNUSUAL)) != len(said):
        texts[:] = takewhile(_INSIDE_RUN.fullmatch, texts)
        said = b"".join(texts)
    return _decoded(said) or None


def _decoded(inside: bytes) -> str | None:
    """What a JSON string with this inside says; `None` if it is not UTF-8, or has half of a surrogate pair."""
    try:
        text: str = orjson.loads(b'"%b"' % inside) if b"\\" in inside else inside.decode()
    except ValueError:
        return None
    return text


def _around(quoted: bytes, data: bytes) -> tuple[bytes, bytes] | None:
    """The bytes before and after the only occurrence of `quoted`; `None` if there is not exactly one."""
    if data.count(quoted) != 1:
        return None
    at = data.index(quoted)
    return data[: at + 1], data[at + len(quoted) - 1 :]
