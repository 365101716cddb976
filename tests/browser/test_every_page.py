"""Every page, to both kinds of viewers: complete, accessible in both themes, no wider than a phone, silent console.

With `PROXY_TEST_SCREENSHOTS=1`, screenshots of all of them are kept in `build/screenshots/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import People
from tests.support.forked import run_forked
from tests.support.person import COLOURS, DESK, PHONE, WIDTH, Person, person
from tests.support.processes import environment
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory
from tests.support.two_weeks_of_use import PROXY_YAML


@dataclass
class Team:
    """A proxy that was used for two weeks."""

    proxy: Proxy
    secrets: dict[str, str]
    """By the names of keys."""
    failed: str
    """The ID of a request that failed over to another model."""


@pytest.fixture(scope="module")
def team(module_proxy: ProxyFactory, tmp_path_factory: pytest.TempPathFactory) -> Team:
    database = tmp_path_factory.mktemp("team") / "proxy.db"
    secrets = filled(database)
    served = module_proxy(PROXY_YAML, database=database, project="sandbox")
    answer = served.chat(model="claude", user="ana", stream=True)
    answer.raise_for_status()
    served.row(answer.headers["x-request-id"])
    return Team(served, secrets, answer.headers["x-request-id"])


def filled(database: Path) -> dict[str, str]:
    command = [sys.executable, "-m", "tests.support.two_weeks_of_use", str(database)]
    done = run_forked(command, env=environment())
    assert done.returncode == 0, done.stderr
    secrets: dict[str, str] = json.loads(done.stdout)
    return secrets


OPERATOR = {
    "overview": "overview?range=7d",
    "overview-table": "overview?range=7d&as=table&by=key",
    "requests": "requests",
    "requests-filtered": "requests?status=error&project=web-team",
    "requests-none": "requests?user=somebody",
    "models": "models",
    "keys": "keys",
    "keys-new": "keys?new=1",
    "budgets": "budgets",
    "playground": "playground",
    "connect": "connect",
    "connect-codex": "connect?tool=codex",
    "config": "config",
}
HOLDER = {
    name: OPERATOR[name] for name in ("overview", "requests", "models", "budgets", "playground", "connect")
}


@pytest.fixture(scope="module")
def operator(team: Team, browser: Browser) -> Iterator[Person]:
    with person(browser, team.proxy.url) as one:
        yield one.enter(ADMIN)


@pytest.fixture(scope="module")
def holder(team: Team, browser: Browser) -> Iterator[Person]:
    with person(browser, team.proxy.url) as one:
        yield one.enter(team.secrets["carmen's laptop"])


@pytest.mark.parametrize("name", sorted(OPERATOR))
def test_an_operator_can_read_the_page(operator: Person, name: str) -> None:
    look(operator, OPERATOR[name], name)


@pytest.mark.parametrize("name", sorted(HOLDER))
def test_a_key_holder_can_read_the_page(holder: Person, name: str) -> None:
    look(holder, HOLDER[name], f"holder-{name}", dark=False)  # has the operator's colours


def test_pages_of_one_thing_can_be_read(team: Team, operator: Person, holder: Person) -> None:
    look(operator, f"requests/{team.failed}", "request")
    operator.visit("keys")
    operator.page.get_by_role("link", name="carmen's laptop", exact=True).click()
    look(operator, operator.path, "key")
    holder.visit("overview")
    holder.follow("Keys")
    look(holder, holder.path, "holder-key", dark=False)


def test_the_entry_of_the_page_is_in_sight_on_a_phone(operator: Person) -> None:
    operator.page.set_viewport_size(PHONE)
    operator.visit("config#history")
    expect(operator.page.locator("#history")).to_be_in_viewport()
    operator.visit("config")
    expect(operator.page.locator("nav.main [aria-current]")).to_be_in_viewport(ratio=0.9)


def test_the_pages_before_a_sign_in_and_errors_can_be_read(team: Team, people: People) -> None:
    look(people(team.proxy), "sign-in", "sign-in")
    look(people(team.proxy), "../", "root")
    look(people(team.proxy, ADMIN).may_see_status(404), "requests/req_0", "missing")


def look(one: Person, path: str, name: str, *, dark: bool = True) -> None:
    """Loads a page, and looks at it in its themes and at the width of a phone."""
    one.page.set_viewport_size(DESK)
    one.page.emulate_media(color_scheme="light")
    one.visit(path)
    expect(one.heading).to_be_visible()
    assert one.page.title().endswith("codellama-proxy")
    problems = [f"light: {finding}" for finding in one.findings()]
    one.picture(f"{name}-light")
    if dark:
        one.page.emulate_media(color_scheme="dark")
        problems += [f"dark: {finding}" for finding in one.findings(COLOURS)]
        one.picture(f"{name}-dark")
    one.page.set_viewport_size(PHONE)
    assert one.sideways() <= 0, name
    problems += [f"phone: {finding}" for finding in one.findings(WIDTH)]
    one.picture(f"{name}-phone")
    problems += one.complaints()
    assert not problems, "\n".join(problems)
