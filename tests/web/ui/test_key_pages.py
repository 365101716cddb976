"""Keys in the dashboard: made, changed, blocked, rotated and deleted; each secret is shown once."""

from __future__ import annotations

import re

import pytest

from tests.support.browsing import Browser, Html, holder, operator
from tests.support.cases import each
from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config

SECRET = re.compile(r"sk-[A-Za-z0-9]{43}")


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config({"name": "plain", "provider": "mock"}, {"name": "other", "provider": "mock"}))


def form_of(page: Html, action: str) -> dict[str, str]:
    """The fields of the form that is sent to an address, as they are."""
    fields: dict[str, str] = {}
    inside = False
    select = ""
    for tag, found in page.tags:
        if tag == "form":
            inside = str(found.get("action")).endswith(action)
        elif inside and tag == "input":
            fields[str(found["name"])] = found.get("value") or ""
        elif inside and tag == "select":
            select = str(found["name"])
        elif inside and tag == "option" and ("selected" in found or select not in fields):
            fields[select] = found.get("value") or ""
    return fields


def make(browser: Browser, **fields: str) -> tuple[str, Html]:
    """A new key's secret, and the page that showed it."""
    form = form_of(browser.page("keys?new=1"), "keys")
    answer = browser.post("keys", {**form, "project": "web", **fields})
    assert answer.status_code == 200, Html(answer.text).words
    (secret,) = set(SECRET.findall(answer.text))
    return secret, Html(answer.text)


def key_id_of(page: Html) -> str:
    return next(link.rpartition("/")[2] for link in page.links() if "keys/key_" in link)


# --- making one ----------------------------------------------------------------------------------------


def test_a_key_is_made_and_works(served: Proxy) -> None:
    limits = {
        "budget": "12.50",
        "per": "month",
        "rpm": "60",
        "tpm": "1000",
        "parallel": "3",
        "models": "plain, o*",
    }
    secret, page = make(operator(served), name="carmen's laptop", expires="30d", **limits)
    assert "carmen's laptop of web is ready." in page.words
    answer = served.client.get("/key/info", headers={"authorization": f"Bearer {secret}"}).json()
    assert answer["name"] == "carmen's laptop"
    assert answer["max_budget"] == 12.5
    assert answer["budget_duration"] == "month"
    assert (answer["rpm_limit"], answer["tpm_limit"], answer["max_parallel_requests"]) == (60, 1000, 3)
    assert answer["models"] == ["plain", "o*"]
    assert answer["expires"] is not None
    assert page.source.count(secret) > 5, "it is in the settings of the clients"


def test_the_secret_is_shown_once_and_not_stored_or_compressed(served: Proxy) -> None:
    browser = operator(served)
    fields = {**form_of(browser.page("keys?new=1"), "keys"), "project": "web"}
    answer = browser.post("keys", fields, **{"accept-encoding": "gzip"})
    assert answer.headers["cache-control"] == "no-store"
    assert "content-encoding" not in answer.headers
    (secret,) = set(SECRET.findall(answer.text))
    before = served.admin("GET", "/key/list").json()["total"]
    again = browser.post("keys", fields)
    assert again.status_code == 400
    assert "This form was sent before" in again.text
    assert not SECRET.search(again.text)
    assert served.admin("GET", "/key/list").json()["total"] == before
    for path in ("keys", f"keys/{key_id_of(Html(answer.text))}", "overview", "connect"):
        assert secret not in browser.get(path).text
    assert secret not in served.log()


@each(
    ("field", "text", "problem"),
    [
        ("project", "", "Must be 1 to 64 letters"),
        ("project", "a b", "Must be 1 to 64 letters"),
        ("name", "x" * 200, "Must be 1 to 128 printable characters"),
        ("budget", "ten", "Must be an amount of USD such as 20 or 12.50"),
        ("budget", "-1", "Must be between 0 and"),
        ("budget", "NaN", "Must be an amount of USD such as 20 or 12.50"),
        ("budget", "1_0", "Must be an amount of USD such as 20 or 12.50"),
        ("budget", "\N{FULLWIDTH DIGIT NINE}", "Must be an amount of USD such as 20 or 12.50"),
        ("budget", "1e-999999999", "Must be an amount of USD such as 20 or 12.50"),
        ("budget", "1e-99", "Must have at most 9 decimal places"),
        ("budget", "1e999", "Must be between 0 and"),
        ("budget", "0.0000000001", "Must have at most 9 decimal places"),
        ("rpm", "-5", "Must be a whole number"),
        ("rpm", "1.5", "Must be a whole number"),
        ("tpm", "9" * 30, "Must be a whole number"),
        ("tpm", "\N{FULLWIDTH DIGIT NINE}", "Must be a whole number"),
        ("expires", "soon", "Must be a duration"),
        ("per", "fortnight", "Must be 'hour', 'day', 'week', 'month'"),
        ("models", ",".join("m" for _ in range(300)), "Must be at most 256 names"),
    ],
)
def test_a_problem_stands_at_its_field_and_nothing_is_lost(
    served: Proxy, field: str, text: str, problem: str
) -> None:
    browser = operator(served)
    fields = {**form_of(browser.page("keys?new=1"), "keys"), "project": "web", "budget": "7", "name": "mine"}
    before = served.admin("GET", "/key/list").json()["total"]
    answer = browser.post("keys", {**fields, field: text})
    assert answer.status_code == 400
    page = Html(answer.text)
    assert problem in page.text
    shown = form_of(page, "keys")
    if field not in ("per", "expires"):
        assert shown[field] == text
    if field != "name":
        assert shown["name"] == "mine"
    wrong = [found for _, found in page.tags if found.get("aria-invalid") == "true"]
    assert [found["name"] for found in wrong] == [field]
    assert [found for tag, found in page.tags if tag == "dialog" and "open" in found]
    assert served.admin("GET", "/key/list").json()["total"] == before


def test_a_form_without_a_token_makes_no_key(served: Proxy) -> None:
    answer = operator(served).post("keys", {"project": "web"})
    assert answer.status_code == 400
    assert "Nothing was changed" in answer.text


@each("body", [b"a=1&" * 200, b"%ff=%ff", b"\xff\xfe", b"x" * 70_000, b""])
def test_a_broken_form_is_refused_with_a_page(served: Proxy, body: bytes) -> None:
    browser = operator(served)
    headers = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
    answer = browser.client.post("/ui/keys", content=body, headers=headers)
    assert answer.status_code in (400, 413)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    json = browser.client.post("/ui/keys", json={}, headers={"sec-fetch-site": "same-origin"})
    assert json.status_code == 415


# --- the list ------------------------------------------------------------------------------------------


def test_the_list_finds_sorts_and_tells_states(proxy: ProxyFactory) -> None:
    served = proxy(config({"name": "plain", "provider": "mock", "price": {"input": 1000, "output": 1000}}))
    browser = operator(served)
    busy = served.new_key("web", name="busy", max_budget=500, budget_duration="day")
    served.new_key("ops", name="ending", duration="2d")
    blocked = served.new_key("ops", name="<b id=xss>")
    served.admin("POST", "/key/block", json={"key_id": blocked["key_id"]}).raise_for_status()
    asked = served.client.post(
        "/v1/chat/completions", json={"prompt": "x"}, headers={"authorization": f"Bearer {busy['key']}"}
    )
    assert asked.status_code == 200

    def names(query: str) -> list[str]:
        page = browser.page(f"keys{query}")
        return [str(found["title"]) for tag, found in page.tags if "row-link" in str(found.get("class"))]

    assert names("?sort=spend")[0] == "busy"
    assert names("?sort=last+use")[0] == "busy"
    assert names("?sort=expiry")[0] == "ending"
    assert set(names("?project=ops")) == {"ending", "<b id=xss>"}
    assert names("?state=blocked") == ["<b id=xss>"]
    assert names("?state=expiring") == ["ending"]
    assert names("?q=BUS") == names(f"?q={busy['prefix']}") == names(f"?q={busy['key_id']}") == ["busy"]
    assert names("?q=nothing") == []
    assert names("?state=nonsense&sort=nonsense&page=99999999999&q=") == names("")
    page = browser.page("keys")
    assert not [tag for tag, found in page.tags if found.get("id") == "xss"]
    assert "expires in 1 d" in page.words or "expires in 2 d" in page.words
    report = served.admin("GET", "/spend", params={"group_by": "key"}).json()["data"]
    (spent,) = [row["cost_usd"] for row in report if row["key"] == busy["key_id"]]
    assert f'title="{f"{spent:.9f}".rstrip("0")} USD"' in page.source


# --- one key -------------------------------------------------------------------------------------------


def test_a_key_is_changed_where_the_form_differs(served: Proxy) -> None:
    browser = operator(served)
    _, page = make(browser, name="before", expires="90d", budget="5", per="day", rpm="10")
    key_id = key_id_of(page)
    fields = form_of(browser.page(f"keys/{key_id}"), f"keys/{key_id}")
    assert (fields["name"], fields["budget"], fields["per"], fields["rpm"]) == ("before", "5", "day", "10")
    assert fields["expires"] == "keep"
    before = served.admin("GET", "/key/info", params={"key_id": key_id}).json()
    answer = browser.post(f"keys/{key_id}", {**fields, "name": "after", "rpm": ""})
    assert answer.status_code == 303
    assert answer.headers["location"] == key_id
    after = served.admin("GET", "/key/info", params={"key_id": key_id}).json()
    assert (after["name"], after["rpm_limit"], after["max_budget"]) == ("after", None, 5)
    assert after["expires"] == before["expires"]
    history = browser.page(f"keys/{key_id}").words
    assert "update" in history
    assert "name before → after" in history
    wrong = browser.post(f"keys/{key_id}", {**fields, "rpm": "many"})
    assert wrong.status_code == 400
    assert "Must be a whole number" in wrong.text


def test_a_key_is_blocked_unblocked_and_deleted(served: Proxy) -> None:
    browser = operator(served)
    secret, page = make(browser, name="doomed")
    key_id, auth = key_id_of(page), {"authorization": f"Bearer {secret}"}
    assert browser.post(f"keys/{key_id}/block").status_code == 303
    assert served.client.get("/v1/models", headers=auth).json()["error"]["code"] == "key_blocked"
    assert "blocked" in browser.page(f"keys/{key_id}").words
    assert browser.post(f"keys/{key_id}/unblock").headers["location"] == f"../{key_id}"
    assert served.client.get("/v1/models", headers=auth).status_code == 200
    refused = browser.post(f"keys/{key_id}/delete", {"confirm": "something"})
    assert refused.status_code == 400
    assert "Nothing was deleted" in refused.text
    assert browser.post(f"keys/{key_id}/delete", {"confirm": "doomed"}).headers["location"] == "../../keys"
    assert served.client.get("/v1/models", headers=auth).status_code == 401
    assert browser.get(f"keys/{key_id}").status_code == 404


def test_a_secret_is_replaced_with_an_overlap(served: Proxy) -> None:
    browser = operator(served)
    old, page = make(browser, name="turning")
    key_id = key_id_of(page)
    fields = form_of(browser.page(f"keys/{key_id}"), f"{key_id}/rotate")
    answer = browser.post(f"keys/{key_id}/rotate", {**fields, "overlap": "1h"})
    assert answer.status_code == 200
    assert "turning of web has a new secret. The old secret works for another 1 h." in Html(answer.text).words
    (new,) = set(SECRET.findall(answer.text))
    for secret in (old, new):
        assert (
            served.client.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).status_code == 200
        )
    again = browser.post(f"keys/{key_id}/rotate", {**fields, "overlap": ""})
    assert again.status_code == 400
    assert served.client.get("/v1/models", headers={"authorization": f"Bearer {new}"}).status_code == 200
    fields = form_of(browser.page(f"keys/{key_id}"), f"{key_id}/rotate")
    assert browser.post(f"keys/{key_id}/rotate", {**fields, "overlap": "soon"}).status_code == 400
    assert browser.post(f"keys/{key_id}/rotate", {**fields, "overlap": ""}).status_code == 200
    for secret in (old, new):
        until(
            lambda secret=secret: (
                served.client.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).status_code
                == 401
            ),
            "the old secret is void",
        )


def test_the_audit_tells_changes_by_the_dashboard_from_those_by_the_api(served: Proxy) -> None:
    first, second = operator(served), operator(served)
    _, page = make(first, name="audited")
    key_id = key_id_of(page)
    form = form_of(first.page(f"keys/{key_id}"), key_id)
    first.post(f"keys/{key_id}", {**form, "rpm": "5"})
    first.post(f"keys/{key_id}/block")
    first.post(f"keys/{key_id}/unblock")
    second.post(
        f"keys/{key_id}/rotate", form_of(second.page(f"keys/{key_id}"), f"{key_id}/rotate") | {"overlap": ""}
    )
    served.admin("POST", "/key/update", json={"key_id": key_id, "rpm_limit": 6})
    second.post(f"keys/{key_id}/delete", {"confirm": "audited"})
    found = served.admin("GET", "/audit", params={"key_id": key_id}).json()["data"]
    actors = {one["action"]: one["actor"] for one in found if one["actor"] != "master"}
    assert [one["action"] for one in found if one["actor"] == "master"] == ["update"]
    assert actors.keys() == {"create", "update", "block", "unblock", "rotate", "delete"}
    assert all(re.fullmatch("ui:[0-9a-f]{12}", actor) for actor in actors.values())
    assert actors["create"] == actors["block"] == actors["unblock"] == actors["update"]
    assert actors["rotate"] == actors["delete"] != actors["create"]


# --- key holders ---------------------------------------------------------------------------------------


def test_a_key_holder_sees_the_own_key_and_changes_nothing(served: Proxy) -> None:
    own, other = served.new_key("web", name="own", rpm_limit=7), served.new_key("web", name="neighbour")
    browser = holder(served, own["key"])
    page = browser.page("keys")
    assert "Your key" in page.words
    assert own["key_id"] in page.words
    assert "Requests a minute 7 this key" in re.sub(r"(minute)(\d)", r"\1 \2", page.words)
    assert "neighbour" not in page.source
    assert not [found for found in page.all("form") if "sign-out" not in str(found["action"])]
    assert browser.page(f"keys/{own['key_id']}").words == page.words
    unknown = browser.get("keys/key_doesnotexist")
    foreign = browser.get(f"keys/{other['key_id']}")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text == unknown.text
    for action in ("", "/block", "/unblock", "/rotate", "/delete"):
        for key_id in (own["key_id"], other["key_id"]):
            answer = browser.post(f"keys/{key_id}{action}", {"confirm": "own", "name": "x", "project": "y"})
            assert answer.status_code == 404
    assert browser.post("keys", {"project": "web"}).status_code == 404
    info = served.admin("GET", "/key/info", params={"key_id": own["key_id"]}).json()
    assert (info["name"], info["blocked"], info["project"]) == ("own", False, "web")
