"""Web pages of the configured origins may call the API; other origins are refused in our own form."""

from __future__ import annotations

import pytest

from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Reply, exchange, request

CHAT = "/v1/chat/completions"
APP = "https://app.example"


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config({"name": "plain", "provider": "mock"}, server={"cors_origins": [APP]}))


def preflight(served: Proxy, origin: str, path: str = CHAT) -> Reply:
    wanted = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
    return exchange(served.port, request(path, method="OPTIONS", origin=origin, **wanted))


@pytest.mark.parametrize("stream", [False, True])
def test_pages_of_a_configured_origin_read_answers(served: Proxy, stream: bool) -> None:
    asked = preflight(served, APP)
    assert (asked.status, asked.headers["access-control-allow-origin"]) == (200, APP)
    body = {"stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    reply = exchange(served.port, request(CHAT, body, origin=APP, **served.auth))
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, APP)


def test_pages_of_other_origins_do_not(served: Proxy) -> None:
    asked = preflight(served, "https://evil.example")
    assert (asked.status, asked.error()["code"]) == (400, "invalid_value")
    assert "origin" in asked.error()["message"]
    assert "access-control-allow-origin" not in asked.headers


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/nothing"])
@pytest.mark.parametrize("origin", [APP, "https://evil.example"])
def test_preflights_have_an_id_and_a_log_line(served: Proxy, origin: str, path: str) -> None:
    request_id = preflight(served, origin, path).headers["x-request-id"]
    until(lambda: request_id in served.log(), "its line")
