"""Reads JSON that may be anything: what is missing or of another kind is simply not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


def object_in(data: bytes) -> dict[str, Any] | None:
    """The object in a stream's frame; `None` for a bad line among good ones: the rest is still an answer."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def dig(found: Any, *names: str) -> Any:
    """What lies under these names; `None` where anything on the way is no object."""
    for name in names:
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def text_at(found: Any, *names: str) -> str:
    value = dig(found, *names)
    return value if isinstance(value, str) else ""


def count_at(found: Any, *names: str) -> int | None:
    """A number of tokens, which some send as a float."""
    value = dig(found, *names)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53
    return int(value) if whole else None


def listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []
