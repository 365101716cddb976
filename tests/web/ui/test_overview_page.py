"""The overview and the budgets: their numbers are those of `/spend` and of the ledger."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.browsing import Html, holder, operator
from tests.support.cases import each
from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config

PRICE = {"input": 1000, "output": 2000}
MODELS = (
    {"name": "small", "provider": "mock", "price": PRICE},
    {"name": "large", "provider": "mock", "price": {"input": 5000, "output": 9000}},
    {"name": "free", "provider": "mock", "fallback": False},
    {"name": "down", "provider": "mock", "mock": {"status": 500}, "fallbacks": [], "price": PRICE},
    {"name": "off", "provider": "openai", "api_key": "${NO_SUCH_VARIABLE_HERE}"},
)
PROJECTS = {"web": {"limits": {"max_budget": 100, "budget_duration": "day"}}}


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    served = module_proxy(config(*MODELS, projects=PROJECTS, cache={"enabled": True}), project="web")
    for number in range(3):
        served.chat(model="small", prompt=f"number {number}", max_tokens=16, user="bob").raise_for_status()
    served.chat(model="small", prompt="number 0", max_tokens=16).raise_for_status()  # from the cache
    assert served.chat(model="down", prompt="no", max_tokens=16).status_code == 502
    other = served.new_key("ops", name="<b id=xss>", duration="3d")
    headers = {"authorization": f"Bearer {other['key']}"}
    for model in ("large", "free"):
        body = {"model": model, "prompt": "x", "max_tokens": 16, "user": "<i id=xss>"}
        served.client.post("/v1/chat/completions", json=body, headers=headers)
    until(lambda: all(row["status"] != "held" for row in served.rows()), "all are settled")
    return served


def figures(page: Html) -> dict[str, str]:
    """Title to exact value."""
    return dict(re.findall(r'<dt>([^<]+)</dt><dd title="([^"]*)"', page.source))


def spend(served: Proxy, **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = served.admin("GET", "/spend", params=query).json()
    return found


def legend(page: Html) -> dict[str, str]:
    """Name to exact amount, of the table beside the chart."""
    rows = re.findall(
        r'<span class="label" title="([^"]+)">.*?</th><td class="num"(?: title="([^"]*)")?>([^<]+)</td>',
        page.source,
    )
    return {name: exact or shown for name, exact, shown in rows}


def usd(amount: float) -> str:
    return f"{amount:.9f}".rstrip("0").rstrip(".") + " USD"


@each("name", ["24h", "7d", "30d"])
def test_the_figures_are_the_sums_of_the_spend_report(served: Proxy, name: str) -> None:
    report = spend(served)
    shown = figures(operator(served).page(f"overview?range={name}"))
    assert shown["Spend"] == usd(report["total_cost_usd"])
    assert shown["Requests"] == str(report["total_requests"])
    rows = spend(served, group_by="status")["data"]
    assert shown["Failed"] == str(sum(row["requests"] for row in rows if row["status"] == "error"))
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    assert shown["Tokens"].replace(",", "") == str(tokens)


@each("by", ["model", "project", "status", "key", "user"])
@each("name", ["24h", "7d", "30d"])
def test_the_legend_is_the_spend_report_by_group(served: Proxy, by: str, name: str) -> None:
    report = {row[by]: row["cost_usd"] for row in spend(served, group_by=by)["data"] if row["cost_usd"]}
    shown = legend(operator(served).page(f"overview?by={by}&range={name}"))
    assert sorted(shown.values()) == sorted(usd(amount) for amount in report.values())
    if by in ("model", "project"):
        assert shown.keys() == report.keys()


@each("show", ["requests", "tokens", "failures"])
def test_other_amounts_add_up_too(served: Proxy, show: str) -> None:
    shown = legend(operator(served).page(f"overview?show={show}&by=status"))
    rows = {row["status"]: row for row in spend(served, group_by="status")["data"]}
    if show == "requests":
        assert shown == {"answered": str(rows["ok"]["requests"]), "failed": str(rows["error"]["requests"])}
    elif show == "failures":
        assert shown == {"failed": str(rows["error"]["requests"])}
    else:
        tokens = {name: rows[name]["prompt_tokens"] + rows[name]["completion_tokens"] for name in rows}
        assert shown["answered"].replace(",", "") == str(tokens["ok"])


def test_a_key_holder_sees_the_own_project_only(served: Proxy) -> None:
    for query in ("", "?project=ops", "?by=project", "?project=ops&by=user&range=30d"):
        page = holder(served).page(f"overview{query}")
        report = spend(served, project="web")
        assert figures(page)["Spend"] == usd(report["total_cost_usd"])
        for word in ("ops", "large", "in flight", "off#1", "everything", "All projects", "Configuration"):
            assert word not in page.source, word


def test_a_column_leads_to_its_requests(served: Proxy) -> None:
    page = operator(served).page("overview?range=24h&project=web")
    columns = [tag for tag in page.all("a") if "col" in str(tag.get("class"))]
    assert len(columns) == 24
    assert re.fullmatch(
        r"requests\?project=web&start=\S+Z&end=\S+Z", str(columns[-1]["href"]).replace("%3A", ":")
    )
    assert "not complete yet" in str(columns[-1]["aria-label"])
    assert "small" in str(columns[-1]["aria-label"])
    assert [column.get("tabindex") for column in columns].count("0") == 1


def test_the_same_numbers_as_a_table(served: Proxy) -> None:
    page = operator(served).page("overview?range=30d&as=table")
    assert "svg" not in [tag for tag, found in page.tags if "stack" in str(found.get("class"))]
    assert "Spend by model" in page.text
    assert len([tag for tag, _ in page.tags if tag == "tr"]) > 30


def test_attention_names_what_needs_a_person(served: Proxy) -> None:
    text = operator(served).page("overview").words
    assert "off#1 is disabled: NO_SUCH_VARIABLE_HERE is not set" in text
    assert "The key <b id=xss> of ops expires in 2 d" in text
    own = holder(served).page("overview").words
    assert "off#1" not in own
    assert "expires" not in own


def test_markup_in_names_stays_text(served: Proxy) -> None:
    for path in ("overview", "overview?by=user", "overview?by=key&range=30d", "overview?by=user&as=table"):
        page = operator(served).page(path)
        assert "xss" in page.text + page.source
        assert not [tag for tag, found in page.tags if found.get("id") == "xss"]


def test_unknown_values_are_ignored_and_told(served: Proxy) -> None:
    page = operator(served).page('overview?range=9y&by=<b id="xss">&show=all&nonsense=1')
    assert 'Ignored: range “9y”, by “<b id="xss">”, show “all”.' in page.words
    assert not [tag for tag, found in page.tags if found.get("id") == "xss"]


def test_the_part_that_changes_is_asked_for_alone(served: Proxy) -> None:
    answer = operator(served).get("overview?range=24h", **{"hx-request": "true"})
    assert answer.status_code == 200
    assert "<html" not in answer.text
    assert "In flight" not in answer.text
    assert figures(Html(answer.text))["Spend"] == usd(spend(served)["total_cost_usd"])


def test_an_empty_proxy_says_what_to_do(proxy: ProxyFactory) -> None:
    served = proxy(config({"name": "plain", "provider": "mock"}))
    page = operator(served).page("overview")
    assert "Nothing was asked yet." in page.words
    assert "Connect a client" in page.words
    assert "No budget is set." in page.words
    assert "Nothing needs you." in page.words
    assert "No budget is set." in operator(served).page("budgets").words


# --- budgets -------------------------------------------------------------------------------------------


def test_budgets_are_those_of_the_ledger(served: Proxy) -> None:
    page = operator(served).page("budgets")
    info = served.admin("GET", "/key/info", params={"key_id": served.key_id}).json()
    by_scope = {scope["scope"]: scope for scope in info["scopes"]}
    row = re.search(r'title="web">.*?</tr>', page.source, re.DOTALL)
    assert row is not None
    assert usd(by_scope["project"]["spend"]) in row[0]
    assert "day" in page.words


def test_a_key_holder_sees_the_budgets_of_the_own_project(served: Proxy) -> None:
    words = holder(served).page("budgets?project=ops").words
    assert "web" in words
    assert "everything" not in words
    assert "ops" not in words


def test_a_used_up_budget_blocks_requests_and_no_page(proxy: ProxyFactory) -> None:
    limits = {"project": {"max_budget": 0.00001, "budget_duration": "day"}, "key": {"rpm_limit": 1}}
    served = proxy(config(MODELS[0], limits=limits))
    assert served.chat(model="small", prompt="x" * 400).status_code == 429
    browser = holder(served)
    for path in ("overview", "budgets", "keys", "models", "connect", "requests"):
        assert browser.get(path).status_code == 200
    until(
        lambda: (
            "refused in the last hour by a limit of project on budget"
            in operator(served).page("overview").words
        ),
        "the refusal is counted",
    )


def test_a_held_amount_is_shown_while_a_request_runs(proxy: ProxyFactory) -> None:
    slow = {"name": "slow", "provider": "mock", "price": PRICE, "mock": {"tokens_per_second": 10}}
    served = proxy(config(slow, limits={"global": {"max_budget": 100, "budget_duration": "month"}}))
    body = {"model": "slow", "prompt": "x", "max_tokens": 500, "stream": True}
    with served.client.stream("POST", "/v1/chat/completions", json=body, headers=served.auth) as answer:
        assert answer.status_code == 200
        browser = operator(served)
        held = re.findall(r'<td class="num" title="([\d.]+) USD">\$', browser.page("budgets").source)
        assert any(float(amount) > 0.9 for amount in held)
        answer.read()
    until(lambda: "\N{EN DASH}" in operator(served).page("budgets").text, "nothing is held")


def test_without_any_cost_the_overview_shows_the_requests(proxy: ProxyFactory) -> None:
    served = proxy(config({"name": "free", "provider": "mock"}))
    browser = operator(served)
    served.row(served.chat(model="free").headers["x-request-id"])
    assert "Requests by model" in browser.page("overview").source
    spend = browser.page("overview?show=spend").source
    assert "Spend by model" in spend
    assert "<li></li><li>$0</li>" in spend, "no amount is written where there is none"


# --- when something is wrong ---------------------------------------------------------------------------


def test_a_lost_database_leaves_the_frame(proxy: ProxyFactory, tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.mkdir()
    served = proxy(config(MODELS[0]), database=place / "proxy.db", allow=["the store cannot write"])
    browser = operator(served)
    browser.page("overview")
    shutil.rmtree(place)
    until(lambda: browser.get("overview").status_code == 503, "it is noticed")
    for path in ("overview", "keys", "models", "budgets"):
        answer = browser.get(path)
        assert answer.status_code == 503
        page = Html(answer.text)
        assert "Not available" in page.words
        assert "Try again" in page.words
        assert "keys" in page.links(), "the navigation is there"
        part = browser.get(path, **{"hx-request": "true"})
        assert part.status_code == 503
        assert "<html" not in part.text
    served.kill()


def test_the_foot_shows_the_configuration_in_force(proxy: ProxyFactory) -> None:
    served = proxy(config(MODELS[0]))
    browser = operator(served)

    def digest() -> str:
        source = browser.page("overview").source
        (found,) = re.findall(r'<code title="Digest of the configuration">(\w+)</code>', source)
        return str(found)

    before = digest()
    assert served.admin("GET", "/health").json()["config"]["digest"].startswith(before)
    served.save(config(MODELS[0], MODELS[1]))
    until(lambda: digest() != before, "the new configuration is in force")
    served.save("models: [")
    until(lambda: "configuration has a problem" in browser.page("overview").words, "it says so")
    assert "proxy.yaml has errors; the configuration before it is in force." in browser.page("overview").words
    assert "configuration has a problem" not in holder(served).page("overview").words
