"""Sign-in, cookies, and everything that ends a session."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx2
import pytest

from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.web.ui.assets import assets
from tests.support.browsing import Browser, holder, operator
from tests.support.cases import each
from tests.support.processes import until
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config, keys
from tests.support.raw_http import Wire, request

PLAIN = config({"name": "plain", "provider": "mock"})
UNKNOWN = "sk-" + "x" * 43


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(PLAIN)


def is_signed_in(browser: Browser) -> bool:
    return browser.get("nothing").status_code == 404


def change_row(proxy: Proxy, sql: str, *values: object) -> None:
    with closing(connect(proxy.database)) as db:
        assert db.execute(sql, values).rowcount


def seen_seconds_ago(proxy: Proxy) -> float:
    """Of the only session."""
    with closing(sqlite3.connect(f"file:{proxy.database}?mode=ro", uri=True)) as db:
        ((seen_at,),) = db.execute("select seen_at from ui_sessions").fetchall()
    return time.time() - float(seen_at)


def session_rows(proxy: Proxy) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{proxy.database}?mode=ro", uri=True)) as db:
        return db.execute("select * from ui_sessions").fetchall()


# --- signing in ----------------------------------------------------------------------------------------


@each("secret_of", [lambda _: ADMIN, lambda proxy: proxy.key])
def test_a_right_key_leads_to_the_page_that_was_wanted(
    served: Proxy, secret_of: Callable[[Proxy], str]
) -> None:
    browser = Browser(served)
    refused = browser.get("requests?project=web&status=error")
    assert refused.status_code == 303
    assert refused.headers["location"] == "sign-in?next=requests%3Fproject%3Dweb%26status%3Derror"
    assert 'value="requests?project=web&amp;status=error"' in browser.get(refused.headers["location"]).text
    wanted = {"secret": f"  {secret_of(served)} ", "next": "requests?project=web&status=error"}
    answer = browser.post("sign-in", wanted)
    assert answer.status_code == 303
    assert answer.headers["location"] == "requests?project=web&status=error"
    assert is_signed_in(browser)


@each(
    "wanted",
    [
        *(
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "javascript:alert(1)",
            "\\evil",
            "/ui/keys",
        ),
        *(
            "../v1/models",
            "keys/../../v1",
            "keys//evil",
            "keys\r\nset-cookie: a=b",
            "k" * 3000,
            " keys",
            "KEYS?é",
        ),
    ],
)
def test_next_leads_to_pages_of_the_dashboard_only(served: Proxy, wanted: str) -> None:
    answer = Browser(served).post("sign-in", {"secret": served.key, "next": wanted})
    assert answer.headers["location"] in ("overview", "keys")


def test_the_database_has_only_hashes(served: Proxy) -> None:
    browser = holder(served)
    session_id = browser.client.cookies["proxy_session"]
    stored = str(session_rows(served))
    assert session_id not in stored
    assert served.key not in stored
    assert ADMIN not in stored
    assert session_id not in served.log()


@each(
    ("headers", "secure"),
    [
        ({"origin": "http://llm.example"}, False),
        ({"origin": "https://llm.example"}, True),
        ({"x-forwarded-proto": "https"}, True),
        ({"x-forwarded-proto": "http"}, False),
    ],
)
def test_the_cookie_has_strict_flags_and_no_path(
    served: Proxy, headers: dict[str, str], secure: bool
) -> None:
    answer = Browser(served).post("sign-in", {"secret": served.key}, **headers)
    flags = [flag.strip() for flag in answer.headers["set-cookie"].split(";")]
    assert flags[1:4] == ["HttpOnly", "SameSite=Strict", "Max-Age=43200"]
    assert flags[4:] == (["Secure"] if secure else [])


def test_a_new_sign_in_ends_the_session_before(served: Proxy) -> None:
    browser = holder(served)
    before = dict(browser.client.cookies)
    browser.sign_in(ADMIN)
    other = Browser(served)
    other.client.cookies.update(before)
    assert not is_signed_in(other)
    assert is_signed_in(browser)


def test_the_sessions_of_one_key_are_bounded(proxy: ProxyFactory) -> None:
    served = proxy(PLAIN)
    first, boss = holder(served), operator(served)
    with closing(connect(served.database)) as db:
        for number in range(120):
            db.execute(
                "insert into ui_sessions select ?, secret_hash, null, 0, created_at, seen_at + ? "
                "from ui_sessions where secret_hash is not null limit 1",
                (f"id {number}", number + 1),
            )
    holder(served)
    assert len(session_rows(served)) == 101
    assert is_signed_in(boss)
    assert not is_signed_in(first)


@each("secret", [UNKNOWN, "nonsense", "", "x" * 9000, "sk-\0", "Ⅻ"])
def test_unknown_and_malformed_keys_get_the_same_page(served: Proxy, secret: str) -> None:
    answer = Browser(served).post("sign-in", {"secret": secret})
    assert answer.status_code == 401
    assert "This key is not known" in answer.text
    assert "set-cookie" not in answer.headers
    if secret:
        assert secret[:40] not in answer.text


def test_a_blocked_key_is_told_so(served: Proxy) -> None:
    made = served.new_key()
    served.admin("POST", "/key/block", json={"key_id": made["key_id"]}).raise_for_status()
    answer = Browser(served).post("sign-in", {"secret": made["key"]})
    assert answer.status_code == 401
    assert "This API key is blocked." in answer.text


def test_wrong_keys_are_slowed_down_and_a_right_one_never(proxy: ProxyFactory) -> None:
    served = proxy(PLAIN)

    def wrong(_: int) -> int:
        answer = Browser(served).post("sign-in", {"secret": UNKNOWN})
        assert ("retry-after" in answer.headers) == (answer.status_code == 429)
        assert ("retry-after-ms" in answer.headers) == (answer.status_code == 429)
        return answer.status_code

    for _ in range(5):
        wrong(0)
    with ThreadPoolExecutor(20) as pool:
        tries = [pool.submit(wrong, number) for number in range(16)]
        until(lambda: any(one.done() and one.result() == 429 for one in tries), "too many wrong tries")
        started = time.monotonic()
        operator(served)
        assert time.monotonic() - started < 10
        statuses = [one.result() for one in tries]
    assert statuses.count(401) >= 8
    assert set(statuses) == {401, 429}
    metrics = served.admin("GET", "/metrics").text
    assert 'proxy_ui_sign_ins_total{result="invalid_api_key"} 21.0' in metrics
    assert 'proxy_ui_sign_ins_total{result="ok"} 1.0' in metrics
    assert UNKNOWN not in served.log()


def test_a_flood_of_pages_keeps_neither_the_operator_nor_a_sign_in_out(proxy: ProxyFactory) -> None:
    served = proxy(PLAIN)
    cookie = "; ".join(f"{name}={value}" for name, value in holder(served).client.cookies.items())
    waiting = operator(served)

    def flood(cookie: str) -> set[bytes]:
        """Sends all requests at once; a client that waits for answers is too slow on a busy machine."""
        received = b""
        with Wire(served.port, timeout=60) as wire:
            wire.send(request("/ui/nothing", method="GET", cookie=cookie) * 200)
            while received.count(b"HTTP/1.1 ") < 200:
                received += (piece := wire.socket.recv(1 << 20))
                assert piece
        return set(re.findall(rb"HTTP/1.1 (\d+)", received))

    with ThreadPoolExecutor(4) as pool:
        of_strangers = set().union(*pool.map(flood, [""] * 4))
        assert of_strangers == {b"303"}
        until(lambda: b"503" in set().union(*pool.map(flood, [cookie] * 4)), "too many pages", within=100)
        assert waiting.get("overview").status_code == 200
        operator(served)


def test_without_a_master_key_there_is_no_operator(proxy: ProxyFactory) -> None:
    served = proxy(PLAIN, env={"PROXY_MASTER_KEY": ""})
    assert "there is no operator" in Browser(served).get("sign-in").text
    assert is_signed_in(holder(served))
    assert Browser(served).post("sign-in", {"secret": ADMIN}).status_code == 401


def test_a_long_master_key_signs_in(proxy: ProxyFactory) -> None:
    long = "master-" * 100
    served = proxy(PLAIN)
    served.stop()
    served.env = {**served.env, "PROXY_MASTER_KEY": long}
    served.start()
    assert is_signed_in(Browser(served).sign_in(long))


# --- what is no session --------------------------------------------------------------------------------


def test_the_api_does_not_accept_the_cookie(served: Proxy) -> None:
    for browser in (operator(served), holder(served)):
        cookie = f"proxy_session={browser.client.cookies['proxy_session']}"
        for path in ("/key/list", "/spend", "/v1/models", "/health", "/metrics", "/audit"):
            assert httpx2.get(served.url + path, headers={"cookie": cookie}).status_code == 401
        asked = httpx2.post(
            served.url + "/v1/chat/completions", headers={"cookie": cookie}, json={"prompt": "a"}
        )
        assert asked.status_code == 401


@each("session_id", ["", "x" * 43, "x" * 5000, "é", '"; drop'])
def test_a_made_up_session_is_none(served: Proxy, session_id: str) -> None:
    cookie = f"proxy_session={session_id}".encode()
    answer = Browser(served).client.get("/ui/overview", headers=[(b"cookie", cookie)])
    assert answer.status_code == 303


def test_a_link_from_elsewhere_loads_itself_again_with_the_cookie(served: Proxy) -> None:
    answer = Browser(served).get("overview", **{"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0">' in answer.text
    answer = Browser(served).get("overview", **{"sec-fetch-site": "none"})
    assert answer.status_code == 303


def test_a_part_of_a_page_asks_for_the_whole_page_when_signed_out(served: Proxy) -> None:
    answer = Browser(served).get("overview", **{"hx-request": "true"})
    assert answer.status_code == 401
    assert answer.headers["hx-refresh"] == "true"


# --- what ends one -------------------------------------------------------------------------------------


def test_signing_out_ends_the_session(served: Proxy) -> None:
    browser = operator(served)
    before = dict(browser.client.cookies)
    answer = browser.post("sign-out")
    assert answer.headers["location"] == "sign-in"
    assert "Max-Age=0" in answer.headers["set-cookie"]
    browser.client.cookies.update(before)
    assert not is_signed_in(browser)


def test_a_session_survives_a_restart(proxy: ProxyFactory) -> None:
    served = proxy(PLAIN)
    cookies = [dict(browser.client.cookies) for browser in (operator(served), holder(served))]
    served.stop()
    served.start()
    for one in cookies:
        browser = Browser(served)
        browser.client.cookies.update(one)
        assert is_signed_in(browser)


def test_another_master_key_ends_the_operators_sessions_only(proxy: ProxyFactory) -> None:
    served = proxy(PLAIN)
    cookies = [dict(browser.client.cookies) for browser in (operator(served), holder(served))]
    served.stop()
    served.env = {"PROXY_MASTER_KEY": "another-" + ADMIN}
    served.start()
    found = []
    for one in cookies:
        browser = Browser(served)
        browser.client.cookies.update(one)
        found.append(is_signed_in(browser))
    assert found == [False, True]


@each("arguments", [("block",), ("rotate",), ("delete",)])
def test_a_change_of_the_key_by_another_process_ends_its_sessions(
    served: Proxy, arguments: tuple[str, ...]
) -> None:
    made = served.new_key()
    browser = holder(served, made["key"])
    assert is_signed_in(browser)
    command, *options = arguments
    keys(served.database, command, made["key_id"], *options)
    until(lambda: not is_signed_in(browser), "the session has ended")


def test_a_rotated_key_stays_signed_in_during_the_overlap(served: Proxy) -> None:
    made = served.new_key()
    browser = holder(served, made["key"])
    rotate = {"key_id": made["key_id"], "overlap": "4s"}
    served.admin("POST", "/key/regenerate", json=rotate).raise_for_status()
    assert is_signed_in(browser)
    until(lambda: not is_signed_in(browser), "the overlap is over")


def test_a_key_that_expires_ends_its_sessions(served: Proxy) -> None:
    browser = holder(served, served.new_key(duration="4s")["key"])
    assert is_signed_in(browser)
    until(lambda: not is_signed_in(browser), "the key has expired")


def test_a_session_ends_without_use_and_when_it_is_old(served: Proxy) -> None:
    for column, age in (("seen_at", 12 * 3600 + 5), ("created_at", 7 * 86400 + 5)):
        browser = operator(served)
        assert is_signed_in(browser)
        change_row(served, f"update ui_sessions set {column} = {column} - ?", age)
        assert not is_signed_in(browser)


def test_use_prolongs_a_session(proxy: ProxyFactory) -> None:
    served = proxy(config({"name": "plain", "provider": "mock"}, ui={"session": "1h"}))
    browser = operator(served)
    for _ in range(3):  # two hours and a half
        change_row(served, "update ui_sessions set seen_at = seen_at - 3000")
        assert browser.get("overview").status_code == 200
        until(lambda: seen_seconds_ago(served) < 1000, "the use is recorded")
    change_row(served, "update ui_sessions set seen_at = seen_at - 3601")
    assert not is_signed_in(browser)


# --- switching it off ----------------------------------------------------------------------------------


def test_the_dashboard_can_be_switched_off_while_it_runs(proxy: ProxyFactory) -> None:
    served = proxy(PLAIN)
    browser = operator(served)
    served.save(config({"name": "plain", "provider": "mock"}, ui={"enabled": False}))
    until(lambda: browser.get("nothing").headers["content-type"] == "application/json", "it is off")
    style = next(iter(assets().values())).path
    for path in ("/ui", "/ui/", "/ui/overview", "/ui/sign-in", f"/ui/{style}"):
        answer = served.client.get(path)
        assert answer.status_code == 404
        assert "ui.enabled: false" in answer.json()["error"]["message"]
    page = served.client.get("/", headers={"accept": "text/html"})
    assert "The dashboard is off" in page.text
