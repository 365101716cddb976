"""Changes are accepted from our own pages only; and the headers of every answer."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import codellama_proxy.web.ui as ui_package
from codellama_proxy.web.ui.origin import refusal
from tests.support.browsing import Browser, operator
from tests.support.cases import each
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config

PACKAGE = Path(ui_package.__file__ or "").parent


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config({"name": "plain", "provider": "mock"}, server={"cors_origins": ["*"]}))


@each(
    ("headers", "accepted"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "http://evil.example", "host": "a"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://a", "host": "a"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({}, False),
        ({"host": "a"}, False),
        ({"origin": "null", "host": "null"}, False),
        ({"origin": "http://a:4000", "host": "a:4000"}, True),
        ({"origin": "http://A.example", "host": "a.example:80"}, True),
        ({"origin": "https://a.example", "host": "a.example:443"}, True),
        ({"origin": "https://a.example:443", "host": "a.example"}, True),
        ({"origin": "http://a.example", "host": "a.example:4000"}, False),
        ({"origin": "http://a.example:4001", "host": "a.example:4000"}, False),
        ({"origin": "http://evil.example", "host": "a.example"}, False),
        ({"origin": "http://[::1", "host": "[::1"}, False),
        ({"origin": "", "host": ""}, False),
    ],
)
def test_a_change_must_come_from_our_own_page(headers: dict[str, str], accepted: bool) -> None:
    assert (refusal(headers) is None) is accepted


def test_a_refusal_names_both_hosts_and_what_to_set(served: Proxy) -> None:
    answer = Browser(served).client.post(
        "/ui/sign-in", data={"secret": ADMIN}, headers={"origin": "http://llm.example"}
    )
    assert answer.status_code == 403
    assert "http://llm.example" in answer.text
    assert f"127.0.0.1:{served.port}" in answer.text
    assert "proxy_set_header Host $http_host;" in answer.text
    assert "set-cookie" not in answer.headers


@each("path", ["sign-in", "sign-out"])
@each("site", ["cross-site", "same-site", "none"])
def test_nothing_happens_on_behalf_of_another_site(served: Proxy, path: str, site: str) -> None:
    browser = operator(served)
    answer = browser.post(path, {"secret": ADMIN}, **{"sec-fetch-site": site})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert browser.get("nothing").status_code == 404, "still signed in"


# --- headers -------------------------------------------------------------------------------------------


@each("path", ["", "sign-in", "overview", "nothing", "static/x/y.js", "requests/req_0", "keys/a/b/c"])
@each("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_every_answer_has_the_security_headers(served: Proxy, path: str, method: str) -> None:
    for browser in (Browser(served), operator(served)):
        answer = browser.client.request(method, f"/ui/{path}", headers={"origin": "http://other.example"})
        assert answer.status_code < 500
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert not [name for name in answer.headers if name.startswith("access-control")]


class Inline(HTMLParser):
    """What a strict content security policy would block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.found += [name for name in names if name == "style" or name.startswith(("on", "hx-on"))]
        self.found += [tag] * (tag in ("style", "iframe", "object", "embed"))
        self.found += [tag] * (tag == "script" and "src" not in names)
        self.found += [
            str(value) for value in names.values() if value and value.strip().startswith("javascript:")
        ]
        self.found += [
            str(value) for name, value in attrs if name.startswith("hx-") and "js:" in (value or "")
        ]


@each("template", sorted(PACKAGE.glob("templates/*.html")))
def test_templates_have_nothing_inline(template: Path) -> None:
    inline = Inline()
    inline.feed(re.sub(r"{%.*?%}", "", template.read_text()))
    assert inline.found == []


def test_the_check_finds_what_is_inline() -> None:
    inline = Inline()
    inline.feed('<p style="a" onclick="b" hx-on:click="c"><script>d</script><a href="javascript:e">f</a>')
    assert len(inline.found) == 5
