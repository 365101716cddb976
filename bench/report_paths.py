"""What people and scripts ask for over a month of requests: pages of the dashboard, `/spend` and `/spend/logs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bench import dashboard
from bench.dashboard import DAY
from codellama_proxy.core.clock import iso
from codellama_proxy.store.reports import GROUPS

Row = Callable[..., Any]
"""The first row of a statement with values."""


class Known(NamedTuple):
    """Values from the requests of the database, to ask for."""

    now: float
    key_id: str
    session: str
    agent: str
    request_id: str
    older: str
    """The id of a request in the middle."""
    sessions: int


def known(row: Row, requests: str) -> Known:
    """Reads what there is from a table with the requests that ended."""
    now, newest = row(f"select max(created_at), max(seq) from {requests}")  # at the end of the month
    key_id, session, agent, request_id = row(
        f"select key_id, session, agent, request_id from {requests} where seq between ? and ? "
        "and agent is not null order by seq limit 1",
        (newest // 3, newest // 3 + 10_000),
    )
    (older,) = row(f"select request_id from {requests} where seq = ?", (newest // 2,))
    (sessions,) = row("select count(distinct session) from usage_days")
    return Known(now, key_id, session, agent, request_id, older, sessions)


def spend(at: Known) -> Iterator[str]:
    """What people and scripts ask `/spend` for: groups, and time ranges that do not begin at midnight."""
    week, days = f"start={iso(at.now - 7 * DAY - 1234)}", f"start={iso(at.now - 30 * DAY)[:10]}"
    hours = f"start={iso(at.now - 30 * 3600)}&end={iso(at.now - 2 * 3600)}"
    for group in ("", *GROUPS, "project,day", "key,day", "model,day", "user,day", "project,model,day,status"):
        yield f"/spend?group_by={group}"
    for group in ("key,user,model,status", "key,user,day", "session,model", "agent,day", ",".join(GROUPS)):
        yield f"/spend?group_by={group}"
    for group in (
        "",
        "project",
        "key",
        "model",
        "user",
        "day",
        "session",
        "agent",
        "key,model,day",
        "session,key",
    ):
        for given in (week, days, hours):
            yield f"/spend?group_by={group}&{given}"
    filters = ("project=project-3", f"key_id={at.key_id}", "user=user-3-0", "model=model-7", "status=error")
    for one in (*filters, f"agent={at.agent}", f"session={at.session}"):
        for group in ("", "day", "model", "user"):
            yield f"/spend?group_by={group}&{one}"
        yield f"/spend?{one}&{week}"
    yield "/spend?group_by=user&page=2&size=100"


def logs(at: Known) -> Iterator[str]:
    """Pages of `/spend/logs`: the newest and later ones, by each filter alone and by several."""
    old = f"start={iso(at.now - 22 * DAY)}&end={iso(at.now - 21 * DAY)}"
    filters = (
        *("", "project=project-3", f"key_id={at.key_id}", "user=user-3-0", "user=user-3-0&project=project-0"),
        *("model=model-7", "model=none", "status=ok", "status=error", "status=held", f"session={at.session}"),
        *(f"agent={at.agent}", "agent=none", old, f"project=project-3&{old}", f"key_id={at.key_id}&{old}"),
        *("model=model-7&status=error", "project=project-3&status=error", f"user=user-3-0&{old}"),
        *("project=project-3&model=model-7", f"start={iso(at.now - 3600)}", f"end={iso(at.now - 29 * DAY)}"),
    )
    for one in filters:
        yield f"/spend/logs?{one}"
        yield f"/spend/logs?{one}&page=20"
        yield f"/spend/logs?{one}&size=1000"
        yield f"/spend/logs?{one}&before={at.older}"
    yield f"/spend/logs?request_id={at.request_id}"
    yield f"/requests/{at.request_id}"


def pages(at: Known) -> Iterator[str]:
    """The dashboard's."""
    for page in dashboard.pages(at.now):
        if not page.startswith("requests/"):
            yield f"/ui/{page}"
    for by in ("project", "model", "key", "user"):
        for name in ("24h", "7d", "30d"):
            yield f"/ui/overview?by={by}&range={name}"
    for one in (f"key={at.key_id}", "user=user-3-0&project=project-0", "user=user-3-0&status=error"):
        yield f"/ui/requests?{one}"
    yield "/ui/spend.csv"
    yield "/ui/spend.csv?group_by=key,user,day"
    yield f"/ui/requests/{at.request_id}"
    yield f"/ui/keys/{at.key_id}"


KINDS = {"dashboard": pages, "/spend": spend, "/spend/logs": logs}
