"""A running server fills the sums behind `/spend`, also after it was killed."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tests.support.processes import until
from tests.support.proxy_process import ProxyFactory, config
from tests.support.upstream.process import Upstream


def test_a_start_adds_earlier_requests_to_the_sums(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("fast")))
    for _ in range(3):
        one.row(one.chat().headers["x-request-id"])
    before = one.admin("GET", "/spend?group_by=day,model,status").json()
    one.kill()
    one.start()

    def summed() -> int:
        with closing(sqlite3.connect(one.database)) as db:
            return int(db.execute("select coalesce(sum(requests), 0) from usage_days").fetchone()[0])

    until(lambda: summed() == 3, "the sums")
    assert before["total_requests"] == 3
    assert one.admin("GET", "/spend?group_by=day,model,status").json() == before
    assert one.admin("GET", "/spend/logs").json()["total"] == 3
