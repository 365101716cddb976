"""Tells a stream from a whole answer by how its body begins: upstreams send one where the other was asked for.

Content types decide only what the beginning leaves open, for some upstreams label one form as the other.
"""

from __future__ import annotations

import re

from codellama_proxy.providers.common.json_documents import BOM

WHITE = b" \t\r\n"
_EVENT = re.compile(rb":|(?:data|event|id|retry)(?:[:\r\n]|\Z)")
"""How a line of an event stream begins."""


def beginning(head: bytes) -> bytes:
    """What a body begins with beside white space and a byte order mark; empty while there is nothing else."""
    return head.lstrip(WHITE).removeprefix(BOM).lstrip(WHITE)


def is_stream(head: bytes, content_type: str, *, asked: bool) -> bool:
    """Whether a body that begins like this is a stream; `asked`: whether a stream was asked for."""
    begins = beginning(head)
    if begins[:1] in (b"{", b"["):
        return False
    if _EVENT.match(begins) or "event-stream" in content_type:
        return True
    return asked and "json" not in content_type
