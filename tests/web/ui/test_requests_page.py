"""The list of requests, one request and the exports, over HTTP."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

import pytest

from codellama_proxy.web.ui.render import environment
from tests.support.browsing import Browser, Html, holder, operator
from tests.support.cases import each
from tests.support.proxy_process import Proxy, ProxyFactory, config

XSS = "<script>alert(1)</script>\"'"
MODELS = (
    {"name": "good", "provider": "mock", "price": {"input": 1, "output": 2}},
    {"name": "broken", "provider": "mock", "mock": {"status": 500}, "price": {"input": 1, "output": 2}},
    {"name": "backup", "provider": "mock", "price": {"input": 1, "output": 2}},
)


@dataclass
class World:
    """A proxy with requests of two projects."""

    proxy: Proxy
    other_key: str
    ids: dict[str, str]


@pytest.fixture(scope="module")
def world(module_proxy: ProxyFactory) -> World:
    proxy = module_proxy(config(*MODELS, routing={"retries": 0}, tracking={"requests": {"content": True}}))
    other = proxy.new_key("other", name="=cmd()")["key"]
    ids = {}

    def ask(name: str, key: str, **body: Any) -> None:
        messages = [{"role": "user", "content": f"hello {XSS}"}]
        headers = {"authorization": f"Bearer {key}"}
        sent = proxy.client.post("/v1/chat/completions", json={"messages": messages, **body}, headers=headers)
        ids[name] = sent.headers["x-request-id"]
        proxy.row(ids[name])

    ask("good", proxy.key, model="good", user=XSS)
    ask("fallback", proxy.key, model="broken", stream=True)
    ask("foreign", other, model="good", user="=1+1")
    return World(proxy, other, ids)


@pytest.fixture
def admin(world: World) -> Browser:
    return operator(world.proxy)


@pytest.fixture
def own(world: World) -> Browser:
    return holder(world.proxy)


def listed(page: Html) -> list[str]:
    return [row["id"] for row in page.all("tr") if row.get("id")]  # type: ignore[misc]


def test_the_list_has_the_rows_of_the_log(world: World, admin: Browser) -> None:
    page = admin.page("requests")
    assert listed(page) == [row["request_id"] for row in world.proxy.rows()]
    assert "200 after 2" in page.words
    assert "broken → backup" in page.words
    assert "=cmd()" in page.words
    assert any(link.endswith(f"requests/{world.ids['good']}") for link in page.links())


def test_what_a_request_does_not_have_is_left_out() -> None:
    page = environment().from_string("<p>{{ row.deployment }}, {{ row.model }}</p>")
    assert page.render(row={"deployment": None, "model": "a<b"}) == "<p>, a&lt;b</p>"


@each(
    ("query", "expected"),
    [
        ("project=other", ["foreign"]),
        ("model=good&project=default", ["good"]),
        ("status=error", []),
        ("cache=hit", []),
        ("slow=30", []),
        ("code=200&project=other", ["foreign"]),
        ("q=%3D1%2B1", ["foreign"]),
        ("start=2020-01-01&end=2020-01-02", []),
        ("end=9000-01-01&project=other", ["foreign"]),
    ],
)
def test_filters_come_from_the_address(world: World, admin: Browser, query: str, expected: list[str]) -> None:
    page = admin.page(f"requests?{query}")
    assert listed(page) == [world.ids[name] for name in expected]
    if not expected:
        assert "No request matches these filters" in page.words


@each("query", ["status=maybe", "slow=-1", "code=abc", "start=never", "unknown=1", "before=req_none"])
def test_what_is_not_understood_is_noted_and_left_out(world: World, admin: Browser, query: str) -> None:
    page = admin.page(f"requests?{query}")
    assert len(listed(page)) == 3
    assert any(word in page.words for word in ("left out", "There is no filter", "not kept any more"))


def test_the_tag_of_a_key_names_it_to_who_may_know(world: World, admin: Browser, own: Browser) -> None:
    key_id = world.proxy.rows(project="other")[0]["key_id"]
    assert "key =cmd()" in admin.page(f"requests?key={key_id}").words
    page = own.page(f"requests?q={key_id}")
    assert f"key {key_id}" in page.words
    assert "=cmd()" not in page.words


@each("page", ["overview", "requests", "requests.csv", "spend.csv", "models", "keys", "live", "sign-in"])
def test_an_address_of_any_length_is_answered(admin: Browser, page: str) -> None:
    parameters = "&".join(f"a{number}=b" for number in range(201))
    assert admin.get(f"{page}?{parameters}").status_code in (303, 400)


def test_a_secret_is_not_searched_for(world: World, admin: Browser) -> None:
    answer = admin.get(f"requests?q={world.proxy.key}")
    assert "A secret does not belong in an address" in answer.text
    assert world.proxy.key not in answer.text


def test_an_id_leads_to_its_request(world: World, admin: Browser) -> None:
    answer = admin.get(f"requests?status=ok&q={world.ids['good']}")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"requests/{world.ids['good']}?status=ok"


@each("text", ["req_%0d%0aset-cookie:%20a=b", "req_../keys", "req_%20x", "req_%C3%A9", "req_" + "x" * 300])
def test_what_is_no_id_leads_nowhere(admin: Browser, text: str) -> None:
    assert admin.get(f"requests?q={text}").status_code == 200


def test_a_script_gets_the_results_only(world: World, admin: Browser) -> None:
    answer = admin.get("requests?project=other", **{"hx-request": "true"})
    page = Html(answer.text)
    assert listed(page) == [world.ids["foreign"]]
    assert not page.all("html")


def test_a_key_holder_sees_the_own_project_whatever_is_asked(world: World, own: Browser) -> None:
    for path in ("requests", "requests?project=other"):
        page = own.page(path)
        assert listed(page) == [world.ids["fallback"], world.ids["good"]]
        assert "other" not in page.words
        assert world.ids["foreign"] not in own.get(path).text


def test_a_foreign_request_is_the_same_404_as_none(world: World, own: Browser) -> None:
    pages = [own.get(f"requests/{name}") for name in (world.ids["foreign"], "req_none", "x" * 300)]
    assert {page.status_code for page in pages} == {404}
    assert len({page.text for page in pages}) == 1


def test_the_page_of_a_request_shows_its_attempts_and_costs(world: World, admin: Browser) -> None:
    page = admin.page(f"requests/{world.ids['fallback']}")
    row = world.proxy.row(world.ids["fallback"])
    assert [attempt["class"] for attempt in row["attempts"]] == ["transient", "ok"]
    for text in ("1. broken#1", "http_500", "2. backup#1", "answered", "as the upstream counted", "Booked"):
        assert text in page.words
    assert sum("wf" in (svg.get("class") or "") for svg in page.all("svg")) == 3
    assert f"../config#of-{row['config']}" in page.links()
    rows = admin.page("config").all("tr")
    assert [one for one in rows if one.get("id") == f"of-{row['config']}"] == [{"id": f"of-{row['config']}"}]


def test_classes_add_up_to_the_booked_cost(world: World, admin: Browser) -> None:
    row = world.proxy.row(world.ids["good"])
    page = admin.page(f"requests/{world.ids['good']}")
    expected = row["prompt_tokens"] * 1e-6 + row["completion_tokens"] * 2e-6
    assert row["cost_usd"] == pytest.approx(expected)
    assert f"${row['cost_usd']:.6f}".rstrip("0") in page.text.replace(" ", "")
    assert "Not shown by class" not in page.words


def test_neighbours_stay_within_the_filters(world: World, admin: Browser) -> None:
    page = admin.page(f"requests/{world.ids['good']}?project=default")
    assert f"../requests/{world.ids['fallback']}?project=default" in page.links()
    newest = admin.page(f"requests/{world.ids['fallback']}?project=default")
    assert not any(world.ids["foreign"] in link for link in newest.links())


@each("path", ["requests", "requests/{good}", "requests/{foreign}"])
def test_text_of_others_is_escaped(world: World, admin: Browser, path: str) -> None:
    html = admin.get(path.format(**world.ids)).text
    assert XSS not in html
    page = Html(html)
    assert len(page.all("script")) == html.count("</script>") <= 3
    assert all(script.get("src") for script in page.all("script"))
    for _, attributes in page.tags:
        assert not any(name == "style" or name.startswith("on") for name in attributes)


def test_prompt_and_answer_are_shown_as_text(world: World, admin: Browser) -> None:
    page = admin.page(f"requests/{world.ids['good']}")
    assert f"hello {XSS}" in page.text
    assert "curl https://proxy.example/v1/chat/completions" in page.text
    assert world.proxy.key not in page.text


# --- exports ---------------------------------------------------------------------------------------------------


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_export_has_the_rows_of_the_list_and_no_formulas(world: World, admin: Browser) -> None:
    answer = admin.get("requests.csv?project=other")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    [row] = rows_of(answer.text)
    assert row["request_id"] == world.ids["foreign"]
    assert row["user"] == "'=1+1"
    expected = world.proxy.row(world.ids["foreign"])
    assert float(row["cost_usd"]) == expected["cost_usd"]


def test_the_exports_of_a_key_holder_have_the_own_project_only(world: World, own: Browser) -> None:
    for path in ("requests.csv?project=other", "spend.csv?project=other", "spend.csv?group_by=project"):
        rows = rows_of(own.get(path).text)
        assert {row["project"] for row in rows} == {"default"}


def test_the_export_of_sums_equals_spend(world: World, admin: Browser) -> None:
    rows = rows_of(admin.get("spend.csv?group_by=project,model").text)
    spend = world.proxy.admin("GET", "/spend", params={"group_by": "project,model"}).json()["data"]
    assert [(row["project"], row["model"], int(row["requests"])) for row in rows] == [
        (row["project"], row["model"], row["requests"]) for row in spend
    ]
    assert [float(row["cost_usd"]) for row in rows] == pytest.approx([row["cost_usd"] for row in spend])


def test_the_overview_leads_to_the_export_of_its_sums(world: World, own: Browser, admin: Browser) -> None:
    for browser in (own, admin):
        (address,) = [
            link for link in browser.page("overview?by=model").links() if link.startswith("spend.csv")
        ]
        rows = rows_of(browser.get(address).text)
        assert {row["model"] for row in rows} == {"good", "backup"}


def test_the_volume_chart_counts_the_requests(world: World, admin: Browser) -> None:
    html = admin.get("requests?project=default").text
    assert "2; answered 2; not complete yet" in html
