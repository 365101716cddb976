"""The dashboard on a PostgreSQL database, which several processes share."""

from __future__ import annotations

import pytest

from tests.support.browsing import Browser, operator
from tests.support.postgres import Databases
from tests.support.processes import until
from tests.support.proxy_process import ProxyFactory, config
from tests.web.ui.test_live import listening, since
from tests.web.ui.test_overview_page import figures, usd

PAGES = (
    *(
        "overview",
        "overview?range=24h&by=key",
        "overview?range=30d&by=user",
        "overview?by=project&show=tokens",
    ),
    *("models", "keys", "budgets", "connect", "requests", "config"),
)


@pytest.fixture
def address(postgres_databases: Databases) -> str:
    return postgres_databases.empty()


def test_pages_of_two_processes_show_the_same(proxy: ProxyFactory, address: str) -> None:
    limits = {"global": {"max_budget": 500, "budget_duration": "month"}}
    priced = {"name": "plain", "provider": "mock", "price": {"input": 1000, "output": 1000}}
    text = config(priced, limits=limits)
    one, two = proxy(text, database=address), proxy(text, database=address)
    one.chat(max_tokens=16).raise_for_status()
    first = operator(one)
    second = Browser(two)
    second.client.cookies.update(first.client.cookies)
    for number in range(2):
        report = one.admin("GET", "/spend").json()
        assert report["total_requests"] == 1 + number
        for browser in (first, second):
            assert figures(browser.page("overview"))["Spend"] == usd(report["total_cost_usd"])
            for path in PAGES:
                browser.page(path)
        two.client.post("/v1/chat/completions", json={"prompt": "x", "max_tokens": 16}, headers=one.auth)
        wanted = ["ok"] * (2 + number)
        until(lambda wanted=wanted: [row["status"] for row in one.rows()] == wanted, "it is booked")
    assert "the server started" in second.page("config").words
    assert first.post("sign-out").status_code == 303
    assert second.get("overview").status_code == 303


def test_rows_of_another_process_appear_by_themselves(proxy: ProxyFactory, address: str) -> None:
    text = config({"name": "plain", "provider": "mock"})
    one, two = proxy(text, database=address), proxy(text, database=address)
    browser = operator(one)
    here = one.chat(model="plain").headers["x-request-id"]
    with listening(browser, since(browser)) as listener:
        answer = two.client.post("/v1/chat/completions", json={"prompt": "x"}, headers=one.auth)
        there = answer.headers["x-request-id"]
        until(lambda: there in listener.ids(), "the row of the other process")
        until(lambda: "running" not in listener.messages[-1].data, "it ended")
    # The page of one process may be followed by the stream of another.
    other = Browser(two)
    other.client.cookies.update(browser.client.cookies)
    with listening(other, since(browser)) as listener:
        until(lambda: {here, there} <= set(listener.ids()), "the newest rows")
        assert {message.event for message in listener.messages} == {"rows"}
