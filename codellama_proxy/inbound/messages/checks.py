"""Checks of a request's known fields, and the names of what its translation leaves out.

Checks are shallow: types of known fields, blocks with a type, ids and names of calls. Whatever is unknown is left out
and reported, because clients send new fields, blocks and tools before a proxy knows them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.openai_format.fields import invalid_type

MAX_REPORTED_NAMES = 32
MAX_REPORTED_NAME = 64
"""Characters of one name."""
_NOT_FOR_HEADERS = re.compile(r"[^\w.\-\[\]]", re.ASCII)


class LeftOut:
    """The names of what a translation leaves out, as a response header can hold them."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        if len(self._names) < MAX_REPORTED_NAMES:
            self._names[_NOT_FOR_HEADERS.sub("?", name[:MAX_REPORTED_NAME])] = None

    @property
    def names(self) -> tuple[str, ...]:
        """Sorted; the first `MAX_REPORTED_NAMES` that were added."""
        return tuple(sorted(self._names))


def given(
    found: Mapping[str, Any], name: str, kinds: type | tuple[type, ...], expected: str, at: str = ""
) -> Any:
    """A field's value; `None` for an absent or null one. Raises `ProxyError` invalid_type."""
    value = found.get(name)
    if value is None:
        return None
    is_number_wanted = kinds in (int, (int, float))
    if not isinstance(value, kinds) or (is_number_wanted and isinstance(value, bool)):
        raise invalid_type(f"{at}{name}", expected)
    return value


def text_given(found: Mapping[str, Any], name: str, at: str) -> str:
    """A required text. Raises `ProxyError` missing_required_parameter or invalid_type."""
    value: str | None = given(found, name, str, "string", f"{at}.")
    if value is None:
        raise ProxyError("missing_required_parameter", f"'{at}.{name}' is required.", param=f"{at}.{name}")
    return value


def object_given(found: Mapping[str, Any], name: str, at: str) -> Mapping[str, Any]:
    """A required object. Raises `ProxyError` missing_required_parameter or invalid_type."""
    value: Mapping[str, Any] | None = given(found, name, dict, "object", f"{at}.")
    if value is None:
        raise ProxyError("missing_required_parameter", f"'{at}.{name}' is required.", param=f"{at}.{name}")
    return value


def typed_objects(value: Any, at: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The position and value of each block of a list. Raises `ProxyError` for one that is no object with a `type`."""
    blocks: list[tuple[str, Mapping[str, Any]]] = []
    for index, block in enumerate(value):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise invalid_type(f"{at}[{index}]", "object with a 'type'")
        blocks.append((f"{at}[{index}]", block))
    return blocks


def mark_of(block: Mapping[str, Any]) -> dict[str, Any]:
    """The cache mark of a block or a tool as a field; empty for none."""
    mark = block.get("cache_control")
    if not isinstance(mark, dict):
        return {}
    ttl = {"ttl": mark["ttl"]} if mark.get("ttl") in ("5m", "1h") else {}
    return {"cache_control": {"type": "ephemeral", **ttl}}


def unavailable(at: str, what: str) -> ProxyError:
    """The refusal of what would reach objects of the provider's account, which all projects share."""
    return ProxyError("unsupported_parameter", f"{what} is not supported by this proxy.", param=at)
