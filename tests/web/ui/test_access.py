"""Every page of the dashboard against nobody, the operator and a key holder. A page not listed here fails."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from codellama_proxy.web.ui.routes import is_ui
from tests.support.browsing import Browser, holder, operator
from tests.support.cases import each
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.web.test_routes import live_routes

Statuses = tuple[int, int, int]
"""For nobody, the operator and a key holder, of a request without parameters."""

OPEN: Statuses = (200, 200, 200)
ALL: Statuses = (303, 200, 200)
OPERATOR: Statuses = (303, 200, 404)
NOTHING: Statuses = (303, 404, 404)
LEADS_ON: Statuses = (303, 303, 303)

PAGES: Mapping[tuple[str, str], Statuses] = {
    ("GET", "/ui"): LEADS_ON,
    ("GET", "/ui/"): LEADS_ON,
    ("GET", "/ui/sign-in"): (200, 303, 303),
    ("POST", "/ui/sign-in"): (401, 401, 401),
    ("POST", "/ui/sign-out"): LEADS_ON,
    ("GET", "/ui/static/{hash}/{name}"): (404, 404, 404),
    ("GET", "/ui/requests"): ALL,
    ("GET", "/ui/live"): ALL,
    ("GET", "/ui/requests.csv"): ALL,
    ("GET", "/ui/spend.csv"): ALL,
    ("GET", "/ui/requests/{request_id}"): NOTHING,
    ("GET", "/ui/overview"): ALL,
    ("GET", "/ui/models"): ALL,
    ("POST", "/ui/models/probe"): NOTHING,
    ("GET", "/ui/keys"): ALL,
    ("POST", "/ui/keys"): (303, 400, 404),
    ("GET", "/ui/keys/{key_id}"): NOTHING,
    ("POST", "/ui/keys/{key_id}"): NOTHING,
    ("POST", "/ui/keys/{key_id}/block"): NOTHING,
    ("POST", "/ui/keys/{key_id}/unblock"): NOTHING,
    ("POST", "/ui/keys/{key_id}/rotate"): NOTHING,
    ("POST", "/ui/keys/{key_id}/delete"): NOTHING,
    ("GET", "/ui/connect"): ALL,
    ("GET", "/ui/budgets"): ALL,
    ("GET", "/ui/config"): OPERATOR,
    ("POST", "/ui/config"): OPERATOR,
    ("GET", "/ui/playground"): ALL,
    ("POST", "/ui/playground/answer"): (303, 400, 415),
    ("GET", "/ui/playground/{request_id}"): NOTHING,
    ("GET", "/ui/{path:path}"): NOTHING,
}
ROUTES = sorted({(method, path) for method, path in live_routes() if is_ui(path)})


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config({"name": "plain", "provider": "mock"}))


@pytest.fixture
def viewers(served: Proxy) -> tuple[Browser, Browser, Browser]:
    return Browser(served), operator(served), holder(served)


def test_every_page_is_listed() -> None:
    of_get = {("HEAD", path) for method, path in PAGES if method == "GET"}
    assert set(ROUTES) == PAGES.keys() | of_get


@each(("method", "path"), [route for route in ROUTES if route[0] != "HEAD"])
def test_each_page_answers_each_viewer_as_listed(
    viewers: tuple[Browser, Browser, Browser], method: str, path: str
) -> None:
    for browser, status in zip(viewers, PAGES[method, path], strict=True):
        address = path.replace("{path:path}", "nothing").replace("{", "").replace("}", "")
        if method == "POST":
            assert browser.post(address).status_code == status, (path, browser)
            continue
        with browser.client.stream("GET", browser.address(address)) as answer:  # one of them does not end
            assert answer.status_code == status, (path, browser)
            if status == 404:
                assert b"There is no such" in answer.read()
