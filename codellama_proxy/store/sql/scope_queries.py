"""What the rows of one scope say (`scope_balance.ScopeRows`), by statements that each database system has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from codellama_proxy.limits.rates import split_scope
from codellama_proxy.store.ledger.scope_balance import WindowSums


class ScopeQueries(ABC):
    """Reads within the present transaction."""

    @abstractmethod
    def _row(self, name: str, scope: str, **values: Any) -> Any:
        """The first row of a named statement over the requests of a scope; `None` if there is none."""

    def running(self, scope: str) -> int:
        return int(self._one("running", scope))

    def first_use(self, scope: str) -> float | None:
        first = self._one("first_use", scope)
        return None if first is None else float(first)

    def window_sums(self, scope: str, start: float, end: float, day: str) -> WindowSums:
        last = self._one("before_window", scope, start=start, end=end)
        first_seq = 0 if last is None else last + 1
        spent, held = self.booked(scope, first_seq)
        return WindowSums(first_seq, spent, held, self._one("folded", scope, day=day))

    def booked(self, scope: str, first_seq: int) -> tuple[int, int]:
        """What the requests of a scope from one sequence on have spent and hold, in nano-USD."""
        spent, held = self._row("booked", scope, first_seq=first_seq)
        return int(spent), int(held)

    def _one(self, name: str, scope: str, **values: Any) -> Any:
        row = self._row(name, scope, **values)
        return None if row is None else row[0]


def scoped(sql: str, conditions: dict[str, str], scope: str, **values: Any) -> tuple[str, dict[str, Any]]:
    """A statement over the requests of one scope, and its values.

    `conditions`: by kind of scope, what selects its rows; only this constant text is inserted.
    """
    kind, owner, user = split_scope(scope)
    return sql.replace("{scope}", conditions[kind]), {
        "project": owner,
        "key_id": owner,
        "user": user,
        **values,
    }
