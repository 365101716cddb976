"""Rate limits and parallel requests of a scope, as pure functions on numbers; money is in `budgets`.

A rate is a token bucket of size N that refills evenly over a minute. Its level becomes negative when a
request used more tokens than it was admitted with; refilling pays the debt back first.

`retry_after` of a rate is exact, because the bucket refills evenly. For parallel requests it is a guess, because
the end of a running request is unknown.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple, cast

from codellama_proxy.core.clock import nearest
from codellama_proxy.core.snapshot import Limits, Project, ScopeKind, Snapshot
from codellama_proxy.core.types import Key

MINUTE = 60.0
_USER_SEPARATOR = "\x1f"
"""Between project and user in the id of a user scope."""
MAX_USER_CHARACTERS = 256
"""Longer user names are stored as their hash."""
PARALLEL_RETRY_SECONDS = 1.0
"""`Retry-After` when too many requests run in parallel."""
CLOCK_SLACK_SECONDS = 1.0
"""Requests are admitted slightly out of order; only a larger step back means that the clock was changed."""


class ScopeLimits(NamedTuple):
    """One scope of a request, and its limits."""

    id: str
    """`kind:name`. The name is empty for global, the project, the key's id, or see `user_scope`."""
    limits: Limits

    @property
    def kind(self) -> ScopeKind:
        return cast("ScopeKind", self.id.partition(":")[0])

    @property
    def name(self) -> str:
        return self.id.partition(":")[2]

    @property
    def label(self) -> str:
        """The scope in messages."""
        if self.kind == "global":
            return "the whole installation"
        return f"{self.kind} {self.name.rpartition(_USER_SEPARATOR)[2]}"


Levels = tuple[float | None, float | None, float]
"""`Rates`, or a tuple of the same values: what balances keep."""


class Rates(NamedTuple):
    """The levels of a scope's two buckets; `None` where there is no limit."""

    rpm_level: float | None = None
    tpm_level: float | None = None
    rated_at: float = 0.0


class Refusal(NamedTuple):
    """Why a scope refuses a request, and after how many seconds it would admit it."""

    code: str
    type: str
    message: str
    retry_after: float | None
    scope: ScopeKind
    kind: str
    """`requests`, `tokens`, `parallel` or `budget`."""


class Rate(NamedTuple):
    """One bucket as reported in headers."""

    limit: int
    remaining: int
    reset: float
    """Seconds until it is full again."""


UNRATED = Rates()


# --- scopes ------------------------------------------------------------------------------------------------


def overlay(base: Limits, over: Limits) -> Limits:
    """`base`, overridden by the fields that are set explicitly in `over`."""
    if not over.given:
        return base
    return replace(base, given=base.given | over.given, **{name: getattr(over, name) for name in over.given})


def user_name(user: str) -> str:
    """The user in the ledger: a hash if it is too long or not printable."""
    if len(user) <= MAX_USER_CHARACTERS and user.isprintable():
        return user
    return "sha256:" + hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()


def user_scope(project: str, user: str) -> str:
    """Unique for each pair, because project names cannot contain the separator."""
    return f"{project}{_USER_SEPARATOR}{user_name(user)}"


def split_scope(scope: str) -> tuple[str, str, str]:
    """The kind of a scope id, the project or key id in it, and the user (empty but for user scopes)."""
    kind, _, name = scope.partition(":")
    owner, _, user = name.partition(_USER_SEPARATOR)
    return kind, owner, user


@lru_cache(maxsize=4096)
def scope_ids(project: str, key_id: str | None, user: str | None) -> tuple[str, ...]:
    """Every scope a request belongs to, limited or not."""
    ids: tuple[str, ...] = ("global:", f"project:{project}")
    if key_id is not None:
        ids += (f"key:{key_id}",)
    if user is not None:
        ids += (f"user:{user_scope(project, user)}",)
    return ids


def scopes_of(
    snapshot: Snapshot, project: Project, key: Key | None, user: str | None
) -> tuple[ScopeLimits, ...]:
    """The scopes of a request that have any limit."""
    return with_caller(project_scopes(snapshot, project), snapshot, project.name, key, user)


def project_scopes(snapshot: Snapshot, project: Project) -> tuple[ScopeLimits, ...]:
    """Those that all requests of a project have in common: global, and the project's."""
    scopes = (
        ScopeLimits("global:", snapshot.limits["global"]),
        ScopeLimits(f"project:{project.name}", project.limits),
    )
    return tuple([scope for scope in scopes if scope.limits.is_set])


def with_caller(
    scopes: tuple[ScopeLimits, ...], snapshot: Snapshot, project: str, key: Key | None, user: str | None
) -> tuple[ScopeLimits, ...]:
    """The `project_scopes`, then those of the key and the user that have any limit."""
    if key is not None and (of_key := overlay(snapshot.limits["key"], key.limits)).is_set:
        scopes += (ScopeLimits(f"key:{key.key_id}", of_key),)
    if user is not None and (of_user := snapshot.limits["user"]).is_set:
        scopes += (ScopeLimits(f"user:{user_scope(project, user)}", of_user),)
    return scopes


# --- rates -------------------------------------------------------------------------------------------------


def refill(rates: Levels, limits: Limits, now: float) -> Rates:
    """The levels at `now`. After the clock is set back, refilling continues from the new time."""
    most_requests, most_tokens = limits.rpm_limit, limits.tpm_limit
    if most_requests is None and most_tokens is None:
        return UNRATED
    rpm, tpm, rated_at = rates
    minutes, at = elapsed(rated_at, now)
    return Rates(
        None if most_requests is None else level_after(rpm, most_requests, minutes),
        None if most_tokens is None else level_after(tpm, most_tokens, minutes),
        at,
    )


def elapsed(rated_at: float, now: float) -> tuple[float, float]:
    """The minutes of refill between two times, and the time of the new levels."""
    if now > rated_at:
        return (now - rated_at) / MINUTE, now
    return 0.0, now if rated_at > now + CLOCK_SLACK_SECONDS else rated_at


def level_after(level: float | None, limit: int, minutes: float) -> float:
    """The level of a bucket after `minutes`. `level`: `None` for a full one."""
    if level is None:
        return float(limit)
    level += minutes * limit
    return level if level < limit else float(limit)


def take(rates: Rates, tokens: int, refused: Collection[str] = ()) -> Rates:
    """The levels after one request; kinds in `refused` are not consumed."""
    if rates is UNRATED:
        return rates
    rpm, tpm, at = rates
    if rpm is not None and "requests" not in refused:
        rpm -= 1
    if tpm is not None and "tokens" not in refused:
        tpm -= tokens
    return Rates(rpm, tpm, at)


def check(scope: ScopeLimits, rates: Rates, tokens: int, running: int) -> tuple[Refusal, ...]:
    """Everything but the budget: parallel requests, then requests and tokens a minute."""
    limits = scope.limits
    refusals: tuple[Refusal, ...] = ()
    if limits.max_parallel_requests is not None and running >= limits.max_parallel_requests:
        refusals += (_too_many(scope, limits.max_parallel_requests),)
    if limits.rpm_limit is not None and rates.rpm_level is not None:
        wait = _wait(rates.rpm_level, limits.rpm_limit, 1)
        if wait:
            refusals += (_too_fast(scope, "requests", limits.rpm_limit, wait),)
    if limits.tpm_limit is not None and rates.tpm_level is not None:
        wait = _wait(rates.tpm_level, limits.tpm_limit, tokens)
        if 0 < limits.tpm_limit < tokens:
            refusals += (_too_large(scope, limits.tpm_limit, tokens),)
        elif wait:
            refusals += (_too_fast(scope, "tokens", limits.tpm_limit, wait),)
    return refusals


def _wait(level: float, limit: int, need: int) -> float:
    """Seconds until the bucket holds enough; 0 if it does now."""
    if limit == 0:
        return MINUTE
    missing = need - level
    # Two microseconds of refill: below the resolution of a timestamp as a float.
    if missing <= limit / MINUTE * 2e-6 + 1e-9:
        return 0.0
    return missing * MINUTE / limit


def _too_many(scope: ScopeLimits, limit: int) -> Refusal:
    message = f"Too many requests at once for {scope.label}: at most {limit} may run in parallel."
    wait = PARALLEL_RETRY_SECONDS if limit else MINUTE
    return Refusal("concurrency_limit_exceeded", "requests", message, wait, scope.kind, "parallel")


def _too_fast(scope: ScopeLimits, kind: str, limit: int, wait: float) -> Refusal:
    message = f"Rate limit reached for {scope.label}: {limit} {kind} per minute."
    if limit:
        message += f" Please try again in {reset_text(wait)}."
    return Refusal("rate_limit_exceeded", kind, message, wait, scope.kind, kind)


def _too_large(scope: ScopeLimits, limit: int, tokens: int) -> Refusal:
    message = (
        f"Request too large for {scope.label}: it needs about {tokens} tokens, and the limit of "
        f"{limit} tokens per minute can never let it pass. Please send less."
    )
    return Refusal("rate_limit_exceeded", "tokens", message, MINUTE, scope.kind, "tokens")


def worst(refusals: Iterable[Refusal]) -> Refusal | None:
    """The refusal to report: a budget (waiting does not help), else the longest wait."""
    return max(
        refusals,
        key=lambda refusal: math.inf if refusal.retry_after is None else refusal.retry_after,
        default=None,
    )


def reset_text(seconds: float) -> str:
    """OpenAI's format: `120ms`, `1s`, `6m0s`, `1h0m0s`; rounded up, so that a retry is never too early."""
    milliseconds = math.ceil(nearest(seconds * 1000, 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, left = divmod(math.ceil(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"
