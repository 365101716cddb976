"""Every page behind a reverse proxy that removes a prefix: all links stay under it and lead somewhere.

And the crawl looks for what must be in no page: secrets, and markup out of names.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest

from tests.support.browsing import Browser, Html, holder, operator
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config

PREFIX = "/llm"
HOST = "http://llm.example"
PROVIDER_KEY = "sk-of-a-provider-0123456789abcdef"
PROJECTS = {"web": {}}


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    models = (
        {"name": "plain", "provider": "mock", "price": {"input": 1, "output": 1}},
        {
            "name": "hidden",
            "provider": "openai",
            "api_key": PROVIDER_KEY,
            "base_url": "https://upstream.invalid/v1",
        },
    )
    served = module_proxy(config(*models, projects=PROJECTS), project="web")
    served.chat(model="plain", user='"><b id=xss>', prompt="<b id=xss>").raise_for_status()
    served.new_key("web", name='<script id=xss>"')
    return served


class Prefixed:
    """A browser that knows the proxy under a prefix, and follows nothing outside of it."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def get(self, url: str) -> httpx2.Response:
        parts = urlsplit(url)
        assert f"{parts.scheme}://{parts.netloc}" == HOST, url
        assert parts.path == PREFIX or parts.path.startswith(f"{PREFIX}/"), url
        path = parts.path.removeprefix(PREFIX) or "/"
        headers = {"host": "llm.example", "accept": "text/html"}
        with self._browser.client.stream(
            "GET", f"{path}?{parts.query}" if parts.query else path, headers=headers
        ) as answer:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                answer.read()
            return answer

    def crawl(self, start: str) -> Iterator[tuple[str, httpx2.Response]]:
        todo, seen = [start], {start}
        while todo:
            url = todo.pop(0)
            answer = self.get(url)
            yield url, answer
            if answer.status_code == 303:
                found = [answer.headers["location"]]
            elif answer.headers.get("content-type", "").startswith("text/html"):
                found = addresses(Html(answer.text))
            else:
                found = []
            for link in found:
                absolute = urljoin(url, link).partition("#")[0]
                if like(absolute) not in seen:
                    seen.add(like(absolute))
                    todo.append(absolute)


def like(url: str) -> str:
    """The same for addresses that differ in the values of their parameters only."""
    parts = urlsplit(url)
    return f"{parts.path}?{'&'.join(sorted(parse_qs(parts.query, keep_blank_values=True)))}"


def addresses(page: Html) -> list[str]:
    """Of links, scripts, styles, and parts that are loaded later. Forms are sent by other tests."""
    names = ("href", "src", "hx-get", "data-live")
    return [value for _, found in page.tags for name in names if (value := found.get(name))]


@pytest.fixture(params=["operator", "holder", "nobody"])
def browser(request: pytest.FixtureRequest, served: Proxy) -> Browser:
    return {"operator": operator, "holder": holder, "nobody": Browser}[request.param](served)


def test_every_link_stays_under_the_prefix_and_leads_somewhere(served: Proxy, browser: Browser) -> None:
    session = browser.client.cookies.get("proxy_session")
    count = 0
    for url, answer in Prefixed(browser).crawl(f"{HOST}{PREFIX}/ui"):
        assert answer.status_code in (200, 303), (url, answer.status_code)
        count += 1
        kind = answer.headers.get("content-type", "")
        if kind.startswith("text/event-stream"):
            continue
        shown = answer.text + str(answer.headers)
        for secret in (ADMIN, served.key, PROVIDER_KEY, *([session] if session else [])):
            assert secret not in shown or (secret == session and "set-cookie" in answer.headers), url
        if kind.startswith("text/html"):
            assert not [tag for tag, found in Html(answer.text).tags if found.get("id") == "xss"], url
        if browser.client.cookies and "config" not in url:
            assert "upstream.invalid" not in shown, url
    assert count > (20 if session else 5)


def test_the_forms_lead_to_pages_that_exist(served: Proxy) -> None:
    for browser, start in (
        (operator(served), "keys?new=1"),
        (operator(served), "models"),
        (holder(served), "overview"),
    ):
        base = f"{HOST}{PREFIX}/ui/{start}"
        page = Html(Prefixed(browser).get(base).text)
        for form in page.all("form"):
            address = urlsplit(urljoin(base, str(form["action"])))
            assert address.path.startswith(f"{PREFIX}/ui/")
            answer = browser.client.request(
                str(form["method"]).upper(),
                address.path.removeprefix(PREFIX),
                headers={"sec-fetch-site": "cross-site"},
            )
            assert answer.status_code in (200, 303) if form["method"] == "get" else answer.status_code == 403
