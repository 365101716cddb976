"""Every request leaves one line and counts once, whatever its route and however it was refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.processes import until
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config
from tests.support.raw_http import Reply, Wire, exchange, refused, request

pytestmark = pytest.mark.one_process("each server has metrics of its own")

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    text = config({"name": "plain", "provider": "mock"}, server={"max_body": 20_000_000})
    return module_proxy(text, env={"PROXY_LOG_FORMAT": "json"})


def counted(served: Proxy) -> Mapping[tuple[str, str, str], float]:
    found = re.findall(
        r'proxy_http_requests_total{method="(.*)",route="(.*)",status="(.*)"} (.*)',
        served.admin("GET", "/metrics").text,
    )
    return {(method, route, status): float(count) for method, route, status, count in found}


def lines_of(served: Proxy, request_id: str) -> list[dict[str, Any]]:
    return [line for line in served.log_lines() if line.get("request_id") == request_id]


CASES: list[tuple[str, bytes, str, str, int]] = [
    ("chat", request(CHAT, {"prompt": "x"}, authorization="Bearer KEY"), "POST", "/chat/completions", 200),
    ("chat, bad key", request(CHAT, {"prompt": "x"}), "POST", "/chat/completions", 401),
    ("from a browser", request(CHAT, {"prompt": "x"}, origin="http://x"), "POST", "/chat/completions", 401),
    ("models", request("/models", method="GET", authorization="Bearer KEY"), "GET", "/models", 200),
    ("models, bad key", request("/v1/models", method="GET", x_api_key="sk-no"), "GET", "/models", 401),
    (
        "one model",
        request("/v1/models/a/b", method="GET", authorization="Bearer KEY"),
        "GET",
        "/models/{id}",
        404,
    ),
    ("a request", request("/requests/r", method="GET"), "GET", "/requests/{request_id}", 401),
    ("admin", request("/key/list", method="GET", authorization=f"Bearer {ADMIN}"), "GET", "/key/list", 200),
    (
        "admin, refused",
        request("/key/generate", {}, authorization="Bearer KEY"),
        "POST",
        "/key/generate",
        403,
    ),
    ("not JSON", request("/key/update", b"{", authorization=f"Bearer {ADMIN}"), "POST", "/key/update", 400),
    ("unknown", request("/wp-login.php", method="GET"), "GET", "unknown", 404),
    ("unknown, posted", request("/v1/v2/x", b"{}"), "POST", "unknown", 404),
    ("method", request(CHAT, method="DELETE"), "DELETE", "/chat/completions", 405),
    ("odd method", request(CHAT, method="PROPFIND"), "other", "/chat/completions", 405),
    (
        "too large",
        request(CHAT, b"", authorization="Bearer KEY", content_length="99999999"),
        "POST",
        "/chat/completions",
        413,
    ),
    ("malformed", b"nonsense\r\n\r\n", "other", "unknown", 400),
    ("no host", b"GET /models HTTP/1.1\r\n\r\n", "other", "unknown", 400),
    ("headers", request("/", method="GET", x_large="x" * 70_000), "other", "unknown", 431),
    ("alive", request("/health/liveness", method="GET"), "GET", "/health/liveness", 200),
    ("ready", request("/v1/health/readiness", method="GET"), "GET", "/health/readiness", 200),
    ("metrics", request("/metrics", method="GET"), "GET", "/metrics", 401),
    ("head", request("/models", method="HEAD"), "HEAD", "/models", 401),
]


@pytest.mark.parametrize(
    ("data", "method", "route", "status"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_every_request_is_logged_and_counted(
    served: Proxy, data: bytes, method: str, route: str, status: int
) -> None:
    before = counted(served).get((method, route, str(status)), 0)
    head = method == "HEAD"
    reply = exchange(
        served.port, data.replace(b"KEY", served.key.encode()), method="HEAD" if head else "POST"
    )
    assert reply.status == status
    # A look at the metrics is itself counted, but not before it has been answered.
    assert counted(served)[method, route, str(status)] == before + 1
    (line,) = until(lambda: lines_of(served, reply.headers["x-request-id"]), "the line")
    assert line["http_status"] == status
    assert line["endpoint"] == route.strip("/")
    assert line["status"] == ("ok" if status == 200 else "error")
    if status != 200 and not head:
        assert line["error"] == reply.error()["code"]
    assert served.key not in json.dumps(line)


def test_log_lines_name_the_caller(served: Proxy) -> None:
    reply = exchange(served.port, request("/models", method="GET", **served.auth))
    (line,) = until(lambda: lines_of(served, reply.headers["x-request-id"]), "the line")
    assert (line["key_id"], line["project"], line["path"]) == (served.key_id, served.project, "/models")


def test_a_key_in_a_path_is_not_logged(served: Proxy) -> None:
    reply = exchange(served.port, request(f"/v1/{served.key}/chat", method="GET"))
    until(lambda: lines_of(served, reply.headers["x-request-id"]), "the line")
    assert served.key not in served.log()


@pytest.mark.parametrize("field", ["model", "user"])
def test_a_huge_name_is_truncated_in_log_and_ledger(served: Proxy, field: str) -> None:
    name = "x\x1b\x9b\u2028" * 500_000
    body = {"prompt": "x", field: name}
    reply = exchange(served.port, request(CHAT, body, **served.auth))
    assert reply.status == (404 if field == "model" else 200)
    assert len(reply.body) < 2000
    number = reply.headers["x-request-id"]
    until(lambda: lines_of(served, number), "the line")
    assert max(len(line.encode()) for line in served.log().splitlines()) <= 16_000
    if field == "user":
        assert len(served.row(number)["user"]) <= 256


BODIES = ["/v1/chat/completions", "/v1/embeddings", "/key/update", "/feedback"]


def newest(served: Proxy, path: str, error: str | None, status: int) -> dict[str, Any]:
    """The last line of an endpoint with this error and status, waited for."""
    endpoint = path.removeprefix("/v1").strip("/")

    def found() -> list[dict[str, Any]]:
        wanted = (endpoint, error, status)
        lines = [line for line in served.log_lines() if "endpoint" in line]
        return [one for one in lines if (one["endpoint"], one["error"], one["http_status"]) == wanted]

    return until(found, f"a line with {status}")[-1]


@pytest.mark.parametrize("path", BODIES)
def test_a_disconnect_while_sending_is_not_an_internal_error(served: Proxy, path: str) -> None:
    with Wire(served.port) as wire:
        wire.send(
            request(path, b'{"a"', authorization=f"Bearer {credential(served, path)}", content_length="500")
        )
        until(lambda: arriving(served), "it is being read")
        wire.reset()
    assert newest(served, path, None, 499)["status"] == "cancelled"


@pytest.mark.parametrize("path", BODIES)
def test_a_malformed_chunked_body_is_refused_and_logged(served: Proxy, path: str) -> None:
    headers = {"authorization": f"Bearer {credential(served, path)}", "content-length": ""}
    head = request(path, b"", **headers, transfer_encoding="chunked")
    with Wire(served.port) as wire:
        wire.send(head + b"2\r\n{}\r\nnonsense\r\n")
        refused(wire.reply(), 400, "invalid_value")
    assert newest(served, path, "invalid_value", 400)["status"] == "error"


def credential(served: Proxy, path: str) -> str:
    return ADMIN if path == "/key/update" else served.key


def arriving(served: Proxy) -> bool:
    """Two requests later, the one before them has been begun."""
    return all(served.client.get("/health/liveness").status_code == 200 for _ in range(2))


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "//chat/completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/v1/chat/completions",
        "/v1/v1/v1/chat//completions",
        "/v1//v1///chat/completions",
        "/chat//completions",
    ],
)
def test_repeated_slashes_and_versions_are_normalised(served: Proxy, path: str) -> None:
    assert exchange(served.port, request(path, {"prompt": "x"}, **served.auth)).status == 200
    models = path.partition("chat")[0] + "models/plain"
    assert exchange(served.port, request(models, method="GET", **served.auth)).status == 200


def test_normalised_paths_need_the_same_credentials(served: Proxy) -> None:
    for path in ("//key/list", "/v1/v1/key//list"):
        refused(exchange(served.port, request(path, method="GET", **served.auth)), 403, "admin_required")


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/chat/completions/", "/chat/completions"),
        ("/V1/Chat/Completions", "/chat/completions"),
        ("/v1/embedding", "/v1/embeddings"),
        ("/v1/model", "/v1/models"),
        ("/key/generat", "/key/generate"),
        ("/health/ready", "/health/readiness"),
        ("/openai/v1/chat/completions", "/chat/completions"),
    ],
)
def test_a_404_names_the_nearest_path(served: Proxy, path: str, nearest: str) -> None:
    reply = exchange(served.port, request(path, b"{}"))
    refused(reply, 404, "not_found")
    assert reply.error()["message"].endswith(f" {nearest}.")


@pytest.mark.parametrize("path", ["/v1/images/generations", "/docs", "/" + "completions" * 3000])
def test_a_404_names_no_path_if_none_is_similar(served: Proxy, path: str) -> None:
    reply = exchange(served.port, request(path, b"{}"))
    refused(reply, 404, "not_found")
    assert reply.error()["message"].endswith(" /openapi.json lists all paths.")


# --- credentials ----------------------------------------------------------------------------------


def refusal(served: Proxy, **headers: str) -> Reply:
    reply = exchange(served.port, request(CHAT, {"prompt": "x"}, **headers))
    refused(reply, 401, "invalid_api_key")
    assert reply.headers["www-authenticate"] == "Bearer"
    return reply


def test_a_401_explains_the_problem_with_the_credential(served: Proxy) -> None:
    missing = [refusal(served), refusal(served, authorization="Bearer "), refusal(served, x_api_key="")]
    assert len({reply.body for reply in missing}) == 1
    assert "No API key" in missing[0].error()["message"]
    unknown = "sk-" + "x" * (len(served.key) - 3)
    given = ({"authorization": f"Bearer {unknown}"}, {"x_api_key": "junk"}, {"authorization": "Basic eDp5"})
    wrong = [refusal(served, **headers) for headers in given]
    assert len({reply.body for reply in wrong}) == 1
    assert wrong[0].body != missing[0].body
    for headers in ({"authorization": f"Bearer {ADMIN}"}, {"api_key": ADMIN}):
        assert "master key" in refusal(served, **headers).error()["message"]
    assert ADMIN not in served.log()
