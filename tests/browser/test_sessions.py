"""How a session begins and ends in a browser, and what other sites cannot do with it."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import People
from tests.support.cases import each
from tests.support.chromium import PLAIN_HTTP_NAME
from tests.support.person import Person
from tests.support.prefix_relay import PrefixRelay
from tests.support.processes import until
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config

MODEL = {"name": "plain", "provider": "mock", "price": {"input": 1, "output": 1}}


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    served = module_proxy(config(MODEL), project="web")
    served.chat().raise_for_status()
    return served


def is_signed_out(one: Person) -> None:
    one.page.wait_for_url(re.compile(r"/ui/sign-in"))
    expect(one.page.get_by_label("Your key")).to_be_focused()


def test_signs_in_with_the_keyboard_only(served: Proxy, people: People) -> None:
    anna = people(served).may_see_status(401)
    anna.visit("requests?status=error")
    is_signed_out(anna)  # the field is focused: nothing has to be clicked
    anna.page.keyboard.type("sk-wrong")
    anna.page.keyboard.press("Enter")
    expect(anna.page.get_by_role("alert")).to_contain_text("not known")
    expect(anna.page.get_by_label("Your key")).to_have_attribute("aria-invalid", "true")
    expect(anna.page.get_by_label("Your key")).to_be_focused()
    anna.page.keyboard.type(ADMIN)
    anna.page.keyboard.press("Enter")
    anna.page.wait_for_url(re.compile(r"/ui/requests\?status=error$"))  # the page that was wanted
    anna.page.keyboard.press("Tab")
    expect(anna.page.get_by_role("link", name="Skip to content")).to_be_focused()
    anna.page.keyboard.press("Enter")
    expect(anna.page.locator("#main")).to_be_focused()


def test_signing_out_ends_the_session_and_the_back_button_shows_nothing(
    served: Proxy, people: People
) -> None:
    anna = people(served, ADMIN)
    anna.follow("Keys")
    cookies = anna.context.cookies()
    anna.page.get_by_role("button", name="Sign out").click()
    is_signed_out(anna)
    anna.page.go_back()
    is_signed_out(anna)
    anna.context.add_cookies(cookies)  # the old one is worth nothing
    anna.visit("keys")
    is_signed_out(anna)


def test_a_session_has_no_readable_cookie_and_stores_no_key(served: Proxy, people: People) -> None:
    carmen = people(served).sign_in(served.key)
    assert carmen.page.evaluate("document.cookie") == ""
    assert carmen.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])") == "[{},{}]"
    (cookie,) = carmen.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/ui")
    assert served.key not in carmen.page.content()
    answer = carmen.context.request.get(f"{served.url}/v1/models")  # the API knows no cookies
    assert answer.status == 401


def test_blocking_a_key_ends_its_session_at_once(served: Proxy, people: People) -> None:
    made = served.new_key("web", name="carmen")
    carmen = people(served, made["key"]).may_see_status(401)
    carmen.visit("connect")  # asks for the last request every five seconds
    served.admin("POST", "/key/block", json={"key_id": made["key_id"]}).raise_for_status()
    # This process made the change, so nothing has to notice it.
    assert carmen.context.request.get(carmen.start + "keys", max_redirects=0).status == 303
    is_signed_out(carmen)  # by itself: the page notices


def test_a_session_that_was_not_used_expires(proxy: ProxyFactory, people: People) -> None:
    served = proxy(config(MODEL, ui={"session": "4s"}))
    anna = people(served, ADMIN)
    until(lambda: not anna.context.cookies(), "the cookie expires")
    anna.visit("models")
    is_signed_out(anna)


def test_a_changed_master_key_ends_the_operators_session_and_no_other(
    proxy: ProxyFactory, people: People
) -> None:
    served = proxy(config(MODEL))
    anna, carmen = people(served, ADMIN), people(served, served.key)
    served.stop()
    again = proxy(
        config(MODEL), database=served.database, env={"PROXY_MASTER_KEY": "another-" + ADMIN}, key=served.key
    )
    for one in (anna, carmen):
        one.start = f"{again.url}/ui/"  # cookies do not know ports
        one.visit("models")
    is_signed_out(anna)
    assert carmen.path == "models"


def test_no_change_comes_from_another_site(served: Proxy, people: People) -> None:
    anna = people(served, ADMIN).may_see_status(403)
    key = served.new_key("web", name="target")["key_id"]
    form = f"""<form method=post action="{anna.start}keys/{key}/block"><button>Win</button></form>"""
    with elsewhere(form) as address:
        anna.page.goto(address)
        anna.page.get_by_role("button", name="Win").click()
        anna.page.wait_for_url(re.compile(r"/ui/"))
        # The cookie does not come along, and if it did, the browser tells where the form was.
        expect(anna.page.get_by_role("heading", name="Refused")).to_be_visible()
        expect(anna.page.get_by_role("alert")).to_contain_text("Nothing was changed")
    (found,) = [one for one in served.admin("GET", "/key/list").json()["data"] if one["key_id"] == key]
    assert not found["blocked"]


def test_a_link_from_another_site_leads_to_the_filtered_page_signed_in(served: Proxy, people: People) -> None:
    anna = people(served, ADMIN)
    with elsewhere(
        f'<a href="{anna.start}requests?project=web&amp;status=ok">what went wrong</a>'
    ) as address:
        anna.page.goto(address)
        anna.page.get_by_role("link", name="what went wrong").click()
        expect(anna.page.get_by_role("heading", name="Requests")).to_be_visible()
        assert anna.path == "requests?project=web&status=ok"


def test_a_plain_http_name_works_and_another_host_is_named_in_the_refusal(
    served: Proxy, people: People
) -> None:
    """Browsers send no Sec-Fetch-Site to it, and give pages no clipboard."""
    anna = people(f"http://{PLAIN_HTTP_NAME}:{served.port}").sign_in(ADMIN)
    anna.visit("connect")
    copy = anna.page.locator("[data-copy='#base']")
    copy.click()
    expect(copy).to_have_text("Copied")
    assert anna.page.evaluate("window.isSecureContext") is False
    rewriting = PrefixRelay(served.port, "", host="127.0.0.1:1")
    with rewriting.running() as port:
        visitor = people(f"http://{PLAIN_HTTP_NAME}:{port}").may_see_status(403)
        visitor.visit("sign-in")
        visitor.page.keyboard.type(ADMIN)
        visitor.page.keyboard.press("Enter")
        expect(visitor.page.get_by_role("alert")).to_contain_text("must pass the Host header on unchanged")


def test_works_behind_a_proxy_that_removes_a_prefix(served: Proxy, people: People) -> None:
    with PrefixRelay(served.port, "/llm").running() as port:
        anna = people(f"http://127.0.0.1:{port}/llm").sign_in(ADMIN)
        for name in ("Requests", "Models", "Keys", "Budgets", "Playground", "Connect", "Configuration"):
            anna.follow(name)
            assert anna.page.url.startswith(anna.start)
        anna.follow("Connect")
        expect(anna.page.locator("#base")).to_have_text(f"http://127.0.0.1:{port}/llm/v1")
        anna.follow("Requests")
        answer = served.chat(user="through-the-relay")
        row = anna.page.locator(f"#{served.row(answer.headers['x-request-id'])['request_id']}")
        expect(row).to_be_visible()  # rows appear by themselves here, too
        row.get_by_role("link").click()
        expect(anna.page.get_by_role("heading", name="What happened")).to_be_visible()
        anna.page.get_by_role("link", name="through-the-relay").click()
        assert anna.path == "requests?user=through-the-relay"
        anna.page.get_by_role("button", name="Sign out").click()
        is_signed_out(anna)
        assert anna.path == "sign-in"


@each("theme", ["dark", "light"])
def test_a_chosen_theme_is_there_from_the_first_byte(served: Proxy, people: People, theme: str) -> None:
    anna = people(served, ADMIN, color_scheme="light" if theme == "dark" else "dark")
    anna.visit("connect")
    button = anna.page.locator("[data-theme-next]")
    while button.text_content() != theme:
        button.click()
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    chosen = anna.page.evaluate(ground)
    answer = anna.visit("models")
    assert f'data-theme="{theme}"' in answer.text()
    assert anna.page.evaluate(ground) == chosen
    other = people(served, ADMIN, color_scheme="light" if theme == "dark" else "dark")
    other.visit("models")
    assert other.page.evaluate(ground) != chosen


def test_times_can_be_those_of_the_reader(served: Proxy, people: People) -> None:
    anna = people(served, ADMIN)  # in Kolkata, at +05:30
    anna.follow("Requests")
    first = anna.page.locator("#rows time").first
    moment, utc = first.get_attribute("datetime"), first.text_content()
    assert moment is not None
    anna.page.locator("[data-zone]").click()
    expect(anna.page.locator("[data-zone]")).to_have_text("local")
    local = anna.page.evaluate(
        "at => new Intl.DateTimeFormat('en-GB', {timeZone: 'Asia/Kolkata', timeStyle: 'medium'}).format(new Date(at))",
        moment,
    )
    expect(first).to_have_text(local)
    assert local != utc
    expect(first).to_have_attribute("title", re.compile(r" UTC$"))


class elsewhere:  # noqa: N801 - reads as a sentence
    """Another site, with one page."""

    def __init__(self, body: str) -> None:
        page = f"<!doctype html><title>Elsewhere</title><link rel=icon href='data:,'>{body}".encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> str:
        return f"http://localhost:{self._server.server_port}/"  # another site than 127.0.0.1

    def __exit__(self, *failure: object) -> None:
        self._server.shutdown()
        self._server.server_close()
