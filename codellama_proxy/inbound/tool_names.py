"""Names of tools as every provider accepts them, and the client's names for them.

Providers accept 64 letters, digits, `_` and `-`; MCP servers use longer names and other characters. The short name is
a function of the long one, so nothing is stored: the encoder of an answer computes it again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

MAX_TOOL_NAME = 64
"""Characters."""
KEPT_PREFIX = 55
"""Characters of a long name that its short form begins with."""
_ACCEPTED = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_TOOL_NAME}}}", re.ASCII)
_OTHERS = re.compile(r"[^A-Za-z0-9_-]", re.ASCII)


def wire_name(name: str) -> str:
    """The name itself if every provider accepts it, else its beginning and eight hex digits of its SHA-256."""
    if _ACCEPTED.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_OTHERS.sub('_', name)[:KEPT_PREFIX]}_{digest[:8]}"


def original_names(names: Iterable[str]) -> dict[str, str]:
    """The client's names of tools, by their wire names, where the two differ."""
    return {wire: name for name in names if (wire := wire_name(name)) != name}
