"""Every route of the live table against every kind of caller. A route that is not listed here fails."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from codellama_proxy.store import key_fields as key_values
from codellama_proxy.store.sql import keys as key_rows
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.web.app import create_app
from codellama_proxy.web.ui.routes import is_ui
from tests.support.cases import each
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config

Verdicts = Mapping[str, str | None]

NOBODY = {
    "none": "invalid_api_key",
    "bad": "invalid_api_key",
    "blocked": "key_blocked",
    "expired": "key_expired",
}
OPEN: Verdicts = dict.fromkeys([*NOBODY, "virtual", "admin"])
KEYS: Verdicts = {**NOBODY, "virtual": None, "admin": None}
ADMINS: Verdicts = {**NOBODY, "virtual": "admin_required", "admin": None}
VIRTUAL: Verdicts = {**NOBODY, "virtual": None, "admin": "invalid_api_key"}
"""Models answer to keys alone: what the administrator asks would be in nobody's books."""

# Caller -> why it is refused, or None.
MATRIX: Mapping[tuple[str, str], Verdicts] = {
    ("POST", "/chat/completions"): VIRTUAL,
    ("POST", "/completions"): VIRTUAL,
    ("POST", "/embeddings"): VIRTUAL,
    ("GET", "/models"): KEYS,
    ("GET", "/models/{id:path}"): KEYS,
    ("POST", "/messages"): VIRTUAL,
    ("POST", "/messages/count_tokens"): VIRTUAL,
    ("POST", "/responses"): VIRTUAL,
    ("POST", "/responses/input_tokens"): VIRTUAL,
    ("GET", "/responses"): OPEN,
    ("GET", "/responses/{response_id}"): KEYS,
    ("DELETE", "/responses/{response_id}"): KEYS,
    ("GET", "/responses/{response_id}/input_items"): KEYS,
    ("POST", "/responses/{response_id}/cancel"): KEYS,
    ("POST", "/responses/compact"): KEYS,
    ("GET", "/api/hello"): OPEN,
    ("POST", "/key/generate"): ADMINS,
    ("GET", "/key/info"): KEYS,
    ("GET", "/key/list"): ADMINS,
    ("POST", "/key/update"): ADMINS,
    ("POST", "/key/block"): ADMINS,
    ("POST", "/key/unblock"): ADMINS,
    ("POST", "/key/delete"): ADMINS,
    ("POST", "/key/regenerate"): ADMINS,
    ("GET", "/spend"): KEYS,
    ("GET", "/spend/logs"): ADMINS,
    ("GET", "/audit"): ADMINS,
    ("GET", "/requests/{request_id}"): KEYS,
    ("POST", "/feedback"): KEYS,
    ("GET", "/metrics"): ADMINS,
    ("GET", "/health"): ADMINS,
    ("GET", "/health/liveliness"): OPEN,
    ("GET", "/health/liveness"): OPEN,
    ("GET", "/health/readiness"): OPEN,
    ("GET", "/"): OPEN,
    ("GET", "/welcome.css"): OPEN,
    ("GET", "/openapi.json"): OPEN,
}
PREFIXES = ("", "/v1")
STATUS = {"admin_required": 403, "invalid_api_key": 401, "key_blocked": 401, "key_expired": 401}


def live_routes() -> Iterator[tuple[str, str]]:
    """What the app that `serve` serves has, whatever is wrapped around it."""
    app: Any = create_app(SimpleNamespace(gateway=None, live=None))
    while not isinstance(app, Starlette):
        (app,) = [inner for name in ("_rest", "_app") if (inner := getattr(app, name, None)) is not None]
    for route in app.routes:
        assert isinstance(route, Route), f"{route!r} is no plain route: think about who may use it"
        for method in route.methods or ("ANY",):
            yield method, route.path


ROUTES = sorted({(method, path) for method, path in live_routes() if not is_ui(path)})
"""Pages of the dashboard are in `tests/web/ui/test_access.py`."""


def without_prefix(path: str) -> str:
    return path.removeprefix("/v1")


def test_the_route_list_is_complete() -> None:
    listed = {(method, prefix + path) for method, path in MATRIX for prefix in PREFIXES}
    of_get = {("HEAD", path) for method, path in listed if method == "GET"}
    assert set(ROUTES) == listed | of_get


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config({"name": "plain", "provider": "mock"}))


@pytest.fixture(scope="module")
def callers(served: Proxy) -> Mapping[str, Mapping[str, str]]:
    """Headers of each kind of caller."""
    blocked = served.new_key()
    served.admin("POST", "/key/block", json={"key_id": blocked["key_id"]}).raise_for_status()
    with closing(connect(served.database)) as db:
        wanted = key_values.read({"key_alias": "default", "duration": "1h"})
        _, expired = key_rows.create(db, wanted, time.time() - 7200)
    secrets = {
        "bad": "sk-" + "x" * 43,
        "blocked": blocked["key"],
        "expired": expired,
        "virtual": served.key,
        "admin": ADMIN,
    }
    return {"none": {}} | {name: {"authorization": f"Bearer {secret}"} for name, secret in secrets.items()}


@each(("method", "path"), ROUTES)
def test_each_route_admits_or_refuses_each_caller(
    served: Proxy, callers: Mapping[str, Mapping[str, str]], method: str, path: str
) -> None:
    verdicts = MATRIX["GET" if method == "HEAD" else method, without_prefix(path)]
    address = (
        path.replace("{id:path}", "plain").replace("{request_id}", "req_0").replace("{response_id}", "resp_0")
    )
    assert verdicts.keys() == callers.keys()
    for caller, why in verdicts.items():
        body = {"json": {}} if method == "POST" else {}
        answer = served.client.request(method, address, headers=callers[caller], **body)
        if why is None:
            assert answer.status_code < 500, caller
            assert answer.status_code not in (401, 403), caller
        else:
            assert answer.status_code == STATUS[why], caller
            if method != "HEAD":
                error = answer.json()["error"]
                found = error["code"] if "code" in error else error["details"]["error_code"]
                assert found == why, caller
