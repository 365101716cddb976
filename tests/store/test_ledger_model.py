"""The ledger against a simple model of it: whatever order things happen in, both say the same."""

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule

from codellama_proxy.core.types import Attempt, Charge, Failure, Key, Usage
from codellama_proxy.limits.admission import AdmissionRequest, Extension, LimitExceededError
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.ledger import Ledger
from tests.support.builders import deployment
from tests.support.ledger_fixtures import NOW, Store, ask, end, of_global, of_key, of_project, of_user

PARALLEL = 4
SECOND = deployment("second")
FAILED = Attempt("first#1", Failure("transient", reason="read"), 1.0, charge=Charge(Usage(1), "ambiguous", 0))
LENGTHS: Mapping[str | None, int] = {"day": DAY, "hour": 3600}


@dataclass
class Row:
    """A request as the model remembers it."""

    scopes: frozenset[str]
    created_at: float
    hold: int
    asked: tuple[str, str | None, str | None]
    """Project, key and user."""
    cost: int | None = None
    """`None` while it is held."""

    def inside(self, duration: str | None, now: float) -> bool:
        length = LENGTHS.get(duration)
        return length is None or self.created_at // length == now // length


class LedgerMachine(RuleBasedStateMachine):
    """Time only goes forward here; clocks that jump have tests of their own."""

    requests: Bundle[str] = Bundle("requests")
    ended: Bundle[str] = Bundle("ended")

    @initialize(most_balances=st.sampled_from([1, 3, 1000]))
    def begin(self, most_balances: int) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.directory.name) / "proxy.db")
        self.store.most_balances = most_balances
        self.runner = asyncio.Runner()
        self.now = NOW
        self.rows: dict[str, Row] = {}
        self.budgets: dict[str, tuple[int, str | None]] = {
            "global:": (500, "day"),
            "project:web": (120, "hour"),
        }
        self.committed = connect(self.store.path)
        self.kills = 0
        self.start()

    def start(self) -> None:
        self.opened: AbstractAsyncContextManager[Ledger] = self.store.open()
        self.ledger = self.runner.run(self.opened.__aenter__())

    def stop(self) -> None:
        self.runner.run(self.opened.__aexit__(None, None, None))

    def teardown(self) -> None:
        self.look()
        self.stop()
        self.committed.close()
        self.runner.close()
        self.directory.cleanup()

    # --- what happens ----------------------------------------------------------------------------------------

    @rule(
        target=requests,
        project=st.sampled_from(["web", "ops"]),
        key=st.sampled_from([None, "key_a", "key_b"]),
        user=st.sampled_from([None, "bob"]),
        max_tokens=st.integers(0, 40),
        n=st.integers(1, 2),
    )
    def admit(self, project: str, key: str | None, user: str | None, max_tokens: int, n: int) -> object:
        scopes = self._scopes(project, key, user)
        who = Key(f"{key}_{project}", project) if key else None
        request = ask(
            *scopes, project=project, key=who, user=user, max_tokens=max_tokens, n=n, created_at=self.now
        )
        expected = self._expected(request)
        if isinstance(expected, str):
            with pytest.raises(LimitExceededError) as refused:
                self.runner.run(self.ledger.admit(request))
            assert refused.value.refusal.kind == expected
            return multiple()
        admission = self.runner.run(self.ledger.admit(request))
        assert expected == (max_tokens if admission.max_tokens is None else admission.max_tokens)
        assert admission.hold_nanos == (expected * n if self._budgeted(request) else 0)
        asked = project, key, user
        self.rows[request.request_id] = Row(_ids(request), self.now, admission.hold_nanos, asked)
        return request.request_id

    @rule(request_id=requests, nanos=st.integers(0, 60))
    def extend(self, request_id: str, nanos: int) -> None:
        """One more attempt: its request holds more, if every budget that counts it has room for that."""
        row = self.rows[request_id]
        scopes = self._scopes(*row.asked)
        counting = [
            scope
            for scope in scopes
            if scope.limits.max_budget is not None and row.inside(self.budgets[scope.id][1], self.now)
        ]
        wanted = Extension(request_id, scopes, nanos, SECOND, (FAILED,))
        if row.cost is not None:  # a crash has settled it
            assert self.runner.run(self.ledger.extend(wanted)) == 0
        elif any(self._room(scope) < nanos for scope in counting):
            with pytest.raises(LimitExceededError):
                self.runner.run(self.ledger.extend(wanted))
        else:
            assert self.runner.run(self.ledger.extend(wanted)) == nanos
            row.hold += nanos

    @rule(target=ended, request_id=consumes(requests), share=st.floats(0, 1))
    def settle(self, request_id: str, share: float) -> str:
        row = self.rows[request_id]
        cost = round(row.hold * share) if row.hold else 3
        if row.cost is None:  # a crash has settled it already
            row.cost = cost
        self.ledger.settle(end(request_id, cost))
        return request_id

    @rule(request_id=ended)
    def settle_again(self, request_id: str) -> None:
        self.ledger.settle(end(request_id, 1_000_000))

    @rule()
    def settle_nobody(self) -> None:
        self.ledger.settle(end("req_nobody", 1_000_000))

    @rule(hours=st.integers(0, 30))
    def wait(self, hours: int) -> None:
        self.now += hours * 3600
        self.store.now = self.now

    @rule(
        scope=st.sampled_from(["global:", "project:web", "project:ops", "key:key_a_web", "user:web\x1fbob"]),
        most=st.none() | st.integers(1, 400),
        duration=st.sampled_from([None, "day", "hour"]),
    )
    def change_budget(self, scope: str, most: int | None, duration: str | None) -> None:
        self.budgets.pop(scope, None)
        if most is not None:
            self.budgets[scope] = (most, duration)

    @rule()
    def crash(self) -> None:
        """What is held stays held over a restart, and is then settled at its hold, else at its input."""
        self.stop()
        self.start()
        self.runner.run(self.ledger.recover())
        self._recovered()

    @rule()
    def kill(self) -> None:
        """The process dies before anything else is written: what it promised is in the journal."""
        self.kills += 1
        place = Path(self.directory.name) / f"killed-{self.kills}"
        self.store.copy_as_killed(place)
        self.stop()
        self.committed.close()
        most_balances = self.store.most_balances
        self.store = Store(place / "proxy.db")
        self.store.most_balances, self.store.now = most_balances, self.now
        self.committed = connect(self.store.path)
        self.start()
        self.runner.run(self.ledger.recover())
        self._recovered()

    def _recovered(self) -> None:
        for row in self.rows.values():
            if row.cost is None:
                row.cost = row.hold or 1
        self.look()

    # --- what must be so -------------------------------------------------------------------------------------

    @rule()
    def look(self) -> None:
        """Balances are the sums of the rows, and no money is lost or made. Not always: it writes everything."""
        assert self.runner.run(self.ledger.reconcile()) == []
        spent, held = self.committed.execute(
            "select coalesce(sum(cost_nanos), 0), coalesce(sum(hold_nanos) filter (where status = 'held'), 0)"
            " from requests"
        ).fetchone()
        assert spent == sum(row.cost or 0 for row in self.rows.values())
        assert held == sum(row.hold for row in self.rows.values() if row.cost is None)

    # --- the model -------------------------------------------------------------------------------------------

    def _scopes(self, project: str, key: str | None, user: str | None) -> tuple[ScopeLimits, ...]:
        def budget(scope: str) -> dict[str, object]:
            most, duration = self.budgets.get(scope, (None, None))
            return {"max_budget": most, "budget_duration": duration}

        scopes = [of_global(max_parallel_requests=PARALLEL, **budget("global:"))]
        scopes.append(of_project(project, **budget(f"project:{project}")))
        if key is not None:
            scopes.append(of_key(f"{key}_{project}", **budget(f"key:{key}_{project}")))
        if user is not None and project == "web":
            scopes.append(of_user(user, **budget(f"user:web\x1f{user}")))
        return tuple(
            scope for scope in scopes if scope.kind == "global" or scope.limits.max_budget is not None
        )

    def _budgeted(self, request: AdmissionRequest) -> bool:
        return any(scope.limits.max_budget is not None for scope in request.scopes)

    def _expected(self, request: AdmissionRequest) -> int | str:
        """The tokens it may have, or what it runs into."""
        wanted = request.max_tokens or 0
        rooms = [self._room(scope) for scope in request.scopes if scope.limits.max_budget is not None]
        allowed = min([wanted, *(room // request.n for room in rooms)])
        if allowed < min(wanted, 16):
            return "budget"
        running = sum(row.cost is None for row in self.rows.values())
        return allowed if running < PARALLEL else "parallel"

    def _room(self, scope: ScopeLimits) -> int:
        most, duration = self.budgets[scope.id]
        inside = [
            row for row in self.rows.values() if scope.id in row.scopes and row.inside(duration, self.now)
        ]
        return most - sum(row.hold if row.cost is None else row.cost for row in inside)


def _ids(request: AdmissionRequest) -> frozenset[str]:
    key = {f"key:{request.key.key_id}"} if request.key else set()
    user = {f"user:{request.project}\x1f{request.user}"} if request.user else set()
    return frozenset({"global:", f"project:{request.project}"} | key | user)


TestLedgerModel = LedgerMachine.TestCase
TestLedgerModel.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
