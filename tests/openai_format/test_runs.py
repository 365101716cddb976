"""Chunks joined to runs say what they said one by one."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.sse import BETWEEN, encode
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.openai_format.folding import chunks_of, fold
from codellama_proxy.openai_format.runs import with_runs

TEXTS = st.sampled_from(["a", "b", "c", '"', "\n", "é", "m", "content", ""])


def chunk(text: str, field: str = "content", model: str = "m", index: int = 0) -> Event:
    choice = {"index": index, "delta": {field: text}, "finish_reason": None}
    body = orjson.dumps({"id": "c", "model": model, "choices": [choice]})
    return Event(body, bool(text), text, model=model)


FINISH = Event(
    orjson.dumps({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}), True
)
chunks = st.builds(
    chunk, TEXTS, st.sampled_from(["content", "reasoning_content"]), st.sampled_from(["m", "a"])
)
others = st.sampled_from(
    [
        FINISH,
        Event(b"", usage=Usage(1, 2)),
        chunk("b")._replace(raw=b"data: b"),
        chunk("b", index=1),
        Event(BETWEEN.join([chunk("a").body, chunk("b").body]), True, "ab", model="m"),
    ]
)
streams = st.lists(chunks | chunks | TEXTS.map(chunk) | others, max_size=20)


def said(events: list[Event]) -> tuple[Any, ...]:
    bodies = [event.body for event in events if event.body]
    rest = [event[3:] for event in events if event.usage or event.raw or event.finish_reason]
    return encode(*bodies), "".join([event.text for event in events]), fold(chunks_of(events)), rest


@given(streams)
def test_the_stream_and_its_fold_are_the_same(events: list[Event]) -> None:
    assert said(with_runs(events)) == said(events)


def test_chunks_that_differ_in_their_text_only_become_one_event() -> None:
    words = [chunk(word) for word in ("one", '"two"', "a", "m")]
    joined = with_runs([*words, FINISH])
    assert [event.text for event in joined] == ['one"two"am', ""]
