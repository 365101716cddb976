"""What a stateless proxy cannot do: everything that refers to an object stored at the upstream.

The upstream account is shared by all projects, so an id could name another project's object. Every such reference is
refused in the same way, whether the object exists or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codellama_proxy.core.errors import ProxyError

ADVICE: Mapping[str, str] = {
    "previous_response_id": "Send the whole input.",
    "conversation": "Send the whole input.",
    "item_reference": "Send the item itself.",
    "prompt": "Send the prompt's text in 'instructions' or 'input'.",
    "background": "Set 'stream' to true for long answers.",
    "file_id": "Send the data itself: 'image_url' with a data URL, or 'file_data'.",
    "file_url": "Send the data itself in 'file_data'.",
    "container": "Run the code at the client.",
    "container_id": "Leave the item out.",
    "vector_store_ids": "Search at the client, with a function tool.",
    "mcp": "Call the MCP server from the client, with function tools.",
}
REFUSED_FIELDS = ("previous_response_id", "conversation", "prompt", "background")
"""Of a request; `false` and null are no request for it."""
ID_FIELDS = ("file_id", "container_id")
"""Of items and their parts."""


def stored(kind: str, at: str) -> ProxyError:
    """The refusal of what `at` refers to; `kind` is a key of `ADVICE`."""
    message = (
        f"'{at}' is not supported: this proxy stores nothing and shares no stored objects. {ADVICE[kind]}"
    )
    return ProxyError("unsupported_parameter", message, param=at)


def check_fields_stateless(body: Mapping[str, Any]) -> None:
    """Raises `ProxyError` unsupported_parameter for a field of `REFUSED_FIELDS` that is set."""
    for name in REFUSED_FIELDS:
        if body.get(name) not in (None, False):
            raise stored(name, name)


def check_no_ids(item: Mapping[str, Any], at: str) -> None:
    """Raises `ProxyError` unsupported_parameter if the item, or an object directly in it, has an id of `ID_FIELDS`."""
    for place, found in ((at, item), *((f"{at}.{name}", inner) for name, inner in item.items())):
        if isinstance(found, Mapping):
            for name in ID_FIELDS:
                if isinstance(found.get(name), str):
                    raise stored(name, f"{place[:200]}.{name}")
