"""What a dialect's conversation is made of, for the contract that all of them keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from codellama_proxy.core.types import Usage

USAGE = Usage(20, 7, cached_tokens=4, reasoning_tokens=2)


@dataclass(frozen=True, slots=True)
class Answer:
    whole: bytes
    stream: bytes
    text: str
    """Everything it says, reasoning and tool arguments included."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What one dialect's providers say."""

    answers: Mapping[str, Answer]
    errors: tuple[bytes, ...]
    """Error events of a stream."""
    first_system: Callable[[Mapping[str, Any]], str]
    """The system text of a request's body, wherever this dialect has it."""
    usage: Usage = USAGE
    """What every answer reports, as far as this dialect can tell."""


def sse(*data: Any) -> bytes:
    """Events, whatever they carry: objects as JSON, bytes as they are."""
    lines = [one if isinstance(one, bytes) else orjson.dumps(one) for one in data]
    return b"".join(b"data: " + line + b"\n\n" for line in lines)


def first_message(body: Mapping[str, Any]) -> str:
    """The system text where it is the first message."""
    first = body["messages"][0]
    return str(first["content"]) if first["role"] == "system" else ""
