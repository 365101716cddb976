"""Bytes of a stream, in any pieces, are the same events."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Secret
from codellama_proxy.core.sse import encode
from codellama_proxy.core.types import Event
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.registry import ADAPTERS, RELAYS, Adapter
from codellama_proxy.upstream.event_reader import EventReader
from tests.support.builders import chat, deployment
from tests.support.dialogues import chunk, sse

HERE = deployment("a", provider="openai", api_key=Secret("sk-0123456789abcdef"))
ASKED = chat(stream=True, include_usage=True)
EXTRAS: list[dict[str, Any]] = [
    {},
    {},
    {"usage": None},
    {"usage": None, "obfuscation": "a1B2"},
    {"obfuscation": ""},
    {"error": {"message": "overloaded"}},
]
TEXTS = st.sampled_from(["a", "b ", "0", '"', "\n", "é", "😀", "", "{", "data: ", "sk-0123456789abcdef"])
BODIES = st.builds(lambda text, more: chunk({"content": text}, **more), TEXTS, st.sampled_from(EXTRAS))
OTHERS = st.sampled_from(
    [b": ping\n\n", b"data: [DONE]\n\n", b"data: {\n\n", b"\n", b"\xef\xbb\xbf", b"\r\n"]
)
STREAMS = st.lists(st.one_of(BODIES.map(sse), BODIES.map(sse), OTHERS), max_size=12)
STARTED = sse(chunk({"role": "assistant", "content": "x"}), chunk({"content": "y"}))


def said(pieces: Iterable[bytes], adapter: Adapter = ADAPTERS["openai"]) -> tuple[Any, ...]:
    """What clients are sent, the text that is counted, and how it ends."""
    noted: list[Event] = []
    reader = EventReader(ASKED, HERE, adapter, noted.extend)
    reason = ""
    try:
        for piece in pieces:
            if not reader.ended and reader.failed is None:
                reader.feed(piece)
    except AttemptError as failed:
        reason = failed.failure.reason
    if reader.failed is not None:
        reason = reader.failed.failure.reason
    bodies = [event.body for event in noted if event.body]
    raw = b"".join([event.raw for event in noted])
    return encode(*bodies), raw, "".join([event.text for event in noted]), reason, reader.ended


@given(STREAMS, st.lists(st.integers(0, 3000), max_size=12))
def test_any_pieces_give_the_same(stream: list[bytes], cuts: list[int]) -> None:
    data = b"".join([STARTED, *stream])
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    anyhow = said([data[a:b] for a, b in pairwise(edges)])
    assert anyhow == said([data]) == said([STARTED, *stream])


def message_event(kind: str, **more: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **more}))


def delta(text: str) -> bytes:
    return message_event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


MESSAGE = [
    message_event("message_start", message={"id": "m", "model": "c", "usage": {"input_tokens": 1}}),
    message_event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    delta("x"),
    delta("y"),
]
MESSAGE_OTHERS = st.sampled_from(
    [
        message_event("ping"),
        message_event("message_stop"),
        b"data: " + delta("no kind").partition(b"data: ")[2],
        delta("other kind").replace(b"event: content", b"event: con"),
    ]
)


@given(
    st.lists(st.one_of(TEXTS.map(delta), TEXTS.map(delta), MESSAGE_OTHERS), max_size=10),
    st.lists(st.integers(0, 3000), max_size=10),
    st.sampled_from([ADAPTERS["anthropic"], RELAYS["messages"]["anthropic"]]),
)
def test_any_pieces_of_a_message_give_the_same(
    stream: list[bytes], cuts: list[int], adapter: Adapter
) -> None:
    data = b"".join([*MESSAGE, *stream])
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    anyhow = said([data[a:b] for a, b in pairwise(edges)], adapter)
    assert anyhow == said([data], adapter) == said([*MESSAGE, *stream], adapter)
