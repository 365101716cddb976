"""What needs a person, budgets and deployments, as pure functions."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Limits
from codellama_proxy.core.types import Key
from codellama_proxy.limits.windows import DAY, HOUR, window
from codellama_proxy.routing.cooldown import Cooling
from codellama_proxy.store.overviews import Balance, Recent, Sum, Sums
from codellama_proxy.tracking.recent import RecentCounts
from codellama_proxy.web.ui import attention
from codellama_proxy.web.ui.budgets import Budget, Scope, budgets
from codellama_proxy.web.ui.deployments import statistics
from codellama_proxy.web.ui.throttle import MAX_WAITING, Throttle, TooManyTriesError
from tests.support.builders import deployment, model, snapshot

NOW = 1_795_361_400.0  # 2026-11-22T15:30:00Z, a Sunday
USD = 10**9


class Ledger:
    """Answers as `Overviews` does, from balances and a sum."""

    def __init__(self, *balances: Balance, spent: int = 0) -> None:
        self.found = list(balances)
        self.spent = spent

    async def balances(self) -> list[Balance]:
        return self.found

    async def user_balances(self) -> list[Balance]:
        return []

    async def sums(self, group_by: Any, filters: Any) -> Sums:
        del filters
        one = Sum(dict.fromkeys(group_by, "web"), 1, 0, 0, self.spent, 0, 0)
        return Sums((one,), one, is_complete=True)


def scope(limit: int = 10 * USD, duration: str | None = "month") -> Scope:
    return Scope("project:web", Limits(max_budget=limit, budget_duration=duration), "web", "overview")


def budget(limits: Scope, *balances: Balance, spent: int = 0) -> Budget:
    (found,) = asyncio.run(budgets(Ledger(*balances, spent=spent), [limits], NOW))  # type: ignore[arg-type]
    return found


def balance(spent: int, held: int = 0, duration: str | None = "month", at: float = NOW) -> Balance:
    opened = window(duration, at, at)
    return Balance("project:web", duration, opened.start, opened.end, spent, held)


def test_a_budget_is_the_ledgers_balance() -> None:
    found = budget(scope(), balance(4 * USD, USD), spent=2 * USD)
    assert (found.spent, found.held, found.left) == (4 * USD, USD, 5 * USD)
    assert (found.share, found.held_share, found.state) == (0.4, 0.1, "")
    assert found.headed_for is not None
    assert found.headed_for == pytest.approx(4 * USD + 2 * USD / 7 * (8 + 8.5 / 24), rel=0.01)
    assert found.runs_out is None


def test_a_budget_that_will_not_last_says_when() -> None:
    found = budget(scope(), balance(8 * USD), spent=7 * USD)
    assert found.state == "warn"
    assert found.runs_out == pytest.approx(NOW + 2 * DAY, rel=0.0001)
    (note,) = attention.of_budgets([found], NOW)
    assert note.kind == "warn"
    assert re.fullmatch(r"At this rate the budget of web runs out in [12] d\.", note.text)


def test_a_used_up_budget_comes_first() -> None:
    found = budget(scope(), balance(11 * USD))
    assert (found.left, found.state) == (0, "bad")
    notes = attention.notes(attention.of_unpriced(1, "7d", None), attention.of_budgets([found], NOW))
    assert [note.kind for note in notes] == ["bad", "note"]
    assert notes[0].text == "The budget of web is used up; it resets in 8 d."


def test_a_new_window_begins_empty() -> None:
    found = budget(scope(duration="day"), balance(9 * USD, duration="day", at=NOW - DAY))
    assert (found.spent, found.held) == (0, 0)
    assert found.window.contains(NOW)


def test_a_budget_without_a_balance_is_summed_up() -> None:
    assert budget(scope(), spent=3 * USD).spent == 3 * USD
    assert budget(scope(duration="12h"), spent=3 * USD).spent == 0, "its window begins with the next request"
    changed = budget(scope(duration="week"), balance(9 * USD), spent=USD)
    assert changed.spent == USD, "the ledger does so at the next request"


def test_a_budget_of_nothing_is_used_up() -> None:
    found = budget(scope(limit=0), balance(0))
    assert (found.share, found.state, found.mark) == (1.0, "bad", None)


def test_deployments_that_cool_or_are_disabled_are_told() -> None:
    one, two = deployment("one"), deployment("two")
    off = deployment("off", disabled="KEY is not set")
    found = snapshot(model("one", one), model("two", two), disabled=(off,))
    cooling = {
        one.id: Cooling(failures=3, until=130.0, rounds=1, why="http_503"),
        two.id: Cooling(failures=1),
    }
    texts = [note.text for note in attention.of_deployments(found, cooling, 100.0)]
    assert texts == ["one#1 is cooling for 30 s (http_503).", "off#1 is disabled: KEY is not set."]


def test_keys_that_expire_soon_are_told() -> None:
    ends = {"soon": 2 * DAY, "later": 20 * DAY, "over": -DAY}
    keys = [Key(name, "web", name=name, expires_at=NOW + after) for name, after in ends.items()]
    keys += [Key("never", "web"), Key("blocked", "web", expires_at=NOW + DAY, blocked=True)]
    (note,) = attention.of_keys(keys, NOW)
    assert note.text == "The key soon of web expires in 2 d."


def test_refusals_of_the_last_hour_are_counted() -> None:
    counts = RecentCounts()
    counts.add(("key", "requests"), 0.0)
    for minute in (30, 59, 59):
        counts.add(("key", "requests"), minute * 60.0)
    counts.add(("project", "budget"), 59 * 60.0)
    assert counts.totals(60 * 60.0) == {("key", "requests"): 3, ("project", "budget"): 1}
    assert counts.totals(3 * HOUR) == {}
    texts = [note.text for note in attention.of_refusals(dict(counts.totals(HOUR)))]  # type: ignore[arg-type]
    assert texts[0] == "3 requests refused in the last hour by a limit of key on requests a minute."


# --- deployments ---------------------------------------------------------------------------------------


def recent(
    *attempts: dict[str, Any], first: float | None = None, total: float = 1000.0, tokens: int = 0
) -> Recent:
    return Recent(NOW, "ok", "m", False, json.dumps(attempts) if attempts else "", tokens, first, total)


def test_attempts_are_summarized_by_deployment_or_model() -> None:
    ok = {"deployment": "m#1", "class": "ok", "at": 0.0, "ms": 100.0}
    bad = {"deployment": "m#2", "class": "busy", "reason": "http_429", "at": 0.0, "ms": 5.0}
    late = {**ok, "at": 50.0, "ms": 300.0}
    rows = [recent(ok), recent(bad, late, first=250.0, total=1250.0, tokens=200), recent()]
    found = statistics(rows)
    assert found["m#1"].attempts == found["m#1"].succeeded == 2
    assert (found["m#1"].median, found["m#1"].within, found["m#1"].first) == (100.0, 300.0, 200.0)
    assert found["m#1"].speed == 200.0
    assert (found["m#2"].failure, found["m#2"].failures, found["m#2"].median) == ("http_429", 1, None)
    assert statistics(rows, by_model=True)["m"].attempts == 3


# --- sign-in -------------------------------------------------------------------------------------------


def test_wrong_tries_wait_longer_and_longer_and_are_bounded() -> None:
    async def main() -> None:
        waited: list[float] = []
        now = 0.0
        open_ = asyncio.Event()

        async def sleep(seconds: float) -> None:
            waited.append(seconds)
            await open_.wait()

        time, throttle = Time(monotonic=lambda: now, sleep=sleep), Throttle()
        tasks = [asyncio.create_task(throttle.wrong(time)) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyTriesError):
            await throttle.wrong(time)
        open_.set()
        await asyncio.gather(*tasks)
        assert waited == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
        now = 61.0
        await throttle.wrong(time)
        assert waited[-1] == 0.1

    asyncio.run(main())
