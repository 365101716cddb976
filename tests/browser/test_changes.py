"""What an operator does about keys, budgets, models, the configuration, and with the playground."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import People
from tests.support.chromium import PLAIN_HTTP_NAME
from tests.support.person import Person
from tests.support.processes import until
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

PROVIDER_KEY = "sk-planted-provider-key-0123456789"


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory, upstream_process: Upstream) -> Proxy:
    return module_proxy(
        config(
            upstream_process.model("fast"),
            upstream_process.model("down", "status=500", fallbacks=["fast"]),
            upstream_process.model("stuck", "tokens=6;gate=3"),
            routing={"retries": 0},
            projects={"web": {"limits": {"max_budget": 5, "budget_duration": "day"}}},
            tracking={"requests": {"content": True}},
        ),
        project="web",
        env={"OPENAI_API_KEY": PROVIDER_KEY},
    )


@pytest.fixture
def anna(served: Proxy, people: People) -> Person:
    return people(served, ADMIN)


# --- keys ------------------------------------------------------------------------------------------------


def test_makes_a_key_copies_it_and_sets_up_a_client(served: Proxy, people: People) -> None:
    anna = people(served, ADMIN, permissions=["clipboard-read", "clipboard-write"]).may_see_status(400)
    anna.follow("Keys")
    anna.page.get_by_role("link", name="New key").click()
    dialog = anna.page.get_by_role("dialog", name="New key")
    expect(dialog.get_by_label("Project")).to_be_focused()
    dialog.get_by_label("Project").fill("web")
    dialog.get_by_label("Name").fill("carmen's laptop")
    dialog.get_by_label("Budget in USD").fill("much")
    dialog.get_by_role("button", name="Make the key").click()
    # Errors are in the dialog, with what was typed.
    expect(dialog.get_by_label("Budget in USD")).to_have_attribute("aria-invalid", "true")
    expect(dialog.get_by_label("Name")).to_have_value("carmen's laptop")
    assert not anna.findings()
    dialog.get_by_label("Budget in USD").fill("2.50")
    dialog.get_by_label("Requests a minute").fill("30")
    dialog.get_by_role("button", name="Make the key").click()
    secret = anna.page.locator("#secret").text_content()
    assert secret is not None
    assert not anna.findings()
    anna.page.locator("[data-copy='#secret']").click()
    expect(anna.page.locator("[data-copy='#secret']")).to_have_text("Copied")
    assert anna.page.evaluate("navigator.clipboard.readText()") == secret
    expect(anna.page.locator("pre").first).to_contain_text(secret)  # ready settings with the key
    answer = served.client.get("/key/info", headers={"authorization": f"Bearer {secret}"})
    assert answer.json()["name"] == "carmen's laptop"
    number = len(served.admin("GET", "/key/list").json()["data"])
    anna.page.reload()  # sends the form again, which makes no second key and shows no secret
    expect(anna.page.locator("#secret")).to_have_count(0)
    assert secret not in anna.page.content()
    assert len(served.admin("GET", "/key/list").json()["data"]) == number


def test_copies_over_plain_http_where_there_is_no_clipboard(served: Proxy, people: People) -> None:
    anna = people(f"http://{PLAIN_HTTP_NAME}:{served.port}").sign_in(ADMIN)
    anna.visit("keys?new=1")
    dialog = anna.page.get_by_role("dialog")
    dialog.get_by_label("Project").fill("web")
    dialog.get_by_role("button", name="Make the key").click()
    secret = anna.page.locator("#secret").text_content()
    anna.page.locator("[data-copy='#secret']").click()
    expect(anna.page.locator("[data-copy='#secret']")).to_have_text("Copied")
    anna.visit("keys")
    field = anna.page.locator("[data-search]")
    field.focus()
    anna.page.keyboard.press("Control+V")
    expect(field).to_have_value(str(secret))


def test_a_dialog_closes_with_escape_or_cancel(anna: Person) -> None:
    anna.visit("keys")
    anna.page.get_by_role("link", name="New key").click()
    dialog = anna.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    anna.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    anna.visit("keys?new=1")
    dialog.get_by_role("link", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert anna.path == "keys"


def test_changes_blocks_rotates_and_deletes_a_key(served: Proxy, anna: Person) -> None:
    made = served.new_key("web", name="changing")

    def status(secret: str) -> int:
        headers = {"authorization": f"Bearer {secret}"}
        return served.client.get("/v1/models", headers=headers).status_code

    anna.visit("keys?q=changing")
    anna.page.get_by_role("link", name="changing", exact=True).click()
    anna.page.get_by_label("Requests a minute").fill("7")
    anna.page.get_by_role("button", name="Save").click()
    expect(anna.page.get_by_label("Requests a minute")).to_have_value("7")
    expect(anna.page.locator("dl.facts")).to_contain_text("7")
    anna.page.get_by_role("button", name="Block").click()
    expect(anna.page.get_by_role("button", name="Unblock")).to_be_visible()
    assert status(made["key"]) == 401
    anna.page.get_by_role("button", name="Unblock").click()
    expect(anna.page.get_by_role("button", name="Block")).to_be_visible()
    assert status(made["key"]) == 200
    anna.page.get_by_role("button", name="Make a new secret").click()
    secret = anna.page.locator("#secret").text_content()
    assert secret is not None
    assert (status(made["key"]), status(secret)) == (401, 200)
    anna.page.get_by_role("link", name="The key").click()
    history = anna.page.get_by_role("table").last
    for action in ("create", "update", "block", "unblock", "rotate"):
        expect(history.get_by_text(action, exact=True).first).to_be_visible()
    confirmation = anna.page.get_by_label("Type")
    anna.may_see_status(400)
    confirmation.fill("something else")
    anna.page.get_by_role("button", name="Delete").click()
    expect(anna.page.locator("body")).to_contain_text("othing was deleted")
    assert status(secret) == 200
    anna.visit(f"keys/{made['key_id']}")
    confirmation.fill("changing")
    anna.page.get_by_role("button", name="Delete").click()
    expect(anna.page.get_by_role("heading", name="Keys")).to_be_visible()
    assert status(secret) == 401


def test_a_form_that_was_sent_before_changes_nothing(served: Proxy, anna: Person) -> None:
    anna.may_see_status(400)
    made = served.new_key("web", name="twice")
    anna.visit(f"keys/{made['key_id']}")
    token = anna.page.locator("[name=token]").first.input_value()
    anna.page.get_by_role("button", name="Make a new secret").click()
    secret = anna.page.locator("#secret").text_content()
    anna.visit(f"keys/{made['key_id']}")
    anna.page.locator("[action$=rotate] [name=token]").evaluate(
        "(field, old) => { field.value = old; }", token
    )
    anna.page.get_by_role("button", name="Make a new secret").click()
    expect(anna.page.get_by_role("alert")).to_contain_text("nothing was changed")
    answer = served.client.get("/v1/models", headers={"authorization": f"Bearer {secret}"})
    assert answer.status_code == 200


# --- budgets, models, configuration ----------------------------------------------------------------------


def test_a_budget_leads_to_its_requests(anna: Person) -> None:
    anna.follow("Budgets")
    row = anna.page.get_by_role("row").filter(has=anna.page.get_by_role("link", name="web", exact=True))
    expect(row).to_contain_text("$5.00")
    row.get_by_role("link").click()
    expect(anna.page.get_by_role("heading", level=1)).to_have_text("web")


def test_probes_a_deployment(anna: Person) -> None:
    anna.follow("Models")
    for name, result in (("fast#1", "works"), ("down#1", "fails")):
        row = anna.page.get_by_role("row").filter(has=anna.page.get_by_text(name, exact=True))
        row.get_by_role("button", name="Probe").click()
        expect(row.get_by_role("status")).to_contain_text(result)
        expect(row.get_by_role("button", name="Probe")).to_be_enabled()
    assert anna.path == "models"


def test_checks_a_draft_without_reading_secrets(anna: Person) -> None:
    anna.follow("Configuration")
    draft = anna.page.get_by_label("Draft of proxy.yaml")
    draft.fill("models:\n  - name: ${OPENAI_API_KEY}\n    provider: mock\n    prise: 1\n")
    anna.page.get_by_role("button", name="Check").click()
    expect(anna.page.get_by_text("This draft would be refused")).to_be_visible()
    anna.page.get_by_role("link", name=re.compile(r"^4:\d+$")).click()
    expect(anna.page.locator("#D4")).to_be_in_viewport()
    draft.fill(
        "models:\n  - {name: m, provider: mock}\n  - {name: n, provider: mock, mock: {reply: '${OPENAI_API_KEY}'}}"
    )
    anna.page.get_by_label("Failures to simulate").fill("m: 500")
    anna.page.get_by_role("button", name="Check").click()
    expect(anna.page.get_by_text("This draft is valid")).to_be_visible()
    expect(anna.page.get_by_role("heading", name="What would change")).to_be_visible()
    expect(anna.page.locator("pre.report")).to_contain_text("the caller gets the answer of n#1")
    assert PROVIDER_KEY not in anna.page.content()
    assert ADMIN not in anna.page.content()
    assert not anna.findings()


def test_shows_the_problem_of_an_edit_and_the_history_of_reloads(proxy: ProxyFactory, people: People) -> None:
    served = proxy(config({"name": "one", "provider": "mock"}))
    anna = people(served, ADMIN)
    served.save(config({"name": "one", "provider": "mock", "prise": 1}))
    shows(anna, "config", "configuration has a problem")
    expect(anna.page.get_by_text('unknown key "prise"').first).to_be_visible()
    assert not anna.findings()
    served.save(config({"name": "one", "provider": "mock"}, {"name": "two", "provider": "mock"}))
    shows(anna, "config", "models: +two")
    expect(anna.page.locator("#history .tag", has_text="refused")).to_be_visible()


def shows(one: Person, path: str, text: str) -> None:
    """Waits until a page has the text: a reload of proxy.yaml takes up to two seconds."""
    until(lambda: text in one.context.request.get(one.start + path).text(), text)
    one.visit(path)
    expect(one.page.get_by_text(text).first).to_be_visible()


# --- playground, connect ---------------------------------------------------------------------------------


def test_the_playground_streams_and_stops(served: Proxy, anna: Person) -> None:
    anna.visit("playground?model=stuck")
    anna.page.get_by_label("Prompt", exact=True).fill("tell me")
    anna.page.keyboard.press("Control+Enter")
    answer = anna.page.locator("#answer")
    expect(answer).to_contain_text("stuck")  # the first tokens are there while the rest is to come
    expect(answer).to_have_attribute("aria-busy", "true")
    anna.page.get_by_role("button", name="Stop").click()
    expect(anna.page.locator("#metrics [data-status=cancelled]")).to_be_visible()
    expect(anna.page.get_by_role("button", name="Send")).to_be_visible()
    assert served.rows(model="stuck")[0]["status"] == "cancelled"
    anna.page.get_by_label("Model").select_option("fast")
    anna.page.get_by_role("button", name="Send").click()
    expect(anna.page.locator("#metrics [data-status=ok]")).to_be_visible()
    expect(answer).to_contain_text("fast")
    expect(anna.page.locator("#headers pre")).to_contain_text("x-proxy-model: fast")
    assert not anna.findings()
    anna.page.locator("#metrics a").click()
    expect(anna.page.get_by_text("tell me", exact=True)).to_be_visible()


def test_connect_tells_when_it_works(served: Proxy, anna: Person) -> None:
    anna.page.clock.install()
    anna.follow("Connect")
    anna.page.get_by_role("link", name="aider").click()
    expect(anna.page.locator("pre").first).to_contain_text(f"{served.url}/v1")
    copy = anna.page.locator(".code [data-copy]").first
    copy.click()
    expect(copy).to_have_text("Copied")
    served.row(served.chat(model="down").headers["x-request-id"])
    anna.page.clock.fast_forward(6000)
    expect(anna.page.locator("#last")).to_contain_text("200 after 2")
