"""Worker processes on one PostgreSQL database under faults: the books are exact in the end.

`python -m bench.postgres_faults` runs the same for longer.
"""

from __future__ import annotations

import pytest

from tests.support.postgres import MISSING, REQUIRED, VARIABLE, programs
from tests.support.postgres_faults import HOLD, Faults, Report, run


@pytest.fixture(autouse=True)
def _server_programs() -> None:
    """These tests stop a server of their own."""
    if programs() is None:
        import os  # noqa: PLC0415

        (pytest.fail if os.environ.get(VARIABLE) == REQUIRED else pytest.skip)(MISSING)


def exact(report: Report) -> bool:
    assert report.events["rows"] > 50, str(report)
    assert not report.wrong, str(report)
    assert not report.events["deadlocks"]
    return True


def test_processes_that_share_scopes_do_not_deadlock() -> None:
    assert exact(run(4, 3, Faults()))


def test_processes_never_exceed_a_budget_together() -> None:
    report = run(4, 4, Faults(), budget=100 * HOLD)
    assert exact(report)
    assert report.events["refused (insufficient_quota)"]


def test_connections_cut_around_commits_book_nothing_twice_and_lose_nothing() -> None:
    assert exact(run(6, 3, Faults(cut=0.05)))


def test_requests_of_killed_processes_are_settled_by_others() -> None:
    report = run(7, 3, Faults(kill=2))
    assert exact(report)
    assert report.events["crash estimates"]


def test_a_crash_of_the_server_loses_no_answered_request() -> None:
    assert exact(run(8, 3, Faults(crash=3)))


def test_frozen_processes_hold_up_others_for_a_second_only() -> None:
    assert exact(run(8, 3, Faults(pause=2)))
