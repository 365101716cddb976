"""Whatever an administrator's query says, the answer is a result or an error by name, and soon."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config
from tests.support.raw_http import Reply, exchange, request

PATHS = ("/spend", "/spend/logs", "/key/list", "/key/info", "/audit", "/requests/req_1", "/v1/spend")
NAMES = (
    *("project", "key_id", "key", "model", "user", "status", "request_id", "action", "actor"),
    *("session", "agent", "start", "end", "page", "size", "before", "group_by", "nonsense"),
)
VALUES = (
    *(
        "",
        "0",
        "1",
        "-1",
        "1000",
        "1001",
        "1e3",
        "9" * 30,
        "²",
        "NaN",
        "inf",
        "web",
        "ok",
        "None",
        "%",
        "%zz",
    ),
    *("%00", "%ff%fe", "%C3%28", "%ed%a0%80", "%F0%9F%92%A9", "a%00b", "%2525", "+", "x" * 5000),
    *("9999-12-31T23:59:59", "9999-12-31", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00%2B14:00"),
    *("2026-W01-1", "20260101", "2026-01-01T24:00:00", "253402300800", "1" * 20 + "." + "1" * 20),
    *(
        "project,key,model,user,day,status,session,agent",
        "user,user",
        "user" + ",user" * 900,
        ",",
        "created_at",
        "1 or 1",
    ),
)
ESCAPED = st.text(max_size=20).map(lambda text: quote(text.encode("utf-8", "surrogatepass")))
PAIRS = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | ESCAPED)


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    one = module_proxy(config({"name": "mock", "provider": "mock", "price": {"input": 1, "output": 2}}))
    assert one.chat(user="u").status_code == 200
    return one


def asked(served: Proxy, path: str) -> Reply:
    head = request(path, method="GET", authorization=f"Bearer {ADMIN}", connection="close")
    return exchange(served.port, head, method="GET")


@settings(max_examples=150)
@given(st.sampled_from(PATHS), st.lists(PAIRS, max_size=4))
@example("/spend", [("end", "9999-12-31T23:59:59")])
@example("/spend/logs", [("page", "1000000000"), ("size", "1000")])
@example("/spend", [("group_by", "user"), ("page", "1000000000")])
def test_every_query_is_answered_or_refused_with_its_parameter(
    served: Proxy, path: str, pairs: list[tuple[str, str]]
) -> None:
    query = "&".join(f"{name}={value}" for name, value in pairs)
    reply = asked(served, f"{path}?{query}")
    assert reply.status in (200, 400, 404), reply
    found = json.loads(reply.body)
    if reply.status != 200:
        assert found["error"]["code"] in (
            "invalid_value",
            "unsupported_parameter",
            "missing_required_parameter",
            "not_found",
        )


@pytest.mark.parametrize(
    "raw", [b"/spend?user=\xff", b"/spend?\x00=1", b"/spend?user=%", b"/requests/%ff%00", b"/requests/%2e%2e"]
)
def test_an_undecodable_query_is_refused(served: Proxy, raw: bytes) -> None:
    head = request("/X", method="GET", authorization=f"Bearer {ADMIN}", connection="close").replace(
        b"/X", raw
    )
    reply = exchange(served.port, head, method="GET")
    assert reply.status in (200, 400, 404), reply


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
FIELDS = (
    *("key_id", "key", "key_alias", "name", "duration", "models", "max_budget", "budget_duration"),
    *("rpm_limit", "tpm_limit", "max_parallel_requests", "metadata", "overlap"),
)
BODIES = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=4)


@settings(max_examples=100)
@given(st.sampled_from(["generate", "update", "block", "unblock", "delete", "regenerate"]), BODIES)
@example("block", {"key_id": "\ud800"})
@example("update", {"key": "\ud800"})
@example("generate", {"metadata": {"a": "\udfff", "\ud800": 10**400}})
def test_every_key_update_is_applied_or_refused_with_its_field(
    served: Proxy, verb: str, body: dict[str, Any]
) -> None:
    reply = exchange(
        served.port, request(f"/key/{verb}", body, authorization=f"Bearer {ADMIN}", connection="close")
    )
    assert reply.status in (200, 400, 404), reply
    json.loads(reply.body)
