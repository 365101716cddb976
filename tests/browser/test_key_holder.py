"""What somebody with nothing but a virtual key does: everything about the own project, and changes to nothing."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import People
from tests.support.person import Person
from tests.support.proxy_process import Proxy, ProxyFactory, config

MODELS = (
    {"name": "plain", "provider": "mock", "price": {"input": 10, "output": 10}},
    {"name": "dear", "provider": "mock", "price": {"input": 90, "output": 90}},
)
PROJECTS = {"web": {"limits": {"max_budget": 5, "budget_duration": "day"}}, "foreign-project": {}}


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    served = module_proxy(config(*MODELS, projects=PROJECTS), project="web")
    other = served.new_key("foreign-project", name="foreign-key")
    body = {"model": "dear", "prompt": "foreign", "user": "foreign-user"}
    headers = {"authorization": f"Bearer {other['key']}"}
    answer = served.client.post("/v1/chat/completions", json=body, headers=headers)
    answer.raise_for_status()
    served.row(answer.headers["x-request-id"])
    answer = served.chat(model="plain", user="carmen")
    answer.raise_for_status()
    served.row(answer.headers["x-request-id"])
    return served


@pytest.fixture
def carmen(served: Proxy, people: People) -> Person:
    return people(served, served.key)


def test_sees_the_own_project_on_every_page_and_nothing_of_others(served: Proxy, carmen: Person) -> None:
    carmen.visit("overview")
    entries = carmen.page.get_by_role("navigation", name="Main").get_by_role("link").all_text_contents()
    assert entries == ["Overview", "Requests", "Models", "Keys", "Budgets", "Playground", "Connect"]
    for entry in entries:
        carmen.follow(entry)
        text = carmen.page.locator("body").inner_text()
        assert "foreign" not in text, entry
        assert "in flight" not in text, entry
    carmen.follow("Requests")
    expect(carmen.rows).to_have_count(1)
    assert carmen.page.get_by_label("Project").count() == 0
    carmen.may_see_status(404)
    foreign = served.rows(project="foreign-project")[0]["request_id"]
    for path in (f"requests/{foreign}", "config", "requests/req_0"):
        assert carmen.visit(path).status == 404
        expect(carmen.page.get_by_role("heading", name="Not found")).to_be_visible()


def test_can_change_nothing(carmen: Person) -> None:
    carmen.follow("Keys")
    expect(carmen.page.get_by_role("heading", name="Your key")).to_be_visible()
    for path in (carmen.path, "models", "budgets", "overview"):
        carmen.visit(path)
        buttons = carmen.page.locator("main form[method=post] button")
        expect(buttons).to_have_count(0)


def test_asks_in_the_playground_and_finds_the_request(carmen: Person) -> None:
    carmen.follow("Playground")
    carmen.page.get_by_label("Prompt", exact=True).fill("hello")
    carmen.page.get_by_label("Model").select_option("plain")
    carmen.page.get_by_role("button", name="Send").click()
    expect(carmen.page.locator("#metrics [data-status=ok]")).to_be_visible()
    identity = carmen.page.locator("#metrics a").text_content()
    carmen.page.locator("#metrics a").click()
    expect(carmen.heading).to_have_text(str(identity))


def test_a_used_up_budget_blocks_no_page(served: Proxy, people: People) -> None:
    made = served.new_key("web", name="poor", max_budget=0.0001)
    poor = people(served, made["key"]).may_see_status(429)
    poor.follow("Playground")
    poor.page.get_by_label("Prompt", exact=True).fill("hello")
    poor.page.get_by_role("button", name="Send").click()
    expect(poor.page.locator("#answer .problem")).to_contain_text("insufficient_quota")
    for entry in ("Overview", "Requests", "Budgets", "Keys", "Connect"):
        poor.follow(entry)
    expect(poor.page.get_by_role("status")).to_have_text(re.compile("."))
