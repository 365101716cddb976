"""Which of Anthropic's beta features a client may use: all but those that reach other tenants' objects or other prices.

Clients name them in the header `anthropic-beta`, or in a field of the body. (docs.anthropic.com/en/api/beta-headers)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

HEADER = "anthropic-beta"
FIELDS = ("betas", "anthropic_beta")
"""Fields of a body that name betas: Anthropic's SDKs have the first, Bedrock the second."""
MAX_BETAS = 32
MAX_NAME_CHARACTERS = 64
NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
REFUSED = re.compile(
    r"(fast-mode|server-side-fallback|fallback-credit|files-api|skills|mcp-client|mcp-tunnels|managed-agents"
    r"|user-profiles|message-threads|webhooks|environments)(-|$)",
    re.IGNORECASE,
)
"""Betas that reach objects of the account, another model or another price."""


def named(value: Any) -> list[str]:
    """The names in a header or a field, which has a list or one text with commas. Values of other types have none."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else ()
    most = MAX_BETAS * (MAX_NAME_CHARACTERS + 1)
    split = [name for text in texts if isinstance(text, str) for name in text[:most].split(",")]
    return [name.strip() for name in split if name.strip()]


def permitted(names: Iterable[str]) -> list[str]:
    """The well-formed names that are not refused, at most `MAX_BETAS`."""
    return [name for name in names if NAME.fullmatch(name) and not REFUSED.match(name)][:MAX_BETAS]


def in_header(
    body: Mapping[str, Any], headers: Mapping[str, str]
) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """A body without its fields for betas, and the headers with their names."""
    if body.keys().isdisjoint(FIELDS):
        return body, headers
    names = [*named(headers.get(HEADER)), *(name for field in FIELDS for name in named(body.get(field)))]
    rest = {name: value for name, value in body.items() if name not in FIELDS}
    return rest, {**headers, HEADER: ",".join(names)} if names else dict(headers)


def permitted_fields(params: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """A chat's parameters without refused betas, and the fields that had some."""
    dropped: list[str] = []
    for field in FIELDS:
        if field not in params:
            continue
        refused = {name for name in named(params[field]) if REFUSED.match(name)}
        if refused:
            dropped.append(field)
            kept = [name for name in named(params[field]) if name not in refused]
            rest = {name: value for name, value in params.items() if name != field}
            params = {**rest, field: kept} if kept else rest
    return params, tuple(dropped)
