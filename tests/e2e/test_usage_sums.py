"""A running server fills the sums behind `/spend`, also after it was killed."""

from __future__ import annotations

from tests.support.processes import until
from tests.support.proxy_process import ProxyFactory, config
from tests.support.stored import query
from tests.support.upstream.process import Upstream

SUMMED_WITHIN_SECONDS = 150.0
"""On a database server, requests are in the sums when every transaction as old as theirs has ended: after a minute."""


def test_a_start_adds_earlier_requests_to_the_sums(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("fast")))
    for _ in range(3):
        one.row(one.chat().headers["x-request-id"])
    before = one.admin("GET", "/spend?group_by=day,model,status").json()
    one.kill()
    one.start()

    def summed() -> int:
        return int(query(one.database, "select coalesce(sum(requests), 0) from usage_days")[0][0])

    until(lambda: summed() == 3, "the sums", within=SUMMED_WITHIN_SECONDS)
    assert before["total_requests"] == 3
    assert one.admin("GET", "/spend?group_by=day,model,status").json() == before
    assert one.admin("GET", "/spend/logs").json()["total"] == 3
