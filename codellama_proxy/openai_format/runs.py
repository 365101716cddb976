"""Chunks that differ in their text only: joined to runs, and recognised where they continue another chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from codellama_proxy.core.sse import BETWEEN
from codellama_proxy.core.types import Event

END_OF_LINE = BETWEEN[:1]
"""Found only in runs, and faster than `BETWEEN`."""
Around = tuple[bytes, bytes]
"""The bytes before and after the text in a chunk, which is a JSON string: its quotes are among them."""


def around(text: str, body: bytes) -> Around | None:
    """The bytes around the only JSON string in `body` that is `text`; `None` if there is not exactly one."""
    quoted = orjson.dumps(text)
    before, found, after = body.partition(quoted)
    return (before + b'"', b'"' + after) if found and quoted not in after else None


def says(body: bytes, text: str, place: Around) -> bool:
    """Whether a chunk has nothing but `text` at this place, or the chunks of a run have parts of it there."""
    before, after = place
    end = body.find(END_OF_LINE)
    is_run = end >= 0
    if not is_run:
        end = len(body)
    if not body.startswith(before) or not body.endswith(after, len(before), end):
        return False
    try:
        said = orjson.loads(b'"%b"' % body[len(before) : end - len(after)])
    except ValueError:
        return False
    return text.startswith(said) if is_run else text == said


def with_runs(events: Iterable[Event]) -> list[Event]:
    """The events, with consecutive chunks that differ in their text only as one run (`Event.body`)."""
    found: list[Event] = []
    run: list[Event] = []
    before = after = b""
    others: Sequence[Any] = ()
    """The fields of the run's events besides body, content and text."""
    for event in events:
        body, content, text, *rest = event
        quoted = orjson.dumps(text)
        if run and content and rest == others and body == before + quoted + after:
            run.append(event)
            continue
        found += _joined(run)
        run = [event]
        others = [None, None, event.model, False, False, None, b""]
        before, between, after = body.partition(quoted)
        if not (content and text and between and rest == others) or BETWEEN in body:
            found.append(event)
            run = []
    return found + list(_joined(run))


def _joined(run: Sequence[Event]) -> Sequence[Event]:
    """A run of these chunks."""
    if len(run) < 2:
        return run
    body = BETWEEN.join([event.body for event in run])
    return [Event(body, True, "".join([event.text for event in run]), model=run[0].model)]
