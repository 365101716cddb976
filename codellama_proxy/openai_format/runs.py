"""Joins chunks that arrived one by one to runs: fewer objects to keep, and to fold at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from codellama_proxy.core.sse import BETWEEN
from codellama_proxy.core.types import Event


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
