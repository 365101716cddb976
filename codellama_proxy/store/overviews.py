"""What overviews for people consist of: sums by any groups, balances of budgets, recent requests, keys in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from codellama_proxy.core.types import Key

MAX_GROUPS = 20_000
"""Groups of sums that are read at once."""
MAX_USER_BALANCES = 100
MAX_KEYS = 2_000


Measure = Literal["spend", "requests", "tokens", "failures"]


class Among(NamedTuple):
    """Only these values of a group."""

    group: str
    values: tuple[str | None, ...]


class Sum(NamedTuple):
    """Requests of one group; amounts in nano-USD."""

    groups: Mapping[str, Any]
    """By the names of `reports.GROUPS` and `TIME_GROUPS`."""
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost_nanos: int
    saved_nanos: int
    unpriced: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Sums(NamedTuple):
    """Groups, and the sum over all of them, of the same moment."""

    groups: tuple[Sum, ...]
    """At most `MAX_GROUPS`."""
    total: Sum
    is_complete: bool
    """Whether `groups` are all there are."""


class Balance(NamedTuple):
    """What the ledger has booked on a scope's budget; its window is the last one that had a request."""

    scope: str
    """As `ScopeLimits.id`."""
    duration: str | None
    start: float
    end: float | None
    spent_nanos: int
    held_nanos: int


class Recent(NamedTuple):
    """How a recent request went."""

    created_at: float
    status: str
    model: str | None
    is_cached: bool
    attempts: str
    """JSON as in `/spend/logs`; empty for none."""
    completion_tokens: int
    first_ms: float | None
    total_ms: float | None


class KeyUse(NamedTuple):
    key: Key
    last_used: float | None
    """Unix seconds, while the request is kept."""
