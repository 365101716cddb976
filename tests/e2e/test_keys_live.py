"""Keys administered while the server runs, by command and by HTTP: in force within a second."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config, create_key, keys
from tests.support.upstream.process import Upstream

WITHIN = 20.0
"""Seconds until a change is in force, on a busy machine. `tests/auth/test_keys.py` checks the promised second."""


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(config(model("plain"), model("second"), model("slow", "gate=0")))


def status(served: Proxy, secret: str, **body: Any) -> tuple[int, str | None]:
    headers = {"authorization": f"Bearer {secret}"}
    whole = {"messages": [{"role": "user", "content": "hi"}], **body}
    answer = served.client.post("/v1/chat/completions", json=whole, headers=headers)
    code = answer.json()["error"]["code"] if answer.status_code != 200 else None
    return answer.status_code, code


def wait_for_status(served: Proxy, secret: str, wanted: tuple[int, str | None], **body: Any) -> None:
    until(lambda: status(served, secret, **body) == wanted, f"{wanted}", within=WITHIN)


OK = (200, None)
UNKNOWN = (401, "invalid_api_key")
BLOCKED = (401, "key_blocked")


# --- by command -----------------------------------------------------------------------------------


def test_a_key_created_by_command_works_immediately(served: Proxy) -> None:
    made = create_key(served.database, "by-command")
    assert made["key"].startswith("sk-")
    assert len(made["key"]) >= 43
    assert made["project"] == "by-command"
    wait_for_status(served, made["key"], OK)
    assert served.rows(project="by-command")[0]["key_id"] == made["key_id"]


def test_blocking_and_unblocking_by_command_take_effect_within_a_second(served: Proxy) -> None:
    made = create_key(served.database)
    wait_for_status(served, made["key"], OK)
    keys(served.database, "block", made["key_id"])
    wait_for_status(served, made["key"], BLOCKED)
    keys(served.database, "unblock", made["key_id"])
    wait_for_status(served, made["key"], OK)


def test_rotating_by_command_ends_the_old_secret_and_keeps_the_key(served: Proxy) -> None:
    made = create_key(served.database, "rotating")
    wait_for_status(served, made["key"], OK)
    rotated = json.loads(keys(served.database, "rotate", made["key_id"], "--json").stdout)
    assert rotated["key"] != made["key"]
    assert rotated["key_id"] == made["key_id"]
    wait_for_status(served, rotated["key"], OK)
    wait_for_status(served, made["key"], UNKNOWN)
    overlapped = json.loads(
        keys(served.database, "rotate", made["key_id"], "--overlap", "1h", "--json").stdout
    )
    wait_for_status(served, overlapped["key"], OK)
    assert status(served, rotated["key"]) == OK, "both work in the overlap"
    assert {row["key_id"] for row in served.rows(project="rotating")} == {made["key_id"]}


def test_deleting_by_command_is_permanent(served: Proxy) -> None:
    made = create_key(served.database, "leaving")
    wait_for_status(served, made["key"], OK)
    keys(served.database, "delete", made["key_id"])
    wait_for_status(served, made["key"], UNKNOWN)
    assert served.rows(project="leaving"), "what it used stays on record"


def test_an_update_by_command_changes_what_the_key_may_use(served: Proxy) -> None:
    made = create_key(served.database)
    wait_for_status(served, made["key"], OK, model="second")
    keys(served.database, "update", made["key_id"], "--models", "plain")
    wait_for_status(served, made["key"], (404, "model_not_found"), model="second")
    assert status(served, made["key"], model="plain") == OK


def test_the_command_never_shows_a_secret_again(served: Proxy) -> None:
    made = create_key(served.database)
    for arguments in (
        ("list",),
        ("list", "--json"),
        ("show", made["key_id"]),
        ("show", made["key_id"], "--json"),
    ):
        assert made["key"] not in keys(served.database, *arguments).stdout
    done = keys(served.database, "show", "key_nobody", check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


# --- by HTTP --------------------------------------------------------------------------------------


def test_a_generated_key_has_the_requested_fields(served: Proxy) -> None:
    fields = {
        "duration": "1h",
        "models": ["plain"],
        "max_budget": 1.5,
        "budget_duration": "day",
        "rpm_limit": 100,
        "tpm_limit": 100_000,
        "max_parallel_requests": 3,
        "metadata": {"team": "blue"},
    }
    made = served.new_key("generated", **fields)
    assert made["key_alias"] == "generated"
    assert made["expires"]
    assert status(served, made["key"]) == OK
    assert status(served, made["key"], model="second") == (404, "model_not_found")
    info = served.admin("GET", "/key/info", params={"key_id": made["key_id"]})
    assert info.status_code == 200
    assert made["key"] not in info.text, "the secret appears only once"
    own = served.client.get("/key/info", headers={"authorization": f"Bearer {made['key']}"})
    assert own.status_code == 200
    assert "generated" in own.text
    assert made["key"] not in own.text
    assert made["key"] not in served.admin("GET", "/key/list", params={"size": 1000}).text


def test_a_key_sees_only_itself(served: Proxy) -> None:
    mine, other = served.new_key("mine"), served.new_key("theirs")
    auth = {"authorization": f"Bearer {mine['key']}"}
    answer = served.client.get("/key/info", params={"key_id": other["key_id"]}, headers=auth)
    assert answer.status_code in (403, 404) or other["key_id"] not in answer.text


@pytest.mark.parametrize("by", ["key_id", "key"])
def test_block_unblock_regenerate_and_delete_take_effect_immediately(served: Proxy, by: str) -> None:
    made = served.new_key("hot")
    assert status(served, made["key"]) == OK
    which = {by: made[by]}
    assert served.admin("POST", "/key/block", json=which).status_code == 200
    assert status(served, made["key"]) == BLOCKED
    assert served.admin("POST", "/key/unblock", json=which).status_code == 200
    assert status(served, made["key"]) == OK
    regenerated = served.admin("POST", "/key/regenerate", json=which).json()
    assert status(served, made["key"]) == UNKNOWN
    assert status(served, regenerated["key"]) == OK
    assert regenerated["key_id"] == made["key_id"]
    assert served.admin("POST", "/key/delete", json={"key_id": made["key_id"]}).status_code == 200
    assert status(served, regenerated["key"]) == UNKNOWN


def test_an_update_changes_only_named_fields(served: Proxy) -> None:
    made = served.new_key("updated", models=["plain"], rpm_limit=50)
    answer = served.admin("POST", "/key/update", json={"key_id": made["key_id"], "models": ["second"]})
    assert answer.status_code == 200
    assert status(served, made["key"], model="second") == OK
    assert status(served, made["key"], model="plain")[0] == 404
    info = served.admin("GET", "/key/info", params={"key_id": made["key_id"]}).text
    assert "50" in info


@pytest.mark.parametrize(
    "field",
    [
        {"role": "admin"},
        {"admin": True},
        {"key_id": "key_chosen"},
        {"key": "sk-chosen"},
        {"secret_hash": "x"},
        {"spent": 0},
        {"max_budget": -1},
        {"max_budget": "x"},
        {"rpm_limit": 1.5},
        {"rpm_limit": True},
        {"duration": "soon"},
        {"duration": "-1h"},
        {"models": "plain"},
        {"models": [1]},
        {"budget_duration": "fortnight"},
        {"metadata": []},
        {"key_alias": "no spaces allowed"},
        {"key_alias": 1},
    ],
)
def test_unknown_privileged_and_invalid_fields_are_refused(served: Proxy, field: dict[str, Any]) -> None:
    before = served.admin("GET", "/key/list").json()["total"]
    answer = served.admin("POST", "/key/generate", json={"key_alias": "bad", **field})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == next(iter(field))
    assert served.admin("GET", "/key/list").json()["total"] == before


def test_key_lists_are_paged(served: Proxy) -> None:
    made = [served.new_key("paged")["key_id"] for _ in range(3)]
    first = served.admin("GET", "/key/list", params={"page": 1, "size": 2}).json()
    assert (first["page"], first["size"], len(first["data"])) == (1, 2, 2)
    found: list[str] = []
    for page in range(1, first["total"] // 2 + 2):
        listed = served.admin("GET", "/key/list", params={"page": page, "size": 2}).json()["data"]
        found += [one["key_id"] for one in listed]
    assert len(found) == len(set(found)) == first["total"]
    assert set(made) <= set(found)
    for bad in ({"page": 0}, {"page": "x"}, {"size": 1001}, {"size": -1}):
        assert served.admin("GET", "/key/list", params=bad).status_code == 400


def test_a_key_expires_on_time(served: Proxy) -> None:
    before = time.monotonic()
    made = served.new_key("brief", duration="3s")
    assert status(served, made["key"]) == OK
    until(lambda: status(served, made["key"]) == (401, "key_expired"), "expiry", within=3.0 + WITHIN)
    assert time.monotonic() - before > 2.9


def test_blocking_is_reported_only_to_the_keys_holder(served: Proxy) -> None:
    made = served.new_key("named")
    served.admin("POST", "/key/block", json={"key_id": made["key_id"]})
    assert status(served, made["key"]) == BLOCKED
    assert status(served, made["key"][:-1] + "!") == UNKNOWN


# --- a key's own limits ---------------------------------------------------------------------------


def test_a_keys_rate_limit_is_enforced(served: Proxy) -> None:
    made = served.new_key("rated", rpm_limit=1)
    assert status(served, made["key"]) == OK
    headers = {"authorization": f"Bearer {made['key']}"}
    body = {"messages": [{"role": "user", "content": "hi"}]}
    answer = served.client.post("/v1/chat/completions", json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert answer.json()["error"]["type"] == "requests"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert "x-should-retry" not in answer.headers
    assert answer.headers["x-ratelimit-limit-requests"] == "1"


def test_a_keys_budget_is_enforced(served: Proxy, upstream: Upstream) -> None:
    made = served.new_key("budgeted", max_budget=0.00001)
    code, word = status(served, made["key"])
    assert (code, word) == (429, "insufficient_quota")
    assert upstream.journal.requests() == []


def test_the_model_list_shows_the_keys_models(served: Proxy) -> None:
    made = served.new_key("listed", models=["sec*"])
    headers = {"authorization": f"Bearer {made['key']}"}
    listed = served.client.get("/v1/models", headers=headers).json()["data"]
    assert [one["id"] for one in listed] == ["second"]
    assert status(served, made["key"])[0] in (200, 404)
    assert status(served, made["key"], model="second") == OK
