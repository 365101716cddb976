"""What an operator does on the overview and in the list of requests."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import People
from tests.support.person import Person
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory, upstream_process: Upstream) -> Proxy:
    served = module_proxy(
        config(
            upstream_process.model("fast"),
            upstream_process.model("rare"),
            upstream_process.model("down", "status=500", fallbacks=["fast"]),
            upstream_process.model("slow", "tokens=6;gate=3"),
            routing={"retries": 0},
        ),
        project="web",
    )
    for model in ("fast", "fast", "down"):
        ask(served, model=model, user="bob")
    ask(served, model="rare", user="eve")
    return served


@pytest.fixture
def anna(served: Proxy, people: People) -> Person:
    return people(served, ADMIN)


def ask(served: Proxy, **body: object) -> str:
    """The ID of a chat that is settled."""
    answer = served.chat(stream=True, **body)
    answer.raise_for_status()
    return str(served.row(answer.headers["x-request-id"])["request_id"])


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def focused(one: Person) -> Locator:
    return one.page.locator(":focus")


def tab_to(one: Person, css: str) -> Locator:
    """Presses Tab until an element has the focus."""
    for _ in range(60):
        one.page.keyboard.press("Tab")
        if one.page.evaluate("css => document.activeElement.matches(css)", css):
            return focused(one)
    raise AssertionError(f"Tab does not lead to {css}")


# --- overview --------------------------------------------------------------------------------------------


def test_drills_down_from_the_chart_with_the_keyboard(anna: Person) -> None:
    anna.visit("overview?range=24h&show=requests")
    column = tab_to(anna, ".stack .col")
    now = column.get_attribute("aria-label")
    assert now is not None
    assert "4" in now, "the present hour has four requests"
    tip = anna.page.locator(".tip")
    expect(tip).to_be_visible()
    anna.page.keyboard.press("ArrowLeft")
    assert focused(anna).get_attribute("aria-label") != now
    anna.page.keyboard.press("ArrowRight")
    assert focused(anna).get_attribute("aria-label") == now
    anna.page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    anna.page.keyboard.press("Enter")
    expect(anna.page.get_by_role("heading", name="Requests")).to_be_visible()
    assert "start=" in anna.path
    assert "end=" in anna.path
    assert anna.rows.count() >= 4


def test_the_overview_changes_range_group_and_form_and_exports(anna: Person, tmp_path: Path) -> None:
    anna.visit("overview")
    for group, name in (("Time range", "7d"), ("What is shown", "tokens"), ("Group by", "status")):
        link = anna.page.get_by_role("navigation", name=group).get_by_role("link", name=name)
        link.click()
        expect(link).to_have_attribute("aria-current", "true")
    assert {"range=7d", "show=tokens", "by=status"} <= set(anna.path.partition("?")[2].split("&"))
    anna.page.get_by_role("link", name="Show as table").click()
    expect(anna.page.get_by_role("link", name="Show as chart")).to_be_visible()
    with anna.page.expect_download() as download:
        anna.page.get_by_role("link", name="Export CSV").click()
    download.value.save_as(tmp_path / "spend.csv")
    assert {row["status"] for row in table(tmp_path / "spend.csv")} == {"ok"}
    anna.page.get_by_label("Project").select_option("web")
    anna.page.wait_for_url(re.compile(r"project=web"))
    expect(anna.page.get_by_role("heading", level=1, name="web")).to_be_visible()
    anna.follow("Requests")
    assert anna.path == "requests?project=web"  # stays when moving on


def test_the_overview_keeps_itself_up_to_date(served: Proxy, anna: Person) -> None:
    anna.page.clock.install()
    anna.visit("overview")
    figure = anna.page.locator(".kpi", has_text="Requests").locator("dd").first
    before = figure.text_content()
    ask(served, model="fast")
    anna.page.clock.fast_forward(11_000)
    expect(figure).not_to_have_text(str(before))


# --- requests --------------------------------------------------------------------------------------------


def test_filters_are_in_the_address_and_keep_the_focus(anna: Person) -> None:
    anna.follow("Requests")
    everything = anna.rows.count()
    model = anna.page.get_by_label("Model")
    model.focus()
    model.select_option("rare")
    anna.page.wait_for_url(re.compile(r"/requests\?model=rare$"))
    expect(model).to_be_focused()
    expect(anna.rows).to_have_count(1)
    csv_link = anna.page.get_by_role("link", name="Export CSV")
    expect(csv_link).to_have_attribute("href", re.compile(r"requests\.csv\?model=rare$"))
    anna.page.get_by_label("Status").select_option("error")
    expect(anna.page.get_by_text("No request matches these filters")).to_be_visible()
    anna.page.go_back()
    expect(anna.rows).to_have_count(1)
    expect(anna.page.get_by_label("Status")).to_have_value("")
    expect(anna.page.get_by_label("Model")).to_have_value("rare")
    anna.page.go_back()
    expect(anna.page.get_by_label("Model")).to_have_value("")
    assert anna.rows.count() >= everything


def test_a_slash_leads_to_the_search_and_an_id_to_its_request(served: Proxy, anna: Person) -> None:
    found = served.rows(user="bob")[0]["request_id"]
    anna.visit("requests")
    anna.page.keyboard.press("/")
    expect(anna.page.locator("[data-search]")).to_be_focused()
    anna.page.keyboard.type("bob")
    anna.page.keyboard.press("Enter")
    expect(anna.rows).to_have_count(3)
    anna.page.get_by_title("Remove this filter").click()
    expect(anna.page.get_by_title("Remove this filter")).to_have_count(0)
    anna.page.keyboard.press("/")
    anna.page.keyboard.type(found)
    anna.page.keyboard.press("Enter")
    expect(anna.heading).to_have_text(found)


def test_a_request_appears_by_itself_and_is_replaced_when_it_ends(
    served: Proxy, anna: Person, upstream: Upstream
) -> None:
    anna.visit("requests?user=live")
    expect(anna.page.locator("#live")).to_be_visible()
    with served.client.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "slow", "prompt": "hi", "stream": True, "user": "live"},
        headers=served.auth,
    ) as answer:
        row = anna.page.locator(f"#{answer.headers['x-request-id']}")
        expect(row).to_contain_text("running")
        upstream.open_gate("slow")
        answer.read()
    expect(row.locator(".tag", has_text="200")).to_be_visible()
    expect(anna.rows).to_have_count(1)
    ask(served, model="fast", user="another")
    ask(served, model="fast", user="live")
    expect(anna.rows).to_have_count(2)  # other users' requests do not appear


def test_seven_lists_are_open_at_once(served: Proxy, anna: Person) -> None:
    """A browser opens six connections to a host; lists that nobody looks at have none."""
    for _ in range(7):
        anna.page = anna.context.new_page()
        anna.visit("requests")
        # A page without a window is never hidden by another, so it is told so.
        anna.page.evaluate(
            """() => {
              Object.defineProperty(document, "hidden", {value: true});
              document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
    anna.page = anna.context.new_page()
    anna.visit("requests?user=eight")
    ask(served, model="fast", user="eight")
    expect(anna.rows).to_have_count(1)


def test_one_request_shows_its_attempts_and_the_way_to_its_neighbours(anna: Person) -> None:
    anna.visit("requests?user=bob")
    anna.page.locator("#rows a.row-link").first.click()
    newest = anna.heading.text_content()
    steps = anna.page.locator(".steps")
    expect(steps).to_contain_text("down#1")
    expect(steps).to_contain_text("fast#1")
    expect(steps.locator("svg.wf")).to_have_count(3)  # the whole, and two attempts
    anna.page.get_by_role("link", name="Older").click()
    expect(anna.heading).not_to_have_text(str(newest))
    assert "user=bob" in anna.path, "neighbours are those within the filter"
    anna.page.get_by_role("link", name="Newer").click()
    expect(anna.heading).to_have_text(str(newest))
    anna.page.get_by_role("button", name="Copy as curl").click()
    expect(anna.page.get_by_role("button", name="Copied")).to_be_visible()
    anna.page.get_by_role("link", name="Back to the list").click()
    assert anna.path == "requests?user=bob"


def test_exports_the_requests_of_the_filters(anna: Person, tmp_path: Path) -> None:
    anna.visit("requests?user=bob")
    with anna.page.expect_download() as download:
        anna.page.get_by_role("link", name="Export CSV").click()
    download.value.save_as(tmp_path / "requests.csv")
    assert [row["user"] for row in table(tmp_path / "requests.csv")] == ["bob"] * 3
