"""No page, header, stream, export or log line has a secret, and no page has a script, style or handler of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx2
import pytest

from codellama_proxy.web.ui.sessions import COOKIE
from tests.support.browsing import Browser, Html, holder, operator
from tests.support.cases import each
from tests.support.processes import free_port
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config

PROVIDER_KEY = "sk-upstream-0a1b2c3d4e5f6a7b8c9d"
LITERAL_KEY = "sk-literal-00112233445566778899aabb"
HEADER = "header-value-5544332211aabbccdd"
ADDRESS = f"http://127.0.0.1:{free_port()}/secret-path-of-the-upstream/v1"
PATHS = (
    *("overview", "overview?by=key&range=30d", "requests", "requests?status=error", "requests/{request_id}"),
    *("requests.csv", "spend.csv", "live?since=x", "models", "keys", "keys/{key_id}", "budgets"),
    *(
        "connect",
        "connect?tool=codex",
        "playground",
        "playground/{request_id}",
        "config",
        "nothing",
        "sign-in",
    ),
)


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    text = config(
        {"name": "good", "provider": "mock"},
        {
            "name": "remote",
            "provider": "openai_compatible",
            "model": "m",
            "base_url": ADDRESS,
            "api_key": "${REMOTE_KEY}",
            "headers": {"x-secret": "${REMOTE_HEADER}"},
            "price": {"input": 1, "output": 1},
        },
        {"name": "literal", "provider": "openai", "model": "gpt-4.1", "api_key": LITERAL_KEY},
        tracking={"requests": {"content": True}},
    )
    env = {"REMOTE_KEY": PROVIDER_KEY, "REMOTE_HEADER": HEADER}
    proxy = module_proxy(text, env=env, allow=("plain text",))
    proxy.row(proxy.chat(model="good").headers["x-request-id"])
    proxy.row(proxy.chat(model="remote").headers["x-request-id"])
    return proxy


@pytest.fixture(scope="module")
def browsers(served: Proxy) -> tuple[Browser, Browser]:
    return operator(served), holder(served)


def beginning(browser: Browser, path: str) -> tuple[httpx2.Headers, str]:
    """The headers and the first second of a body."""
    with browser.client.stream("GET", browser.address(path)) as answer:
        if path.startswith("live"):
            return answer.headers, "".join(
                line for line, _ in zip(answer.iter_lines(), range(4), strict=False)
            )
        return answer.headers, answer.read().decode()


def secrets_of(served: Proxy, browser: Browser) -> Mapping[str, str]:
    return {
        "the provider's key": PROVIDER_KEY,
        "a key in the file": LITERAL_KEY,
        "a header's value": HEADER,
        "the master key": ADMIN,
        "a virtual key": served.key,
        "the session": browser.client.cookies[COOKIE],
    }


@each("path", PATHS)
def test_no_answer_has_a_secret(served: Proxy, browsers: tuple[Browser, Browser], path: str) -> None:
    request_id = served.rows(project="default")[0]["request_id"]
    address = path.format(request_id=request_id, key_id=served.key_id)
    for browser in browsers:
        secrets = dict(secrets_of(served, browser))
        headers, body = beginning(browser, address)
        shown = str([pair for pair in headers.multi_items() if pair[0] != "set-cookie"]) + body
        for name, secret in secrets.items():
            assert secret not in shown, (name, path)
        if browser is browsers[1]:
            assert "secret-path-of-the-upstream" not in shown
            assert str(ADDRESS.rpartition(":")[2].partition("/")[0]) not in Html(body).text


def test_no_log_line_has_a_secret(served: Proxy, browsers: tuple[Browser, Browser]) -> None:
    for browser in browsers:
        for secret in secrets_of(served, browser).values():
            assert secret not in served.log()


@each("path", [path for path in PATHS if not path.startswith(("live", "spend", "requests.csv"))])
def test_no_page_has_a_script_style_or_handler_of_its_own(
    served: Proxy, browsers: tuple[Browser, Browser], path: str
) -> None:
    request_id = served.rows(project="default")[0]["request_id"]
    address = path.format(request_id=request_id, key_id=served.key_id)
    for browser in browsers:
        answer = browser.get(address)
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert list(inline(Html(answer.text))) == []


def inline(page: Html) -> Iterator[str]:
    """What the policy forbids, and addresses of other hosts that would be loaded."""
    for tag, attributes in page.tags:
        if tag == "style" or (tag == "script" and not attributes.get("src")):
            yield tag
        for name, value in attributes.items():
            loads = name == "src" or (name == "href" and tag == "link")
            if name == "style" or name.startswith(("on", "hx-on")) or (loads and "//" in (value or "")):
                yield f"{tag} {name}"
