"""Markup in every string that a stranger, an upstream or proxy.yaml can set stays text, on every page."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, urlencode

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import People
from tests.support.person import Person
from tests.support.processes import until
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream


def hostile(place: str) -> str:
    """Markup that leaves attributes and elements, loads an address, and runs a script that names the place."""
    return f"\"'></title></script><img src=x onerror=\"hacked('{place}')\"><script>hacked('{place}')</script>"


# Names of models, aliases and projects are letters, digits and a few signs; this is what can be anything.
@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory, upstream_process: Upstream) -> Proxy:
    say, fail = (quote(hostile(place), safe="") for place in ("answer", "error"))
    served = module_proxy(
        config(
            upstream_process.model("says", f"say={say}"),
            upstream_process.model("fails", f"status=400;message={fail}"),
            upstream_process.model("down", f"status=500;code={fail};message=no"),
            {
                "name": "named",
                "provider": "mock",
                "model": hostile("upstream model"),
                "price": {"input": 1, "output": 1},
            },
            guardrail={"system_prompt": hostile("guardrail")},
            tracking={"requests": {"content": True}},
            projects={"web": {"limits": {"max_budget": 3, "budget_duration": "day"}}},
            routing={"retries": 0},
        ),
        project="web",
    )
    made = served.new_key("web", name=hostile("key name"), metadata={"team": hostile("metadata")})
    served.key, served.key_id = made["key"], made["key_id"]
    for model in (hostile("asked model"), "says", "named", "fails", "down"):
        answer = served.chat(
            model=model,
            user=hostile("user"),
            metadata={"note": hostile("metadata")},
            messages=[{"role": "user", "content": hostile("prompt")}],
        )
    until(lambda: served.rows(request_id=answer.headers["x-request-id"]), "the rows")
    return served


def entered(one: Person, secret: str) -> Person:
    """Signed in; scripts that came out of a text would complain."""
    one.context.expose_function("hacked", lambda place: one.said.append(f"a script of {place} ran"))
    return one.enter(secret)


@pytest.fixture(params=["operator", "holder"])
def visitor(request: pytest.FixtureRequest, served: Proxy, people: People) -> Person:
    return entered(people(served), ADMIN if request.param == "operator" else served.key)


def is_inert(one: Person) -> None:
    """No element came out of a text, and nothing was loaded or run (`Person` notes both)."""
    expect(one.heading).to_be_visible()
    born = one.page.evaluate("document.querySelectorAll('img, body script, svg[onload], [onerror]').length")
    assert born == 0, one.page.url


def all_are_inert(one: Person, paths: Iterable[str]) -> None:
    for path in paths:
        one.visit(path)
        is_inert(one)
    for name in ("overview?range=24h&show=requests&by=user", "requests"):
        one.visit(name)
        for column in one.page.locator(".stack .col").all()[-1:]:
            column.hover()  # the tip of a chart is made of names
        is_inert(one)


def test_markup_stays_text_on_every_page(served: Proxy, people: People) -> None:
    anna = entered(people(served), ADMIN).may_see_status(404)
    ids = [row["request_id"] for row in served.rows()]
    assert len(ids) >= 3
    x = {"x": hostile("query")}
    paths = [
        *(f"overview?range=24h&show=requests&by={by}" for by in ("model", "project", "key", "status")),
        "overview?as=table&by=user",
        *(f"requests/{one}" for one in ids),
        f"requests?{urlencode({'user': hostile('user'), 'model': hostile('model'), **x})}",
        f"requests?{urlencode({name: hostile(name) for name in ('q', 'status', 'start', 'cache', 'code')})}",
        "models",
        "keys",
        f"keys/{served.key_id}",
        f"keys?{urlencode({'q': hostile('q'), 'new': '1'})}",
        "budgets",
        f"budgets?{urlencode({'project': hostile('project')})}",
        "playground",
        f"connect?{urlencode({'model': hostile('model')})}",
        f"connect?{urlencode({'tool': hostile('tool')})}",
        "config",
        quote(hostile("path"), safe=""),
    ]
    all_are_inert(anna, paths)


def test_markup_stays_text_on_the_pages_of_a_key_holder(served: Proxy, people: People) -> None:
    """They have the same templates as the operator's pages: each is visited once."""
    carmen = entered(people(served), served.key).may_see_status(404)
    paths = [
        f"requests/{served.rows()[0]['request_id']}",
        f"requests?{urlencode({'user': hostile('user'), 'q': hostile('q')})}",
        "models",
        f"keys/{served.key_id}",
        "budgets",
        f"playground?{urlencode({'model': hostile('model')})}",
        f"connect?{urlencode({'model': hostile('model')})}",
        quote(hostile("path"), safe=""),
    ]
    all_are_inert(carmen, paths)


def test_markup_in_live_rows_and_answers_of_the_playground_stays_text(served: Proxy, visitor: Person) -> None:
    visitor.visit("requests")
    before = visitor.rows.count()
    served.chat(model="says", user=hostile("live"), prompt="new").raise_for_status()
    expect(visitor.rows).to_have_count(before + 1)
    is_inert(visitor)
    visitor.may_see_status(400)
    # Of an upstream's error, only a plain sentence is passed on.
    for model, text in (("says", "hacked('answer')"), ("fails", "The upstream refused the request")):
        visitor.visit("playground")
        visitor.page.get_by_label("Prompt", exact=True).fill(hostile("prompt"))
        visitor.page.get_by_label("Model").select_option(model)
        if visitor.page.get_by_label("Key that pays").count():
            visitor.page.get_by_label("Key that pays").select_option(served.key_id)
        visitor.page.get_by_role("button", name="Send").click()
        expect(visitor.page.locator("#answer")).to_contain_text(text)
        expect(visitor.page.locator("#answer")).to_have_attribute("aria-busy", "false")
        is_inert(visitor)


def test_markup_in_forms_and_drafts_stays_text(served: Proxy, people: People) -> None:
    anna = entered(people(served), ADMIN).may_see_status(400)
    anna.visit("config")
    anna.page.get_by_label("Draft of proxy.yaml").fill(f"models: {hostile('draft')}")
    anna.page.get_by_label("Project").fill(hostile("project"))
    anna.page.get_by_role("button", name="Check").click()
    expect(anna.page.get_by_text("This draft would be refused")).to_be_visible()
    is_inert(anna)
    anna.visit("keys?new=1")
    dialog = anna.page.get_by_role("dialog")
    dialog.get_by_label("Project").fill("web")
    dialog.get_by_label("Models").fill(hostile("models"))
    dialog.get_by_label("Budget in USD").fill(hostile("budget"))
    dialog.get_by_role("button", name="Make the key").click()
    expect(dialog.get_by_label("Budget in USD")).to_have_attribute("aria-invalid", "true")
    is_inert(anna)
    dialog.get_by_label("Budget in USD").fill("1")
    dialog.get_by_label("Name").fill(hostile("name"))
    dialog.get_by_role("button", name="Make the key").click()
    expect(anna.page.locator("#secret")).to_be_visible()
    is_inert(anna)
