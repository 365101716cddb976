"""How deployments and models fared in recent requests. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import orjson

from codellama_proxy.store.overviews import Recent
from codellama_proxy.web.ui.spending import median, within

MAX_ATTEMPTS = 1_000
"""Of one deployment that are summarized, the newest."""


class Stats(NamedTuple):
    """Durations in milliseconds."""

    attempts: int = 0
    succeeded: int = 0
    failure: str = ""
    """The most frequent reason of failures."""
    failures: int = 0
    """How often that was the reason."""
    median: float | None = None
    within: float | None = None
    """What 95% do not exceed."""
    first: float | None = None
    """The median until the first content of a stream."""
    speed: float | None = None
    """The median of tokens a second."""


class _Seen:
    def __init__(self) -> None:
        self.attempts = 0
        self.times: list[float] = []
        self.firsts: list[float] = []
        self.speeds: list[float] = []
        self.failures: Counter[str] = Counter()

    def stats(self) -> Stats:
        (reason, number), *_ = self.failures.most_common(1) or [("", 0)]
        return Stats(
            self.attempts,
            len(self.times),
            reason,
            number,
            median(self.times),
            within(self.times, 0.95),
            median(self.firsts),
            median(self.speeds),
        )


def statistics(recent: Iterable[Recent], *, by_model: bool = False) -> Mapping[str, Stats]:
    """By the id of deployments, or by the name of models; `recent` newest first."""
    seen: dict[str, _Seen] = defaultdict(_Seen)
    for request in recent:
        if not request.attempts:
            continue
        attempts = orjson.loads(request.attempts)
        for attempt in attempts:
            deployment = str(attempt["deployment"])
            one = seen[deployment.rpartition("#")[0] if by_model else deployment]
            if one.attempts >= MAX_ATTEMPTS:
                continue
            one.attempts += 1
            if attempt["class"] != "ok":
                one.failures[str(attempt.get("reason") or attempt["class"])] += 1
                continue
            one.times.append(float(attempt["ms"]))
            if attempt is attempts[-1] and request.first_ms is not None and request.total_ms is not None:
                _note_stream(one, request, float(attempt.get("at") or 0.0))
    return {name: one.stats() for name, one in seen.items()}


def _note_stream(one: _Seen, request: Recent, at: float) -> None:
    """`at`: when the attempt began, in milliseconds."""
    assert request.first_ms is not None
    assert request.total_ms is not None
    one.firsts.append(max(request.first_ms - at, 0.0))
    seconds = (request.total_ms - request.first_ms) / 1000
    if seconds > 0 and request.completion_tokens > 1:
        one.speeds.append(request.completion_tokens / seconds)
