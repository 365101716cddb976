"""What can be read of an answer that failed: the usage it told, and the texts in a body that was cut. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import orjson

from codellama_proxy.types import Event, Failure
from codellama_proxy.usage import usage_in

TEXTS = (b"content", b"text", b"arguments", b"reasoning_content", b"reasoning", b"thinking", b"partial_json")
"""What the fields are called that hold what a model said."""

_STRING = re.compile(rb'\s*:\s*"((?:[^"\\]|\\.)*+)', re.DOTALL)


def with_usage(failure: Failure, body: bytes) -> Failure:
    """The failure with the usage that the answer or error in `body` tells, if it tells one."""
    if failure.usage is not None or b"usage" not in body:
        return failure
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return failure
    return replace(failure, usage=usage_in(found)) if isinstance(found, dict) else failure


def is_answer(body: bytes) -> bool:
    """Whether a body that was cut is the beginning of an answer, and not of anything else."""
    return any(b'"%b"' % name in body for name in (b"choices", b"embedding", *TEXTS))


def heard(body: bytes) -> Sequence[Event]:
    """The texts of an answer that was cut or cannot be read, for counting."""
    return (Event(b"", text=texts_in(body)),)


def texts_in(body: bytes) -> str:
    """Every text that a model said in a body, whole or cut anywhere."""
    return "".join(text for name in TEXTS for text in _texts(body, name))


def _texts(body: bytes, name: bytes) -> Iterator[str]:
    quoted = b'"%b"' % name
    at = body.find(quoted)
    while at >= 0:
        at += len(quoted)
        found = _STRING.match(body, at)
        if found is not None:
            yield _unquoted(found[1])
            at = found.end()
        at = body.find(quoted, at)


def _unquoted(inside: bytes) -> str:
    try:
        text = orjson.loads(b'"%b"' % inside)
    except orjson.JSONDecodeError:
        return inside.decode("utf-8", "replace")
    return str(text)
