"""What both dialects have in common: objects in lists, and fields that name stored objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from codellama_proxy.core.errors import ProxyError

Body = Mapping[str, Any]

STORED_FIELDS = frozenset(
    {"file_id", "file_ids", "container_id", "vector_store_ids", "skill_id", "connector_id"}
)
"""Fields of tools that name objects of the provider's account, which all projects share."""
SCHEMA_FIELDS = frozenset({"parameters", "input_schema", "description", "input_examples", "format"})
"""Fields of tools with the client's own names, which may be any."""
MAX_TOOL_DEPTH = 6
"""Levels of a tool that are searched; providers' own fields are not nested deeper."""


def listed(value: Any) -> list[Any]:
    """The list, or an empty one for other values."""
    return value if isinstance(value, list) else []


def objects(value: Any) -> Iterator[Body]:
    """The objects in a list; nothing for other values."""
    if isinstance(value, list | tuple):
        yield from (one for one in value if isinstance(one, Mapping))


def stored(at: str) -> ProxyError:
    """The refusal of a stored object, the same whether it exists or not."""
    message = f"'{at}' is not supported: this proxy shares no stored objects. Send the data itself."
    return ProxyError("unsupported_parameter", message, param=at)


def check_tools(tools: Any, at: str) -> None:
    """Raises `ProxyError` unsupported_parameter for a tool that uses an object stored at the provider."""
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        _check_tool(tool, f"{at}[{index}]", MAX_TOOL_DEPTH)


def _check_tool(value: Any, at: str, depth: int) -> None:
    if not depth:
        return
    if isinstance(value, list):
        for one in value:
            _check_tool(one, at, depth - 1)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name in STORED_FIELDS and inner:
                raise stored(f"{at}.{name}")
            if name not in SCHEMA_FIELDS and isinstance(inner, list | Mapping):
                _check_tool(inner, at, depth - 1)


USUAL_LIFETIME = "5m"
"""The lifetime of cache marks that name none; every other one costs more."""


def is_hour(mark: Any) -> bool:
    """Whether a cache mark has a lifetime of one hour, or one that is not known here."""
    return isinstance(mark, Mapping) and mark.get("ttl") not in (None, USUAL_LIFETIME)


NESTED_FIELDS = ("content", "source", "tool_calls")
"""Fields of messages and blocks that hold further places for cache marks."""


_LISTS = (list, tuple)


def has_hour(value: Any) -> bool:
    """Whether an object, or one in these lists, has a cache mark for which `is_hour`."""
    if isinstance(value, _LISTS):
        return any(map(has_hour, value))
    if not isinstance(value, dict) and not isinstance(value, Mapping):  # the first check is much faster
        return False
    if "cache_control" in value and is_hour(value["cache_control"]):
        return True
    for name in NESTED_FIELDS:
        inner = value.get(name)
        if inner is not None and type(inner) is not str and has_hour(inner):
            return True
    return False


def without_hours(value: Any) -> Any:
    """The same with the default lifetime of cache marks."""
    if isinstance(value, list | tuple):
        return [without_hours(one) for one in value]
    if not has_hour(value):
        return value
    found = dict(value)
    mark = found.get("cache_control")
    if isinstance(mark, Mapping) and is_hour(mark):
        found["cache_control"] = {name: one for name, one in mark.items() if name != "ttl"}
    for name in NESTED_FIELDS:
        if name in found:
            found[name] = without_hours(found[name])
    return found
