"""Models, probes, and the settings of clients."""

from __future__ import annotations

import re

import pytest

from codellama_proxy.web.ui.clients import BASE, CLIENTS, KEY, MODEL, Block
from tests.support.browsing import Html, holder, operator
from tests.support.cases import each
from tests.support.client_docs import ADDRESS, SNIPPETS
from tests.support.client_docs import KEY as DOCS_KEY
from tests.support.client_docs import MODEL as DOCS_MODEL
from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config

MODELS = (
    {
        "name": "first",
        "provider": "mock",
        "model": "upstream-of-first",
        "price": {"input": 0.5, "output": 1.25},
    },
    {"name": "first", "provider": "mock", "model": "second-of-first"},
    {"name": "broken", "provider": "mock", "mock": {"status": 500}, "fallbacks": []},
    {"name": "hidden", "provider": "mock"},
    {"name": "off", "provider": "openai", "api_key": "${NO_SUCH_VARIABLE_HERE}"},
)


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    routing = {"cooldown": {"failures": 1, "time": "10m"}, "retries": 0}
    projects = {"web": {"models": ["first", "broken"]}}
    served = module_proxy(config(*MODELS, routing=routing, projects=projects), project="web")
    assert served.chat(model="first", max_tokens=16).status_code == 200
    assert served.chat(model="broken", max_tokens=16).status_code == 502
    until(lambda: all(row["status"] != "held" for row in served.rows()), "all are settled")
    return served


def rows(page: Html) -> dict[str, str]:
    """The words of each row, by its name."""
    found = re.findall(r"<b>([^<]+)</b>(.*?)</tr>", page.source, re.DOTALL)
    return {name: " ".join(re.sub(r"<[^>]+>", " ", rest).split()) for name, rest in found}


def test_the_operator_sees_every_deployment_in_the_order_of_fallbacks(served: Proxy) -> None:
    shown = rows(operator(served).page("models"))
    assert list(shown) == ["first#1", "first#2", "broken#1", "hidden#1", "off#1"]
    assert "mock upstream-of-first ready" in shown["first#1"]
    assert "$0.50 · $1.25" in shown["first#1"]
    assert "cooling" in shown["broken#1"]
    assert "http_500" in shown["broken#1"]
    assert "http_500 \N{MULTIPLICATION SIGN}1" in shown["broken#1"]
    assert "disabled NO_SUCH_VARIABLE_HERE is not set" in shown["off#1"]
    assert "Probe" in shown["first#2"]
    assert "Probe" not in shown["off#1"]


def test_a_key_holder_sees_models_without_their_upstreams(served: Proxy) -> None:
    page = holder(served).page("models?project=other")
    shown = rows(page)
    assert list(shown) == ["first", "broken"]
    assert "100%" in shown["first"]
    assert "cooling" in shown["broken"]
    for word in (
        "upstream-of-first",
        "second-of-first",
        "mock",
        "http_500",
        "hidden",
        "off",
        "Probe",
        "#1",
        "#2",
    ):
        assert word not in " ".join(f"{name} {rest}" for name, rest in shown.items()), word


@each(("deployment", "says"), [("first#1", "works"), ("broken#1", "fails")])
def test_a_probe_asks_one_deployment(served: Proxy, deployment: str, says: str) -> None:
    before = len(served.rows())
    browser = operator(served)
    part = browser.post("models/probe", {"deployment": deployment}, **{"hx-request": "true"})
    assert part.status_code == 200
    assert "<html" not in part.text
    assert says in part.text
    whole = browser.post("models/probe", {"deployment": deployment})
    assert f"{deployment}: {says}" in Html(whole.text).words
    assert len(served.rows()) == before, "it is no request of a key"


@each("deployment", ["", "none#1", "off#1", "first", "<b>"])
def test_only_enabled_deployments_are_probed(served: Proxy, deployment: str) -> None:
    assert operator(served).post("models/probe", {"deployment": deployment}).status_code == 404
    assert holder(served).post("models/probe", {"deployment": "first#1"}).status_code == 404


# --- settings of clients -------------------------------------------------------------------------------


@each("block", [block for client in CLIENTS for block in client.blocks if block.name])
def test_the_settings_are_those_of_the_documentation(block: Block) -> None:
    documented = SNIPPETS[block.name]
    text = block.text.replace(BASE, ADDRESS).replace(KEY, DOCS_KEY).replace(MODEL, DOCS_MODEL)
    assert text == documented.text
    assert block.file == (f"~/{documented.file}" if documented.file else None)


@each("client", [client.id for client in CLIENTS])
def test_each_client_has_settings_with_the_address_and_a_model(served: Proxy, client: str) -> None:
    page = operator(served).page(f"connect?tool={client}&model=hidden")
    assert "hidden" in page.text
    assert f"{served.url}/v1" in page.text


def test_a_key_holder_is_offered_the_models_of_the_key(served: Proxy) -> None:
    page = holder(served).page("connect?model=hidden&tool=nonsense")
    assert "hidden" not in page.text
    assert "export ANTHROPIC_MODEL=first" in page.text
    assert served.key not in page.source
    assert f"{served.key[:10]}" in page.text


def test_the_last_request_turns_up(served: Proxy) -> None:
    browser = holder(served)
    served.chat(model="first", max_tokens=16).raise_for_status()
    part = browser.get("connect", **{"hx-request": "true"})
    assert "<html" not in part.text
    words = Html(part.text).words
    assert re.match(r"Last request with this key: \d+ s ago, 200, first\. Look", words)
    fresh = holder(served, served.new_key("web")["key"])
    assert "No request has arrived yet." in fresh.page("connect").words
