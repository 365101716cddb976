"""Where each limit of a scope is configured."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import NamedTuple

from codellama_proxy.core.snapshot import Limits

FIELDS = ("rpm_limit", "tpm_limit", "max_parallel_requests", "max_budget", "budget_duration", "shadow")


class SourcedLimit(NamedTuple):
    """One field of a scope's effective limits; money in nano-USD."""

    field: str
    value: float | str | bool | None
    source: str | None
    """`None` for a limit that is not set."""


def with_sources(limits: Limits, own: Set[str], source: str, default: str) -> Iterator[SourcedLimit]:
    """Each limit, from `source` if its field is in `own`, else from `default`."""
    for field in FIELDS:
        value = getattr(limits, field)
        configured = value is not None and value is not False
        yield SourcedLimit(field, value, source if field in own else default if configured else None)
