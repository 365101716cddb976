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
from operator import itemgetter
from typing import Any

import orjson

from codellama_proxy.core.sse import BETWEEN, END, START, Frame
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.runs import Around, around
from codellama_proxy.providers.common.json_documents import SurrogateHalves, UnreadableError

MAX_TEMPLATE_BYTES = 16 << 10
"""Larger frames are too rare for a template to be worthwhile."""
OTHER_TEXT = "@"
"""A sample text, chosen because it has only one spelling in JSON."""

OTHER_PADDING = b',"obfuscation":"@1"}'
_PADDING_BEGINS = b',"obfuscation":"'
_PADDING = re.compile(rb',"obfuscation":"[^"\\\x00-\x1f\x80-\xff]*"\}')
"""The last field of OpenAI's chunks, which hides the length of the text (`stream_options.include_obfuscation`)."""

_INSIDE = re.compile(rb'(?:[^"\\\x00-\x1f]|\\.)+')
"""The inside of a JSON string that is not empty."""
_INSIDE_RUN = re.compile(rb'(?:[^"\\\x00-\x1f\x80-\xbf]|\\["\\/bfnrt])(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])*+')
"""The same in a run: no escape, surrogate pair or UTF-8 character may begin in one frame and end in the next."""
_UNUSUAL = bytes([*range(0x20), *b'"\\', *range(0x80, 0x100)])
"""What is left to `_INSIDE_RUN`: everything but printable ASCII text."""

NOTHING_AROUND: Around = (b"", b"")

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
        before, halves = self.state, self._halves
        events: Sequence[Event] | None = None
        if not halves.open:
            try:
                self.state, events = self._parse(before, frame)
            except UnreadableError:
                events = None  # perhaps half of a surrogate pair
        if events is None:
            if frame.data.lstrip().startswith(b"{"):
                frame = frame._replace(data=halves.repaired(frame.data))
            self.state, events = self._parse(before, frame)
            if halves.open and self.state.done:
                raise UnreadableError("half_character")
        if self.state is not before or halves.open:
            self.template = None
        elif template is None:
            self.template = learn(frame, events, lambda other: self._parse(before, other)[1])
        return events


class ChunkTemplate:
    """The bytes around the text in a frame, and in the body of its event."""

    __slots__ = (
        "_after",
        "_before",
        "_data_at",
        "_event_around",
        "_inside_of",
        "_is_passed_on",
        "_kind",
        "_model",
        "_raw_around",
        "event_end",
        "event_start",
        "is_padded",
    )

    def __init__(
        self,
        kind: str,
        in_frame: Around,
        in_event: Around,
        in_raw: Around,
        model: str | None,
        *,
        padded: bool = False,
    ) -> None:
        """`kind`: the event type of the frames; `in_raw`: empty if the events have no `raw`; `in_frame`: without the
        padding, if the frames are `padded`.
        """
        self._kind = kind
        self._before, self._after = in_frame
        self._event_around = in_event if in_event != in_frame else None
        """`None`: as in the frame."""
        self._raw_around = in_raw if in_raw != NOTHING_AROUND else None
        self._model = model
        self.is_padded = padded
        prefix = b"event: %b\n%b" % (kind.encode(), START) if kind else START
        self.event_start = prefix + self._before
        """How an event begins on the wire."""
        self.event_end = self._after + END
        """How it ends, unless it is padded."""
        self._data_at = len(prefix)
        self._inside_of = itemgetter(slice(len(self._before), -len(self._after)))
        """The inside of the string in data that match."""
        self._is_passed_on = not kind and not padded and self._event_around is None
        """Whether clients are sent what arrives."""

    def written_around(self, *, raw: bool) -> Around | None:
        """The bytes around the text in what a client is sent of an event; `None` if `raw`, and the events have none."""
        if raw:
            return self._raw_around
        before, after = self._event_around or (self._before, self._after)
        return START + before, after + END

    def run_at(self, events: bytes, at: int) -> tuple[Event, int] | None:
        """The events that begin at `at` and match, as one event, and where the next one begins.

        `events` are whole. `None`: the first one does not match.
        """
        before = self._before
        if not self._is_passed_on or not events.startswith(self.event_start, at):
            return None
        at += len(START)
        pieces = events[at : -len(END)].split(BETWEEN)
        while not pieces[-1].startswith(before):  # the first one does
            pieces.pop()
        texts = list(map(self._inside_of, pieces))
        body = self._joined(texts)
        if not events.startswith(body + END, at):  # one of them begins or ends in another way
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
        return Event(body, True, text, None, None, self._model), at + len(body) + len(END)

    def run_of(self, insides: Sequence[bytes]) -> Event:
        """One event for several chunks, from the insides of their strings; each `is_regular`."""
        text = _decoded(b"".join(insides))
        assert text is not None
        raw = b""
        if self._raw_around is not None:
            before, after = self._raw_around
            raw = before + (after + before).join(insides) + after
        return Event(self._joined(insides), True, text, None, None, self._model, raw=raw)

    def single(self, events: bytes) -> Event | None:
        """The event of bytes that are nothing but one event that matches; `None` for any others."""
        if not events.startswith(self.event_start) or not events.endswith(END):
            return None
        received = events[self._data_at : -len(END)]
        data = unpadded(received) if self.is_padded else received
        if data is None or not data.endswith(self._after):
            return None
        inside = data[len(self._before) : -len(self._after)]
        text = _said(inside)
        return self._event(data, inside, text) if text else None

    def _joined(self, texts: Sequence[bytes]) -> bytes:
        """The body of a run with these texts, as they stand in JSON."""
        before, after = self._event_around or (self._before, self._after)
        return before + (after + BETWEEN + before).join(texts) + after

    def event_of(self, frame: Frame) -> Event | None:
        """The event that the parser would return; `None` if the frame does not match."""
        before, after = self._before, self._after
        data = unpadded(frame.data) if self.is_padded else frame.data
        if data is None or frame.event != self._kind:
            return None
        if not data.startswith(before) or not data.endswith(after):
            return None
        found = _INSIDE.fullmatch(data, len(before), len(data) - len(after))
        if found is None:
            return None
        text = _decoded(found[0])
        return None if text is None else self._event(data, found[0], text)

    def _event(self, data: bytes, inside: bytes, text: str) -> Event:
        body = data if self._event_around is None else inside.join(self._event_around)
        raw = b"" if self._raw_around is None else inside.join(self._raw_around)
        return Event(body, True, text, None, None, self._model, raw=raw)


def learn(
    frame: Frame, events: Sequence[Event], parse: Callable[[Frame], Sequence[Event]]
) -> ChunkTemplate | None:
    """A template of a frame that gave these events; `parse` parses another frame in the same state."""
    if len(frame.data) > MAX_TEMPLATE_BYTES or b"\n" in frame.data:
        return None
    if len(events) != 1 or not events[0].text or events[0].text == OTHER_TEXT:
        return None
    event, without = events[0], unpadded(frame.data)
    data = frame.data if without is None else without
    in_frame = around(event.text, data)
    in_event = in_frame if event.body is data else around(event.text, event.body)
    in_raw = around(event.text, event.raw) if event.raw else NOTHING_AROUND
    if in_frame is None or in_event is None or in_raw is None:
        return None
    padded = without is not None
    template = ChunkTemplate(frame.event, in_frame, in_event, in_raw, event.model, padded=padded)
    other_data = OTHER_TEXT.encode().join(in_frame)
    if padded:
        other_data = other_data[:-1] + OTHER_PADDING
    other = Frame(other_data, frame.event)
    return template if list(parse(other)) == [template.event_of(other)] else None


def unpadded(data: bytes) -> bytes | None:
    """The data without the padding at their end; `None` if they have none."""
    at = padding_at(data, len(data))
    return data[:at] + b"}" if at >= 0 else None


def padding_at(data: bytes, end: int) -> int:
    """Where the padding begins that ends at `end`; -1 if there is none."""
    at = data.rfind(_PADDING_BEGINS, 0, end)
    return at if at >= 0 and _PADDING.fullmatch(data, at, end) else -1


def _text_of(texts: list[bytes]) -> str | None:
    """What the JSON strings with these insides say together; those from the first irregular one on are removed.

    `None` if none is left.
    """
    said = b"".join(texts)
    if not all(texts) or len(said.translate(None, _UNUSUAL)) != len(said):
        texts[:] = takewhile(_INSIDE_RUN.fullmatch, texts)
        said = b"".join(texts)
    return _decoded(said) or None


def _said(inside: bytes) -> str | None:
    """What the JSON string of one chunk with this inside says; `None` if it is irregular."""
    if inside.isascii():
        text = inside.decode()
        if text.isprintable() and '"' not in text and "\\" not in text:
            return text
    return _decoded(inside) if _INSIDE_RUN.fullmatch(inside) else None


def is_regular(inside: bytes) -> bool:
    """Whether JSON strings with such insides say together what they say one by one, and something."""
    if inside.isascii():
        text = inside.decode()
        if text.isprintable() and '"' not in text and "\\" not in text:
            return bool(text)
    elif _decoded(inside) is None:
        return False
    return _INSIDE_RUN.fullmatch(inside) is not None


def _decoded(inside: bytes) -> str | None:
    """What a JSON string with this inside says; `None` if it is not UTF-8, or has half of a surrogate pair."""
    try:
        text: str = orjson.loads(b'"%b"' % inside) if b"\\" in inside else inside.decode()
    except ValueError:
        return None
    return text
