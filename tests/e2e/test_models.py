"""GET /models in both vendors' forms, aliases, and what is there of other APIs that is not stored or not spoken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import pytest

from tests.support.cases import each
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import exchange, request

VERSION = {"anthropic-version": "2023-06-01"}
NAMES = ["sonnet", "secret-model", "vectors", *(f"m{n:02}" for n in range(25))]


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    first = {"name": "sonnet", "provider": "mock", "context_window": 200_000, "max_output_tokens": 64_000}
    modes = {"vectors": "embedding", "m01": "completion"}
    others = [{"name": name, "provider": "mock", "mode": modes.get(name, "chat")} for name in NAMES[1:]]
    aliases = {
        "claude-*": "sonnet",
        "gpt-3.5-turbo": "m00",
        "embed*": "vectors",
        "code-?": "m01",
        "hush": "secret-model",
    }
    return module_proxy(
        config(
            first | {"mock": {"reply": "from sonnet"}},
            *others,
            aliases=aliases,
            projects={"narrow": {"models": ["sonnet", "m0?"]}},
        )
    )


def listed(served: Proxy, query: str = "", **headers: str) -> dict[str, Any]:
    answer = served.client.get(f"/v1/models{query}", headers={**served.auth, **VERSION, **headers})
    assert answer.status_code == 200, answer.text
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    found: dict[str, Any] = answer.json()
    return found


# --- aliases -----------------------------------------------------------------------------------------------


def test_openais_list_has_models_then_aliases_without_wildcards(served: Proxy) -> None:
    data = served.client.get("/v1/models", headers=served.auth).json()["data"]
    assert [one["id"] for one in data] == [*NAMES, "gpt-3.5-turbo", "hush"]
    one = served.client.get("/models/gpt-3.5-turbo", headers=served.auth).json()
    assert one == data[-2]
    assert one["object"] == "model"


def test_aliases_of_forbidden_models_are_not_listed(served: Proxy) -> None:
    auth = {"authorization": f"Bearer {served.new_key('narrow')['key']}"}
    ids = [one["id"] for one in served.client.get("/v1/models", headers=auth).json()["data"]]
    assert ids == ["sonnet", *(f"m{n:02}" for n in range(10)), "gpt-3.5-turbo"]
    for name, status in (("gpt-3.5-turbo", 200), ("claude-x", 200), ("hush", 404), ("secret-model", 404)):
        assert served.client.get(f"/v1/models/{name}", headers=auth).status_code == status
        answer = served.client.post(
            "/v1/chat/completions", headers=auth, json={"model": name, "prompt": "hi"}
        )
        assert answer.status_code == status, name


def test_an_alias_is_served_by_its_model_and_the_row_has_the_requested_name(served: Proxy) -> None:
    answer = served.chat(model="claude-opus-5-5")
    assert answer.status_code == 200
    assert answer.headers["x-proxy-model"] == "sonnet"
    row = served.row(answer.headers["x-request-id"])
    assert (row["model_requested"], row["model"]) == ("claude-opus-5-5", "sonnet")


def test_aliases_are_for_every_endpoint_that_their_model_serves(served: Proxy) -> None:
    def status(path: str, **body: str) -> int:
        return served.client.post(path, headers=served.auth, json=body).status_code

    assert status("/v1/embeddings", model="embed-3-small", input="hi") == 200
    assert status("/v1/embeddings", model="claude-x", input="hi") == 404
    assert status("/v1/completions", model="code-1", prompt="hi") == 200
    assert status("/v1/completions", model="embed-3-small", prompt="hi") == 404


# --- Anthropic's form --------------------------------------------------------------------------------------


def test_anthropics_list_has_one_page_of_twenty(served: Proxy) -> None:
    page = listed(served)
    assert [one["id"] for one in page["data"]] == NAMES[:20]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, NAMES[0], NAMES[19])
    first = page["data"][0]
    created = datetime.fromisoformat(first.pop("created_at"))
    assert timedelta() <= datetime.now(UTC) - created < timedelta(hours=1)
    assert first == {
        "type": "model",
        "id": "sonnet",
        "display_name": "sonnet",
        "lifecycle": "active",
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
    }
    assert page["data"][1]["max_input_tokens"] is page["data"][1]["max_tokens"] is None


@each(
    ("query", "ids", "more"),
    [
        ("?limit=1000&beta=true", [*NAMES, "gpt-3.5-turbo", "hush"], False),
        ("?limit=2", NAMES[:2], True),
        (f"?limit=2&after_id={NAMES[1]}", NAMES[2:4], True),
        ("?limit=2&after_id=gpt-3.5-turbo", ["hush"], False),
        ("?after_id=hush", [], False),
        (f"?limit=2&before_id={NAMES[3]}", NAMES[1:3], True),
        (f"?limit=3&before_id={NAMES[3]}", NAMES[:3], False),
        (f"?before_id={NAMES[0]}", [], False),
    ],
)
def test_pages_follow_the_cursors(served: Proxy, query: str, ids: list[str], more: bool) -> None:
    page = listed(served, query)
    assert [one["id"] for one in page["data"]] == ids
    assert page["has_more"] is more
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))


@each(
    "query",
    [
        *("limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limit=1&limit=2", "after_id=claude-*"),
        *("before_id=", f"after_id={'x' * 5000}", "after_id=m00&before_id=m01", "after_id=%00"),
    ],
)
def test_a_bad_page_is_refused(served: Proxy, query: str) -> None:
    answer = served.client.get(f"/v1/models?{query}", headers={**served.auth, **VERSION})
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["error_code"] == "invalid_value"
    assert served.client.get(f"/v1/models?{query}", headers=served.auth).status_code == 200


def test_anthropics_sdk_reads_the_models(served: Proxy) -> None:
    client = anthropic.Anthropic(base_url=served.url, api_key=served.key, max_retries=0)
    assert [one.id for one in client.models.list(limit=7)] == [*NAMES, "gpt-3.5-turbo", "hush"]
    one = client.models.retrieve("claude-opus-5-5")
    assert (one.id, one.type, one.max_tokens) == ("claude-opus-5-5", "model", 64_000)
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nobody")


# --- other routes ------------------------------------------------------------------------------------------


def test_hello_is_open(served: Proxy) -> None:
    assert served.client.head("/api/hello").status_code == 200


def test_a_websocket_is_refused_with_426_and_the_connection_goes_on(served: Proxy) -> None:
    offer = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    refused = exchange(served.port, request("/v1/responses", method="GET", **offer), method="GET")
    assert refused.status == 426
    assert refused.headers["upgrade"] == "HTTP/1.1"
    plain = served.client.get("/v1/responses")
    assert (plain.status_code, plain.headers["allow"]) == (405, "POST")
    assert plain.json()["error"]["code"] == "method_not_allowed"


def test_responses_are_not_stored_whatever_their_id(served: Proxy) -> None:
    bodies = set()
    for method, path in (
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_2"),
        ("GET", "/v1/responses/x/input_items?limit=2"),
        ("POST", "/responses/%00/cancel"),
        ("POST", "/v1/responses/compact"),
    ):
        answer = served.client.request(method, path, headers=served.auth)
        assert answer.status_code == 404
        bodies.add(answer.text)
    (body,) = bodies
    assert '"Responses are not stored by this proxy."' in body
