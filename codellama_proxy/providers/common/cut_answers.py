"""Extracts usage from failed answers, and text from bodies that were cut. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Json
from codellama_proxy.core.types import Event, Failure, Usage
from codellama_proxy.openai_format.usage import read_usage, usage_in
from codellama_proxy.providers.common.json_documents import has_too_many_parts
from codellama_proxy.providers.common.json_reading import dig

TEXT_FIELDS = (
    b"content",
    b"text",
    b"arguments",
    b"reasoning_content",
    b"reasoning",
    b"thinking",
    b"partial_json",
)
"""Names of the fields that hold a model's output."""

BACKSLASH = ord("\\")
MAX_SEARCHED_BYTES = 4 << 20
"""Text beyond this is not extracted; longer than any booked answer."""
SEARCH_WINDOW_BYTES = 256 << 10
"""Bytes searched at once, and bytes in which an answer must show that it is one."""

_BEGINS = re.compile(rb'[ \t\r\n]{0,64}:[ \t\r\n]{0,64}"')


def with_usage(failure: Failure, body: bytes) -> Failure:
    """The failure with the usage that the answer or error in `body` reports, if any."""
    if failure.usage is not None or not (b"usage" in body or b"metrics" in body):
        return failure
    if has_too_many_parts(body):
        return failure
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return failure
    return replace(failure, usage=_reported(found)) if isinstance(found, dict) else failure


def _reported(found: Json) -> Usage | None:
    """The usage in the format of OpenAI, Anthropic, Replicate or Cohere."""
    cohere = dig(found, "delta", "usage") or found.get("usage")
    counts = {**_object(dig(cohere, "billed_units")), **_object(dig(cohere, "tokens"))}
    return usage_in(found) or read_usage(found.get("metrics")) or read_usage(counts)


def _object(found: Any) -> Json:
    return found if isinstance(found, dict) else {}


def is_answer(body: bytes) -> bool:
    """Whether a body that was cut is the beginning of an answer."""
    start = body[:SEARCH_WINDOW_BYTES]
    return any(b'"%b"' % name in start for name in (b"choices", b"embedding", *TEXT_FIELDS))


def text_events(body: bytes) -> Sequence[Event]:
    """The texts of an answer that was cut or cannot be read, for counting."""
    return (Event(b"", text=texts_in(body[:MAX_SEARCHED_BYTES])),)


def texts_in(body: bytes) -> str:
    """All output text in a body that may be cut anywhere."""
    return "".join(text for name in TEXT_FIELDS for text in _texts(body, name))


def _texts(body: bytes, name: bytes) -> Iterator[str]:
    quoted = b'"%b"' % name
    at = 0
    while at < len(body):
        # A window at a time: one long search would keep every other thread waiting.
        place = body.find(quoted, at, at + SEARCH_WINDOW_BYTES)
        if place < 0:
            at += SEARCH_WINDOW_BYTES - len(quoted) + 1
            continue
        at = place + len(quoted)
        begins = _BEGINS.match(body, at)
        if begins is not None:
            at = _end_of_string(body, begins.end())
            yield _unquoted(body[begins.end() : at])


def _end_of_string(body: bytes, at: int) -> int:
    """The end of the JSON string that contains `at`: its closing quote, or the end of the body."""
    start = at
    while at < len(body):
        # A window at a time: one long search would keep every other thread waiting.
        quote = body.find(b'"', at, at + SEARCH_WINDOW_BYTES)
        if quote < 0:
            at += SEARCH_WINDOW_BYTES
            continue
        if not _is_escaped(body, start, quote):
            return quote
        at = quote + 1
    return len(body)


def _is_escaped(body: bytes, start: int, at: int) -> bool:
    """Whether an odd number of backslashes precedes `at`."""
    first = at
    while first > start and body[first - 1] == BACKSLASH:
        first -= 1
    return (at - first) % 2 == 1


def _unquoted(inside: bytes) -> str:
    try:
        text = orjson.loads(b'"%b"' % inside)
    except orjson.JSONDecodeError:
        return inside.decode("utf-8", "replace")
    return str(text)
