"""Who may do what: keys wherever clients put them, admins and others; nothing of anybody's leaks upstream."""

from __future__ import annotations

import hashlib
import json

import pytest

from codellama_proxy.auth.keys import MASTER_KEY
from codellama_proxy.config.load import examine
from codellama_proxy.providers.registry import IMPLEMENTED
from tests.support.cases import each
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config, keys
from tests.support.raw_http import exchange, request
from tests.support.stored import kept
from tests.support.upstream.process import Upstream

USER = [{"role": "user", "content": "hi"}]
ADMIN_ONLY = [
    ("POST", "/key/generate"),
    ("GET", "/key/list"),
    ("POST", "/key/update"),
    ("POST", "/key/block"),
    ("POST", "/key/unblock"),
    ("POST", "/key/delete"),
    ("POST", "/key/regenerate"),
    ("GET", "/spend/logs"),
    ("GET", "/health"),
    ("GET", "/metrics"),
]
WITH_A_KEY = [
    ("POST", "/chat/completions"),
    ("POST", "/completions"),
    ("POST", "/embeddings"),
    ("GET", "/models"),
    ("GET", "/models/plain"),
    ("GET", "/key/info"),
    ("GET", "/spend"),
    ("GET", "/requests/nope"),
]
OPEN = [("GET", "/health/liveliness"), ("GET", "/health/liveness"), ("GET", "/health/readiness")]
PREFIXES = ["", "/v1"]
NO_KEYS = ["", " ", "Bearer", "Bearer "]
WRONG_KEYS = [
    "Bearer undefined",
    "Bearer sk-",
    "Bearer sk-" + "x" * 40,
    "Bearer {key}x",
    "Bearer {short}",
    "bearer  {swapped}",
    "Basic {key}",
    "{key}",
    "Bearer ' OR '1'='1",
    "Bearer sk-\xe9\xff",
    "Bearer " + "k" * 30_000,
    "Bearer {hash}",
]


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            model("plain"),
            model("second"),
            {"name": "keyless", "provider": "openai", "api_key": "${NOBODY_SETS_THIS}"},
            model("secret-project-model"),
            projects={"narrow": {"models": ["plain", "sec*d"]}},
        )
    )


def wrong(served: Proxy, template: str) -> str:
    key = served.key
    return template.format(
        key=key, short=key[:-1], swapped=key.swapcase(), hash=hashlib.sha256(key.encode()).hexdigest()
    )


@pytest.mark.parametrize("value", NO_KEYS)
def test_a_missing_key_is_reported_as_missing(served: Proxy, upstream: Upstream, value: str) -> None:
    reply = exchange(served.port, request("/v1/chat/completions", {"messages": USER}, authorization=value))
    assert reply.status == 401
    assert reply.error()["code"] == "invalid_api_key"
    assert reply.error()["message"].startswith("No API key was provided")
    assert upstream.journal.requests() == []


@pytest.mark.parametrize("template", WRONG_KEYS, ids=lambda template: repr(template)[:40])
def test_every_invalid_key_gets_the_same_answer(served: Proxy, upstream: Upstream, template: str) -> None:
    unknown = {"authorization": "Bearer sk-" + "u" * 43}
    expected = exchange(served.port, request("/v1/chat/completions", {"messages": USER}, **unknown))
    value = wrong(served, template)
    reply = exchange(served.port, request("/v1/chat/completions", {"messages": USER}, authorization=value))
    assert reply.status == expected.status == 401
    assert reply.body == expected.body
    assert reply.error()["code"] == "invalid_api_key"
    assert reply.headers["x-should-retry"] == "false"
    assert upstream.journal.requests() == []


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("form", ["authorization", "x-api-key", "api-key"])
def test_a_key_is_accepted_in_every_supported_header(served: Proxy, form: str, prefix: str) -> None:
    value = f"Bearer {served.key}" if form == "authorization" else served.key
    answer = served.client.post(f"{prefix}/chat/completions", json={"messages": USER}, headers={form: value})
    assert answer.status_code == 200, answer.text


def test_the_same_key_in_two_headers_is_accepted(served: Proxy) -> None:
    headers = {**served.auth, "x-api-key": served.key}
    assert served.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("place", ["query", "cookie"])
def test_a_key_elsewhere_is_ignored(served: Proxy, place: str) -> None:
    query = f"?api_key={served.key}&key={served.key}" if place == "query" else ""
    headers = {"cookie": f"authorization={served.key}; api-key={served.key}"} if place == "cookie" else {}
    answer = served.client.get("/v1/models" + query, headers=headers)
    assert answer.status_code == 401


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("method", "path"), ADMIN_ONLY)
def test_admin_endpoints_need_the_master_key(served: Proxy, method: str, path: str, prefix: str) -> None:
    body = {"json": {}} if method == "POST" else {}
    for headers, status, code in (
        ({}, 401, "invalid_api_key"),
        ({"authorization": "Bearer sk-wrong"}, 401, "invalid_api_key"),
        ({"authorization": f"Bearer {ADMIN}x"}, 401, "invalid_api_key"),
        (served.auth, 403, "admin_required"),
    ):
        answer = served.client.request(method, prefix + path, headers=headers, **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), headers


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("method", "path"), WITH_A_KEY)
def test_other_endpoints_need_a_key(served: Proxy, method: str, path: str, prefix: str) -> None:
    body = {"json": {"messages": USER}} if method == "POST" else {}
    answer = served.client.request(method, prefix + path, **body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert served.client.request(method, prefix + path, headers=served.auth, **body).status_code < 500


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_health_needs_no_key_and_shows_no_secret(served: Proxy, method: str, path: str) -> None:
    answer = served.client.request(method, path)
    assert answer.status_code == 200
    assert "sk-" not in answer.text


def test_health_for_admins_shows_states_but_no_secret(served: Proxy) -> None:
    answer = served.admin("GET", "/health")
    assert answer.status_code == 200
    assert "ready" in answer.text
    assert "disabled" in answer.text
    assert "NOBODY_SETS_THIS" in answer.text, "why it is disabled"
    assert "sk-upstream-secret" not in answer.text


def test_metrics_need_the_master_key(served: Proxy) -> None:
    served.chat(model="plain")
    answer = served.admin("GET", "/metrics")
    assert answer.status_code == 200
    assert 'proxy_requests_total{model="plain",project="default",status="ok"}' in answer.text
    for name in (
        "proxy_request_seconds",
        "proxy_overhead_seconds",
        "proxy_time_to_first_token_seconds",
        "proxy_tokens_total",
        "proxy_cost_usd_total",
        "proxy_attempts_total",
        "proxy_config_loaded_timestamp_seconds",
    ):
        assert f"\n{name}" in answer.text, name
    assert "sk-" not in answer.text


def test_a_forbidden_model_looks_like_an_unknown_one(served: Proxy, upstream: Upstream) -> None:
    headers = {"authorization": f"Bearer {served.new_key('narrow')['key']}"}

    def ask(model: str) -> tuple[int, str]:
        answer = served.client.post(
            "/v1/chat/completions", json={"model": model, "messages": USER}, headers=headers
        )
        return answer.status_code, answer.text.replace(model, "MODEL")

    assert ask("secret-project-model") == ask("no-such-model")
    assert ask("secret-project-model")[0] == 404
    assert {ask(name)[0] for name in ("PLAIN", " plain", "plain ", "keyless", "plain/ok")} == {404}
    assert ask("plain")[0] == ask("second")[0] == 200
    listed = served.client.get("/v1/models", headers=headers).json()["data"]
    assert [model["id"] for model in listed] == ["plain", "second"]
    assert served.client.get("/v1/models/secret-project-model", headers=headers).status_code == 404
    assert len(upstream.journal.requests()) == 2


def test_only_our_credential_is_sent_upstream(served: Proxy, upstream: Upstream) -> None:
    headers = {
        **served.auth,
        "cookie": "session=client",
        "x-forwarded-for": "1.2.3.4",
        "openai-organization": "org-client",
        "x-stainless-lang": "python",
        "proxy-authorization": "Basic client",
        "x-litellm-tags": "client",
        "x-custom": "client",
    }
    answer = served.client.post(
        "/v1/chat/completions", json={"model": "plain", "messages": USER}, headers=headers
    )
    assert answer.status_code == 200
    (sent,) = upstream.journal.requests()
    assert ["authorization", "Bearer sk-upstream-secret-nialp"] in sent["headers"]
    assert "client" not in str(sent["headers"])
    assert "python" not in str([pair for pair in sent["headers"] if pair[0] != "user-agent"])
    assert served.key not in str(sent)
    assert "1.2.3.4" not in str(sent["headers"])


@pytest.mark.parametrize(
    "field", ["api_base", "base_url", "api_key", "organization", "extra_headers", "custom_llm_provider"]
)
def test_no_field_redirects_a_request_or_its_credential(
    served: Proxy, upstream: Upstream, field: str
) -> None:
    value = {"authorization": "Bearer x"} if field == "extra_headers" else upstream.origin + "/attacker"
    answer = served.chat({"model": "plain", field: value})
    assert answer.status_code in (200, 400)
    for one in upstream.journal.requests():
        assert one["path"] == "/v1/chat/completions"
        assert ["authorization", "Bearer sk-upstream-secret-nialp"] in one["headers"]
        assert field not in one["body"]


def test_secrets_are_in_no_log_and_not_in_the_database(served: Proxy) -> None:
    served.chat(model="plain")
    for secret in (served.key, ADMIN, "sk-upstream-secret"):
        assert secret not in served.log()
        for name, data in kept(served, "proxy.db*").items():
            assert secret.encode() not in data, name


def test_without_auth_calls_are_anonymous_and_admin_endpoints_are_off(
    proxy: ProxyFactory, upstream: Upstream
) -> None:
    served = proxy(config(upstream.model("plain"), auth={"required": False}), env={"PROXY_MASTER_KEY": ""})
    body = {"messages": USER}
    answer = served.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    row = served.client.get(f"/requests/{answer.headers['x-request-id']}", headers=served.auth)
    assert row.status_code == 404, "another project's"
    wrong_key = {"authorization": "Bearer sk-wrong"}
    assert served.client.post("/v1/chat/completions", json=body, headers=wrong_key).status_code == 200
    for headers in ({}, wrong_key, served.auth, {"authorization": f"Bearer {ADMIN}"}):
        assert served.client.get("/key/list", headers=headers).status_code in (401, 403)
    answer = served.client.get("/key/list", headers=served.auth)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "admin_disabled")
    spent = json.loads(keys(served.database, "spend", "--by", "project", "--json").stdout)
    assert "anonymous" in json.dumps(spent)


# --- without keys ------------------------------------------------------------------------------------------

OPEN_DOOR = "no key is required and the server listens beyond this machine"


def test_without_required_keys_unknown_ones_are_anonymous(proxy: ProxyFactory, upstream: Upstream) -> None:
    text = config(upstream.model("plain"), auth={"required": False})
    served = proxy(text, env={"PROXY_HOST": "0.0.0.0"})
    assert OPEN_DOOR in served.log()
    blocked = served.new_key("team")
    served.admin("POST", "/key/block", json={"key_id": blocked["key_id"]})
    body = {"messages": USER}
    strangers = (None, "sk-" + "x" * 40, "sk-proj-abc", "EMPTY", "not needed", ADMIN + "x")
    for stranger in strangers:
        headers = {} if stranger is None else {"authorization": f"Bearer {stranger}"}
        answer = served.client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200, (stranger, answer.text)
        assert served.row(answer.headers["x-request-id"])["project"] == "anonymous"
        assert served.client.get("/v1/models", headers=headers).status_code == 200
    for path in ("/chat/completions", "/v1/completions", "/v1/embeddings"):
        answer = served.client.post(path, json=body, headers={"x-api-key": ADMIN})
        assert (answer.status_code, answer.json()["error"]["message"]) == (401, MASTER_KEY)
    assert served.client.get("/v1/models", headers={"x-api-key": ADMIN}).status_code == 200
    answer = served.client.post("/v1/chat/completions", json=body, headers={"x-api-key": blocked["key"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key_blocked")
    answer = served.chat()
    assert served.row(answer.headers["x-request-id"])["project"] == served.project
    headers = {"authorization": "Bearer sk-wrong"}
    assert served.client.get("/spend/logs", headers=headers).status_code == 403


@each(
    ("required", "host", "told"),
    [
        (False, "0.0.0.0", True),
        (False, "::", True),
        (False, "10.0.0.5", True),
        (False, "example.internal", True),
        (False, None, False),
        (False, "127.0.0.2", False),
        (False, "localhost", False),
        (False, "::1", False),
        (True, "0.0.0.0", False),
    ],
)
def test_check_warns_about_disabled_authentication(required: bool, host: str | None, told: bool) -> None:
    text = json.dumps({"models": [{"name": "m", "provider": "mock"}], "auth": {"required": required}})
    environ = {} if host is None else {"PROXY_HOST": host}
    found = [str(one) for one in examine(text.encode(), environ, implemented=IMPLEMENTED).warnings]
    assert any(OPEN_DOOR in one and "auth.required" in one for one in found) is told
