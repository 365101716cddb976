"""Who changed which key, when and how: over HTTP and on the command line, in one record."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from codellama_proxy.store.audit import CLI
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.postgres import session
from codellama_proxy.store.sql import audit, queries
from codellama_proxy.store.sqlite import connection
from tests.support.postgres_store import address_of
from tests.support.proxy_process import Proxy, ProxyFactory, config, keys


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config({"name": "mock", "provider": "mock"}))


@contextmanager
def rolled_back(database: Path | str) -> Iterator[queries.Session]:
    """A transaction on the database that is rolled back at the end."""
    if isinstance(database, str):
        with closing(session.connect(address_of(database))) as server, server.transaction():
            yield server
            raise psycopg.Rollback
        return
    with closing(connection.connect(database)) as file:
        file.execute("begin immediate")
        yield file
        file.execute("rollback")


def audit_page(served: Proxy, **query: Any) -> Any:
    answer = served.admin("GET", "/audit", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(served: Proxy, verb: str, **body: Any) -> Any:
    answer = served.admin("POST", f"/key/{verb}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_change_is_recorded_without_secrets(served: Proxy) -> None:
    made = post(served, "generate", key_alias="web", max_budget=1.5, models=["a"])
    key_id = made["key_id"]
    post(served, "update", key_id=key_id, max_budget=None, rpm_limit=7)
    post(served, "block", key_id=key_id)
    keys(served.database, "unblock", key_id)
    keys(served.database, "update", key_id, "--project", "ops")
    renewed = json.loads(keys(served.database, "rotate", key_id, "--json").stdout)
    again = post(served, "regenerate", key_id=key_id, overlap="60s")
    post(served, "delete", key_id=key_id)
    found = audit_page(served, key_id=key_id)
    assert (found["page"], found["size"], found["total"]) == (1, 50, 8)
    entries = found["data"][::-1]
    assert [(one["actor"], one["action"], one["project"]) for one in entries] == [
        ("master", "create", "web"),
        ("master", "update", "web"),
        ("master", "block", "web"),
        ("cli", "unblock", "web"),
        ("cli", "update", "ops"),
        ("cli", "rotate", "ops"),
        ("master", "rotate", "ops"),
        ("master", "delete", "ops"),
    ]
    create, update, block, unblock, moved, rotated, overlapped, deleted = (one["changes"] for one in entries)
    assert (create["max_budget"], create["models"], create["project"]) == (
        [None, 1.5],
        [None, ["a"]],
        [None, "web"],
    )
    assert update == {"max_budget": [1.5, None], "rpm_limit": [None, 7]}
    assert (block, unblock) == ({"blocked": [False, True]}, {"blocked": [True, False]})
    assert moved == {"project": ["web", "ops"]}
    assert rotated == {"prefix": [made["prefix"], renewed["prefix"]], "overlap_seconds": [None, 0.0]}
    assert overlapped["overlap_seconds"] == [None, 60.0]
    assert deleted["project"] == ["ops", None]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one["created_at"]) for one in entries)
    listed = keys(served.database, "audit", "--key", key_id, "--json").stdout
    assert json.loads(listed) == found["data"]
    shown = keys(served.database, "audit", "--key", key_id, "--last", "2").stdout
    assert (shown.count("\n"), "overlap_seconds: null -> 60.0" in shown) == (3, True)
    for secret in (made["key"], renewed["key"], again["key"]):
        assert secret not in json.dumps(found) + listed + shown


def test_a_refused_change_is_not_recorded(served: Proxy) -> None:
    before = audit_page(served)["total"]
    for verb, body in (
        ("generate", {"rpm_limit": -1}),
        ("update", {"key_id": "key_nope", "rpm_limit": 1}),
        ("delete", {"key_id": "key_nope"}),
    ):
        assert served.admin("POST", f"/key/{verb}", json=body).status_code in (400, 404)
    keys(served.database, "block", "key_nope", check=False)
    with rolled_back(served.database) as db:
        audit.create(db, CLI, KeyChange({"key_alias": "web"}), 0.0)
    assert audit_page(served)["total"] == before


def test_records_are_filtered_and_paged(served: Proxy) -> None:
    ids = [post(served, "generate", key_alias="paged")["key_id"] for _ in range(5)]
    post(served, "block", key_id=ids[0])
    pages = [audit_page(served, project="paged", page=page, size=4) for page in (1, 2, 3)]
    assert [(len(page["data"]), page["total"]) for page in pages] == [(4, 6), (2, 6), (0, 6)]
    assert [one["key_id"] for page in pages for one in page["data"]] == [ids[0], *ids[::-1]]
    assert audit_page(served, project="paged", action="block")["total"] == 1
    assert audit_page(served, project="paged", actor="master")["total"] == 6
    assert audit_page(served, project="paged", actor="cli")["total"] == 0
    assert audit_page(served, project="paged", start="2100-01-01")["total"] == 0
    assert audit_page(served, project="paged", end="9999-12-31")["total"] == 6
    for query in ({"action": "paint"}, {"size": 1001}, {"colour": "red"}, {"start": "soon"}):
        assert served.admin("GET", "/audit", params=query).status_code == 400


def test_the_audit_needs_the_master_key(served: Proxy) -> None:
    assert served.client.get("/audit", headers=served.auth).status_code == 403
    assert served.client.get("/v1/audit").status_code == 401
