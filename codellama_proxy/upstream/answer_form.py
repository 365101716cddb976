"""Distinguishes streams from plain answers by how the body begins, since some upstreams send the other form.

The content type decides only if the beginning is ambiguous, since some upstreams send a wrong one.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Mapping

WHITE = b" \t\r\n"
_EVENT = re.compile(rb":|(?:data|event|id|retry)(?:[:\r\n]|\Z)")
"""The beginning of a line of an event stream."""


def beginning(head: bytes) -> bytes:
    """The beginning of a body without white space and a byte order mark; empty if there is nothing else."""
    return head.lstrip(WHITE).removeprefix(BOM_UTF8).lstrip(WHITE)


def is_stream(head: bytes, headers: Mapping[str, str], *, asked: bool) -> bool:
    """Whether a body with this beginning is an event stream; `asked`: whether a stream was requested."""
    if head.startswith(b"{"):  # nearly all plain answers
        return False
    begins = beginning(head)
    if begins.startswith((b"{", b"[")):
        return False
    content_type = headers.get("content-type", "")
    if _EVENT.match(begins) or "event-stream" in content_type:
        return True
    return asked and "json" not in content_type
