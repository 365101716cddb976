"""Worker processes on one PostgreSQL database under faults: the books are exact in the end.

`PROXY_TEST_ROUNDS=10` makes each run 10 times as long; `python -m bench.postgres_faults` runs one kind.
"""

from __future__ import annotations

import os

import pytest

from tests.support.postgres import own_programs
from tests.support.postgres_faults import HOLD, Faults, Report, run, run_killed_in_phases

ROUNDS = float(os.environ.get("PROXY_TEST_ROUNDS", "1"))


@pytest.fixture(autouse=True)
def _server_programs() -> None:
    """These tests stop a server of their own."""
    own_programs()


def exact(report: Report) -> bool:
    assert report.events["rows"] > 50, str(report)
    assert not report.wrong, str(report)
    return True


def test_processes_that_share_scopes_do_not_deadlock() -> None:
    assert exact(run(1.5 * ROUNDS, 3, Faults()))


def test_processes_never_exceed_a_budget_together() -> None:
    report = run(1.5 * ROUNDS, 4, Faults(), budget=100 * HOLD)
    assert exact(report)
    assert report.events["refused (insufficient_quota)"]


def test_connections_cut_around_commits_book_nothing_twice_and_lose_nothing() -> None:
    report = run(2 * ROUNDS, 3, Faults(cut=0.05), clients=6)
    assert exact(report)
    assert not report.events["crash estimates"], "every request was settled by its own process"


def test_requests_of_killed_processes_are_settled_by_others() -> None:
    report = run(2.5 * ROUNDS, 3, Faults(kill=1), clients=6)
    assert exact(report)
    assert report.events["crash estimates"]


def test_processes_killed_in_any_phase_of_a_transaction_leave_exact_books() -> None:
    report = run_killed_in_phases()
    assert exact(report)
    assert report.events["crash estimates"]


def test_a_crash_of_the_server_loses_no_answered_request() -> None:
    assert exact(run(2 * ROUNDS, 3, Faults(crash=1.5), clients=6))


def test_frozen_processes_hold_up_others_for_a_second_only() -> None:
    assert exact(run(3 * ROUNDS, 3, Faults(pause=1), clients=6))
