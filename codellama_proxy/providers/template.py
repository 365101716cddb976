"""Knows a stream's usual chunk by heart: the bytes around its text, so that the next one like it needs no parser.

A template is made of a chunk that only said some text, and only after the same chunk with another text was parsed
and came out as the template foretold. So whatever fits it means what a parser would have found, as long as what the
parser knew (its state) is the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import orjson

from codellama_proxy.types import Event

OTHER_TEXT = "@"
"""Stands for any text: JSON says it in one way only."""

_INSIDE = re.compile(rb'(?:[^"\\\x00-\x1f]|\\.)+')
"""Of a JSON string that is not empty, as far as bytes tell."""


class Template(NamedTuple):
    """Around the text in the chunk that comes, and in the event that is made of it."""

    before: bytes
    after: bytes
    shown_before: bytes
    shown_after: bytes
    model: str | None

    def event_of(self, chunk: bytes) -> Event | None:
        """What a parser would make of it; `None` for a chunk that is not like the template's."""
        before, after, shown_before, shown_after, model = self
        if not (chunk.startswith(before) and chunk.endswith(after)):
            return None
        inside = chunk[len(before) : len(chunk) - len(after)]
        if _INSIDE.fullmatch(inside) is None:
            return None
        try:
            text = orjson.loads(b'"%b"' % inside) if b"\\" in inside else inside.decode()
        except ValueError:
            return None
        body = chunk if shown_before is before else b"%b%b%b" % (shown_before, inside, shown_after)
        return Event(body, True, text, None, None, model)


def learn(
    chunk: bytes, events: Sequence[Event], parse: Callable[[bytes], Sequence[Event]]
) -> Template | None:
    """The template of a chunk that gave these events; `parse` tells what others would give in its place."""
    if len(events) != 1 or not events[0].text:
        return None
    event = events[0]
    quoted = orjson.dumps(event.text)
    come, shown = _around(quoted, chunk), _around(quoted, event.body)
    if come is None or shown is None or event.text == OTHER_TEXT:
        return None
    found = Template(*come, *(come if event.body == chunk else shown), event.model)
    other = found.before + OTHER_TEXT.encode() + found.after
    foretold = found.event_of(other)
    return found if list(parse(other)) == [foretold] else None


def _around(quoted: bytes, chunk: bytes) -> tuple[bytes, bytes] | None:
    """What comes before and after the one place where a text is quoted; `None` if there is not just one."""
    if chunk.count(quoted) != 1:
        return None
    at = chunk.index(quoted)
    return chunk[: at + 1], chunk[at + len(quoted) - 1 :]
