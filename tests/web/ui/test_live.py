"""Rows that appear by themselves: in order, in the filter, in the project, until the stream has to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from codellama_proxy.web.ui.pages.live import KEPT_STREAMS, MAX_ROWS, MAX_STREAMS
from tests.support.browsing import Browser, Html, holder, operator
from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config

MODEL = {"name": "good", "provider": "mock"}


class Message(NamedTuple):
    event: str
    id: str
    data: str

    @property
    def rows(self) -> list[str]:
        return [row["id"] or "" for row in Html(f"<table>{self.data}</table>").all("tr")]


class Listener:
    """Reads a stream on a thread."""

    def __init__(self, browser: Browser, path: str, headers: dict[str, str]) -> None:
        self.messages: list[Message] = []
        self.ended = threading.Event()
        self.status = 0
        self._browser, self._path, self._headers = browser, path, headers
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        address = self._browser.address(self._path)
        with self._browser.client.stream("GET", address, headers=self._headers) as answer:
            self.status = answer.status_code
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = f"{fields[name]}\n{value}" if name in fields else value
                else:
                    if "event" in fields:
                        self.messages.append(
                            Message(fields["event"], fields.get("id", ""), fields.get("data", ""))
                        )
                    fields = {}
        self.ended.set()

    def ids(self) -> list[str]:
        return [row for message in self.messages if message.event == "rows" for row in message.rows]


def since(browser: Browser, query: str = "") -> str:
    """The address of the stream of a list that was just read."""
    page = browser.page(f"requests{query}")
    (results,) = [one for one in page.all("div") if one.get("id") == "results"]
    assert results["data-live"]
    return results["data-live"]


def mark_of(stream: str) -> str:
    """The place that a stream's address begins at."""
    return parse_qs(urlsplit(stream).query)["since"][0]


@contextmanager
def listening(browser: Browser, path: str, **headers: str) -> Iterator[Listener]:
    listener = Listener(browser, path, headers)
    until(lambda: listener.status, "the stream is open")
    yield listener


@pytest.fixture
def served(proxy: ProxyFactory) -> Proxy:
    return proxy(config(MODEL))


def test_rows_appear_once_they_begin_and_end(served: Proxy) -> None:
    browser = operator(served)
    with listening(browser, since(browser)) as listener:
        sent = [served.chat(model="good").headers["x-request-id"] for _ in range(3)]
        until(lambda: set(listener.ids()) == set(sent), "all rows")
        until(lambda: "running" not in listener.messages[-1].data, "the last one ended")
        # Links of rows are relative to the page that they are put into.
        links = [link for link in browser.page("requests").links() if "req_" in link]
        assert links
        assert {link for message in listener.messages for link in Html(message.data).links()} == set(links)
    # What happened between reading the list and opening the stream is not missed.
    late = since(browser)
    missed = served.chat(model="good").headers["x-request-id"]
    with listening(browser, late) as listener:
        until(lambda: listener.ids() == [missed], "the row from before the stream")


def test_a_reconnecting_browser_misses_nothing_and_gets_nothing_twice(served: Proxy) -> None:
    browser = operator(served)
    address = since(browser)
    with listening(browser, address) as listener:
        first = served.chat(model="good").headers["x-request-id"]
        served.row(first)
        # A message about its begin may show its end already, and is followed by one about its end.
        mark = mark_of(since(browser))
        until(lambda: listener.messages and listener.messages[-1].id == mark, "all about the first row")
        assert set(listener.ids()) == {first}
    second = served.chat(model="good").headers["x-request-id"]
    served.row(second)
    with listening(operator(served), address, **{"last-event-id": mark}) as listener:
        until(lambda: listener.ids() == [second], "only the second row")
    with listening(operator(served), address, **{"last-event-id": "unknown"}) as listener:
        until(lambda: [message.event for message in listener.messages] == ["gap"], "a gap")


def test_the_stream_has_the_filters_and_the_project_of_the_list(served: Proxy) -> None:
    other = served.new_key("other")
    streams = [
        (operator(served), "?model=none", set()),
        (operator(served), "?project=other", {"other"}),
        (holder(served), "?project=other", {"default"}),
        (holder(served, other["key"]), "", {"other"}),
    ]
    listeners = [(Listener(browser, since(browser, query), {}), wanted) for browser, query, wanted in streams]
    until(lambda: all(listener.status == 200 for listener, _ in listeners), "all streams are open")
    for number in range(3):
        key = other["key"] if number == 1 else served.key
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": "good", "prompt": "hi"}
        served.client.post("/v1/chat/completions", json=body, headers=headers)
    ids = {
        project: {row["request_id"] for row in served.rows(project=project)}
        for project in ("other", "default")
    }
    assert {name: len(found) for name, found in ids.items()} == {"other": 1, "default": 2}
    for listener, wanted in listeners:
        expected = set().union(*(ids[project] for project in wanted))
        until(lambda listener=listener, expected=expected: set(listener.ids()) == expected, "its own rows")


def test_streams_end_with_their_session(served: Proxy) -> None:
    key = served.new_key("default")
    browsers = [operator(served), holder(served, key["key"])]
    listeners = [Listener(browser, since(browser), {}) for browser in browsers]
    until(lambda: all(listener.status == 200 for listener in listeners), "all streams are open")
    operator(served).post("sign-out")
    browsers[0].post("sign-out")
    served.admin("POST", "/key/block", json={"key_id": key["key_id"]})
    for listener in listeners:
        assert listener.ended.wait(15)


def test_a_stream_ends_within_a_second_of_its_key_and_sends_nothing_more(served: Proxy) -> None:
    key = served.new_key("default")
    browser = holder(served, key["key"])
    with listening(browser, since(browser)) as listener:
        served.admin("POST", "/key/block", json={"key_id": key["key_id"]})
        blocked = time.monotonic()
        request_id = served.chat(model="good").headers["x-request-id"]
        assert listener.ended.wait(15)
        assert time.monotonic() - blocked < 10  # it checks twice a second; the machine may be busy
    assert request_id not in listener.ids()


def test_key_holders_leave_streams_to_the_operator(served: Proxy) -> None:
    browser = holder(served)
    address = since(browser)
    listeners = [Listener(holder(served), address, {}) for _ in range(MAX_STREAMS - KEPT_STREAMS)]
    until(lambda: all(one.status == 200 for one in listeners), "all that key holders may have")
    assert browser.get(address).status_code == 503
    operators = operator(served)
    with listening(operators, since(operators)) as listener:
        assert listener.status == 200


def test_streams_end_when_the_dashboard_is_switched_off(served: Proxy) -> None:
    browser = operator(served)
    with listening(browser, since(browser)) as listener:
        served.save(config(MODEL, ui={"enabled": False}))
        assert listener.ended.wait(15)


def test_streams_do_not_delay_a_shutdown(served: Proxy) -> None:
    browser = operator(served)
    with listening(browser, since(browser)) as listener:
        assert served.stop() == 0
        assert listener.ended.wait(15)


def test_there_are_at_most_fifty_streams(served: Proxy) -> None:
    browser = operator(served)
    address = since(browser)
    listeners = [Listener(operator(served), address, {}) for _ in range(MAX_STREAMS)]
    until(lambda: all(one.status == 200 for one in listeners), "fifty streams")
    refused = browser.get(address)
    assert refused.status_code == 503
    assert {"retry-after", "retry-after-ms"} <= set(refused.headers)
    assert "Too many pages are live" in refused.text


def test_a_page_that_is_closed_frees_its_stream(served: Proxy) -> None:
    browser = operator(served)
    address = since(browser)
    for _ in range(MAX_STREAMS + 10):
        with browser.client.stream("GET", browser.address(address)) as answer:
            assert answer.status_code == 200
            assert next(answer.iter_lines()) == "retry: 2000"
        time.sleep(0.05)  # slower than the limit of pages a second


def test_of_many_rows_at_once_the_newest_are_shown_and_the_rest_is_counted(served: Proxy) -> None:
    browser = operator(served)
    address = since(browser)
    sent = [served.chat(model="good").headers["x-request-id"] for _ in range(MAX_ROWS + 7)]
    served.row(sent[-1])
    with listening(browser, address) as listener:
        until(lambda: [message.event for message in listener.messages] == ["more", "rows"], "both messages")
    more, rows = listener.messages
    assert more.data == "7"
    assert rows.rows == sent[: -MAX_ROWS - 1 : -1]


def test_pages_stay_whole_while_the_configuration_changes(served: Proxy) -> None:
    browser = operator(served)
    before = served.client.get("/health/readiness").json()["config"]["digest"]
    with listening(browser, since(browser)) as listener:
        served.save(config(MODEL, routing={"max_attempts": 2}))
        until(lambda: before[:7] not in browser.page("requests").text, "the digest in the foot changes")
        request_id = served.chat(model="good").headers["x-request-id"]
        until(lambda: request_id in listener.ids(), "the stream goes on")
