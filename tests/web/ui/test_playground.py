"""The playground: the gateway's own path, paid by a key, without any secret in the browser."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.support.browsing import Browser, Html, holder, operator
from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config

MODELS = (
    {"name": "good", "provider": "mock", "price": {"input": 1, "output": 2}},
    {
        "name": "slow",
        "provider": "mock",
        "price": {"input": 1, "output": 2},
        "mock": {"tokens_per_second": 5},
    },
    {"name": "private", "provider": "mock"},
)
BODY = {"messages": [{"role": "user", "content": "hi"}], "model": "good"}


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(
        config(*MODELS, projects={"default": {"models": ["good", "slow"]}}, limits={"user": {"rpm_limit": 2}})
    )


def ask(browser: Browser, path: str = "playground/answer", /, **body: Any) -> httpx2.Response:
    headers = {"content-type": "application/json", "sec-fetch-site": "same-origin"}
    content = json.dumps({**BODY, **body})
    return browser.client.post(browser.address(path), content=content, headers=headers)


def test_an_answer_has_the_row_and_the_cost_of_the_api(served: Proxy) -> None:
    answer = ask(holder(served))
    assert answer.status_code == 200
    same = served.chat(BODY)
    assert answer.json()["choices"] == same.json()["choices"]
    rows = [served.row(one.headers["x-request-id"]) for one in (answer, same)]
    told = ("project", "key_id", "endpoint", "model", "status", "cost_usd", "prompt_tokens", "basis", "cache")
    assert len({tuple(row[name] for name in told) for row in rows}) == 1
    assert answer.headers["x-proxy-model"] == "good"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_operator_chooses_the_key_that_pays(served: Proxy) -> None:
    browser = operator(served)
    other = served.new_key("other")
    page = browser.page("playground")
    assert {"value": other["key_id"]} in [
        {name: value for name, value in option.items() if name == "value"} for option in page.all("option")
    ]
    answer = ask(browser, f"playground/answer?key={other['key_id']}")
    assert served.row(answer.headers["x-request-id"])["project"] == "other"
    assert ask(browser).status_code == 400
    assert ask(browser, "playground/answer?key=key_none").status_code == 404
    served.admin("POST", "/key/block", json={"key_id": other["key_id"]})
    refused = ask(browser, f"playground/answer?key={other['key_id']}")
    assert refused.status_code == 401
    assert other["key_id"] not in browser.get("playground").text


def test_a_key_holder_pays_with_the_own_key_and_has_its_models(served: Proxy) -> None:
    browser = holder(served)
    other = served.new_key("other")
    answer = ask(browser, f"playground/answer?key={other['key_id']}")
    assert served.row(answer.headers["x-request-id"])["key_id"] == served.key_id
    assert ask(browser, model="private").status_code == 404
    page = browser.page("playground")
    assert "private" not in page.words
    assert "good" in page.words
    assert other["key_id"] not in page.text
    assert not page.all("select")[1:]


def test_limits_hold(served: Proxy) -> None:
    statuses = [ask(holder(served), user="eager").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


def test_stopping_is_booked_as_cancelled(served: Proxy) -> None:
    browser = holder(served)
    headers = {"content-type": "application/json", "sec-fetch-site": "same-origin"}
    body = json.dumps({**BODY, "model": "slow", "stream": True})
    address = browser.address("playground/answer")
    with browser.client.stream("POST", address, content=body, headers=headers) as answer:
        request_id = answer.headers["x-request-id"]
        assert next(answer.iter_lines()).startswith("data: ")
    row = served.row(request_id)
    assert row["status"] == "cancelled"
    assert row["cost_usd"] > 0


def test_the_numbers_under_an_answer_are_those_of_the_log(served: Proxy) -> None:
    browser = holder(served)
    request_id = ask(browser).headers["x-request-id"]
    row = served.row(request_id)
    part = Html(browser.get(f"playground/{request_id}").text)
    assert f"Answered by {row['deployment']}" in part.words
    assert f"{row['prompt_tokens']} + {row['completion_tokens']}" in part.words
    foreign = holder(served, served.new_key("other")["key"])
    assert foreign.get(f"playground/{request_id}").status_code == 404


def test_a_key_that_is_blocked_meanwhile_ends_the_session(served: Proxy) -> None:
    key = served.new_key("default")
    browser = holder(served, key["key"])
    assert ask(browser).status_code == 200
    served.admin("POST", "/key/block", json={"key_id": key["key_id"]})
    until(lambda: ask(browser).status_code == 303, "the session ended")


def test_requests_of_other_pages_are_refused(served: Proxy) -> None:
    browser = holder(served)
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}, {}):
        sent = {"content-type": "application/json", **headers}
        answer = browser.client.post(browser.address("playground/answer"), json=BODY, headers=sent)
        assert answer.status_code == 403
