"""GET /: a page for browsers, JSON for everything else."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urljoin

import pytest

from codellama_proxy import __version__
from codellama_proxy.web.welcome.root import prefers_html
from tests.support.browsing import Html
from tests.support.cases import each
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
SECRET = "sk-of-a-provider-0123456789"
NAME = {"name": "codellama-proxy", "version": __version__, "docs": "/openapi.json"}


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    hidden = {
        "name": "hidden",
        "provider": "openai",
        "api_key": SECRET,
        "base_url": "https://upstream.invalid/v1",
    }
    return module_proxy(config({"name": "plain", "provider": "mock"}, hidden))


def page(served: Proxy, path: str = "/", **headers: str) -> Html:
    answer = served.client.get(path, headers={"accept": BROWSER, **headers})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Html(answer.text)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "", "text/html;q=0"])
@pytest.mark.parametrize("path", ["/", "/v1", "/v1/"])
def test_programs_get_json(served: Proxy, path: str, accept: str) -> None:
    answer = served.client.get(path, headers={"accept": accept})
    assert answer.json() == NAME
    assert answer.headers["vary"] == "accept"
    assert served.client.get(NAME["docs"]).status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/"])
def test_browsers_get_a_page_with_the_status_and_the_base_url(served: Proxy, path: str) -> None:
    shown = page(served, path)
    assert "Ready." in shown.text
    assert __version__ in shown.text
    assert f"{served.url}/v1" in shown.text
    assert "Dashboard" in shown.text


def test_the_page_has_no_script_and_no_inline_style(served: Proxy) -> None:
    answer = served.client.get("/", headers={"accept": BROWSER})
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    for tag, attributes in Html(answer.text).tags:
        assert tag not in ("script", "style", "iframe", "img", "form")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_every_link_of_the_page_leads_somewhere(served: Proxy) -> None:
    for path in ("/", "/v1", "/v1/"):
        shown = page(served, path)
        links = [
            value for _, found in shown.tags for name, value in found.items() if name == "href" and value
        ]
        assert len(links) == 3
        for link in links:
            assert served.client.get(urljoin(path, link)).status_code in (200, 303), (path, link)
    style = served.client.get("/welcome.css")
    assert style.headers["content-type"] == "text/css; charset=utf-8"


def test_the_page_shows_no_secret_and_no_model(served: Proxy) -> None:
    answer = served.client.get("/", headers={"accept": BROWSER, "authorization": f"Bearer {ADMIN}"})
    for word in (SECRET, ADMIN, served.key, "upstream.invalid", "hidden"):
        assert word not in answer.text


@each(
    ("headers", "base"),
    [
        ({"host": "llm.example.com"}, "http://llm.example.com"),
        ({"host": "[::1]:4000"}, "http://[::1]:4000"),
        ({"host": "llm.example.com", "x-forwarded-proto": "https"}, "https://llm.example.com"),
        ({"host": "a.example", "x-forwarded-prefix": "/llm/"}, "http://a.example/llm"),
        ({"host": "a.example", "x-forwarded-prefix": '/"><script>'}, "http://a.example"),
        ({"host": "a.example", "x-forwarded-proto": "javascript"}, "http://a.example"),
    ],
)
def test_the_base_url_is_that_of_the_caller(served: Proxy, headers: Any, base: str) -> None:
    shown = page(served, **headers)
    assert f"Base URL{base}/v1" in re.sub(r"\s+", "", shown.text).replace("BaseURL", "Base URL", 1)
    assert "script" not in {tag for tag, _ in shown.tags}


@each(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML ; q=0.5", True),
        ("application/json, text/html;q=0.9", False),
        ("application/json;q=0.8, text/html", True),
        ("text/html;q=0", False),
        ("text/html;q=nonsense", True),
        ("*/*", False),
        ("text/*", False),
        (",;,=", False),
        ("", False),
    ],
)
def test_the_accept_header_decides(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


def test_a_404_and_a_405_say_what_to_do(served: Proxy) -> None:
    missing = served.client.get("/nothing/here").json()["error"]["message"]
    assert "Open / in a browser to see how to connect" in missing
    wrong = served.client.post("/", json={}).json()["error"]["message"]
    assert "only GET" in wrong
